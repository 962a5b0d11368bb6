"""Not a test: starting the command line in processes of its own, many of them and quickly."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ZYGOTE = Path(__file__).parent / "zygote.py"


class Zygote:
    """Starts the command line in processes of its own, one at a time, without paying for the imports each time."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output.txt"
        self.process = subprocess.Popen(
            [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._child: int | None = None

    def start(self, *argv: object, **environment: str) -> int:
        """The pid of a new `pathways-lite ARGV...`. One that nobody waited for, as a test failed, is killed."""
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
        """Send the process a signal, unless it has ended by itself."""
        assert self._child is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    def wait(self) -> int:
        """Its exit status; -9 where it was killed."""
        status = int(self._answer("status"))
        self._child = None
        return status

    def run(self, *argv: object) -> int:
        self.start(*argv)
        return self.wait()

    @property
    def ended(self) -> bool:
        return not Path(f"/proc/{self._child}").exists()

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> bool:
        """Whether the condition came true before the process ended. TimeoutError where neither happens."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            ended = self.ended
            if condition():
                return True
            if ended:
                return False
            time.sleep(0.01)
        raise TimeoutError(self.output.read_text())

    def wait_for(self, text: str) -> None:
        """Until the process has printed `text`."""
        found = self.wait_until(lambda: self.output.exists() and text in self.output.read_text())
        assert found, f"{text!r} not in: {self.output.read_text()}"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self, kind: str) -> str:
        assert self.process.stdout is not None
        word, value = self.process.stdout.readline().split()
        assert word == kind
        return value
