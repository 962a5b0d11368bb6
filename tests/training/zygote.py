"""Not a test: a process that has everything imported and forks itself for every command line it is given.

Reads one JSON object per line, {"argv": [...], "output": path, "environment": {...}}; prints the child's pid at once
and its exit status when it has ended (negative: the signal that killed it). JAX is imported but not started before.
"""

import json
import os
import sys

import pathways_lite.tracking.peak
import pathways_lite.training.run
from pathways_lite.cli.main import main
from pathways_lite.training import final_evaluation

# What comes after the last step has tests of its own, and takes longer than the steps.
pathways_lite.tracking.peak.measured_peak = lambda dtype: 1e11
pathways_lite.training.run._draw = lambda run: None
final_evaluation._sample = lambda setup, params, domain: {"prompt": "", "text": domain}


def run_child(argv: list[str], output: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["pathways-lite", *argv]
    status = 0
    try:
        main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        run_child(**request)
    tell("pid", pid)
    tell("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
