"""Modules that several test files share.

pytest finds the package through `pythonpath` in pyproject.toml. Some modules run in processes of their own:
`eight_devices` holds scripts for eight simulated devices, `fork_server_main` starts command lines.
"""

import os
from pathlib import Path

_TESTS = Path(__file__).parents[1]


def subprocess_environment() -> dict[str, str]:
    """Return this process's environment variables, changed so that `python -m helpers.X` works."""
    paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
