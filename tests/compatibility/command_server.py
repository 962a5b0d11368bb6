"""Not a test: a process that has everything imported, and forks itself for every command line that it is given.

A command must have a process of its own, as a user's has: what one leaves behind in memory is not the next one's. Reads
one JSON object per line, {"argv", "directory", "stdout", "stderr"}; prints the exit status. JAX is imported, not
started.
"""

import importlib
import json
import os
import sys
from typing import NoReturn

from pathways_lite.cli.main import main

# What most commands import, by names that will stay.
for module in ("flax.nnx", "jax.numpy", "matplotlib.figure", "optax", "orbax.checkpoint", "pathways_lite.recipe"):
    importlib.import_module(module)


def run_child(argv: list[str], directory: str, stdout: str, stderr: str) -> NoReturn:
    os.chdir(directory)
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["pathways-lite", *argv]
    status: int | str | None = 0
    try:
        main()
    except SystemExit as error:
        status = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        run_child(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
