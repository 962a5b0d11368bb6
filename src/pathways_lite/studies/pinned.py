"""Replace this process by a command that is pinned to cores and gets SIGTERM when its parent dies.

    python -m pathways_lite.studies.pinned PARENT_PID CORES COMMAND ...

CORES is a comma-separated list, or `all`. XLA starts as many threads as the affinity has cores.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, cores: str, command: list[str]) -> None:
    """Pin this process to `cores`, tie it to the process `parent`, and execute `command`."""
    if cores != "all" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it has died already
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
