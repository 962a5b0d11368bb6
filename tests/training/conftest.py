"""`zygotes` and `bigram` are importable by the test files here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
