"""Make `attention_contract` importable by the test files of the backends."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
