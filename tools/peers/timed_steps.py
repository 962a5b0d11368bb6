"""Time the steps of one stack in its own process, for tools/bench_peers.py. Standard library alone."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


def settings() -> dict[str, Any]:
    """Return what tools/bench_peers.py asks for: the sizes of the model and of the batch, and the number of steps."""
    return json.loads(sys.argv[1])


def report(run: Callable[[], object], steps: int) -> None:
    """Take a first step and say so, then time `steps` more; `run` takes one step and waits for its end."""
    run()
    print("first step", flush=True)
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "peak_rss_mb": peak}), flush=True)
