"""What users of version 0.1 have: tests reach the library by the command line, files and recipes alone.

Files here that are no tests are importable by those that are.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
