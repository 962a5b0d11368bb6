"""The process behind `fork_server.ForkServer`: imports everything once and forks itself for every command line.

Reads one JSON object per line, {"argv": [...], "output": path, "environment": {...}}. Prints the child's pid at once
and its exit status after it has ended (negative: the signal that killed it). JAX is imported but not started before
the fork, so that every child sets its own devices.
"""

import json
import os
import sys

import pytest

from helpers.run_helpers import stub_slow_parts
from pathways_lite.cli.main import main


def run_child(argv: list[str], output: str, environment: dict[str, str]) -> None:
    """Run the command line in this process with its output in a file, and exit."""
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


def reply(*words: object) -> None:
    """Write one line to the test's process."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


stub_slow_parts(pytest.MonkeyPatch())
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        run_child(**request)
    reply("pid", pid)
    reply("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
