"""Makes `t5` importable, and what the tests of objectives share: special tokens, and examples taken apart again."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
