"""A fork server: start the command line in many processes, each without paying for the imports again."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from helpers import subprocess_environment


class ForkServer:
    """A server process that forks a child for each command line. Only one child runs at a time."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.fork_server_main"],
            env=subprocess_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._child: int | None = None

    def start(self, *argv: object, **environment: str) -> int:
        """Start `pathways-lite ARGV...` and return its pid. A child that a failed test left behind is killed first."""
        assert self.process.stdin is not None
        if self._child is not None:
            self.kill()
            self.wait()
        self.output.unlink(missing_ok=True)
        request = {"argv": list(map(str, argv)), "output": str(self.output), "environment": environment}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self._child = int(self._answer("pid"))
        return self._child

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the child a signal, unless it has ended by itself."""
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def wait(self) -> int:
        """Wait for the child to end and return its exit status; -9 if it was killed."""
        status = int(self._answer("status"))
        self._child = None
        return status

    def run(self, *argv: object) -> int:
        """Run `pathways-lite ARGV...` to its end and return its exit status."""
        self.start(*argv)
        return self.wait()

    @property
    def ended(self) -> bool:
        """Whether the child's process is gone."""
        return not Path(f"/proc/{self._child}").exists()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> bool:
        """Return whether the condition came true before the child ended. Raises TimeoutError if neither happens."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            ended = self.ended
            if condition():
                return True
            if ended:
                return False
            time.sleep(0.01)
        raise TimeoutError(self.output.read_text())

    def wait_for(self, text: str) -> None:
        """Wait until the child has printed `text`; fail if it ends without."""
        printed = self.wait_until(lambda: self.output.exists() and text in self.output.read_text())
        assert printed, f"{text!r} not in: {self.output.read_text()}"

    def close(self) -> None:
        """End the server process."""
        self.process.kill()
        self.process.wait()

    def _answer(self, kind: str) -> str:
        assert self.process.stdout is not None
        word, value = self.process.stdout.readline().split()
        assert word == kind
        return value
