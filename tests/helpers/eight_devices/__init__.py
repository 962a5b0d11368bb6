"""Scripts for eight simulated CPU devices. JAX fixes the number of devices at its start, so each is a process."""

import subprocess
import sys

from helpers import subprocess_environment


def run_on_eight_devices(script: str, *cases: str) -> str:
    """Run `python -m helpers.eight_devices.SCRIPT CASE...` and return the last line of its output."""
    command = [sys.executable, "-m", f"{__name__}.{script}", *cases]
    process = subprocess.run(command, env=subprocess_environment(), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout.splitlines()[-1]
