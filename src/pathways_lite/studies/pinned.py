"""Become another program, on some of the machine's cores, which is asked to stop when its parent dies.

    python -m pathways_lite.studies.pinned PARENT_PID CORES COMMAND ...

CORES is a list with commas, or `all`. XLA makes as many threads as there are cores in the affinity.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, cores: str, command: list[str]) -> None:
    if cores != "all" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before
            sys.exit(128 + signal.SIGTERM)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
