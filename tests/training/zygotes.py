"""Not a test: starting the command line in processes of its own, many of them and quickly."""

import json
import subprocess
import sys
import time
from pathlib import Path

ZYGOTE = Path(__file__).parent / "zygote.py"


class Zygote:
    """Starts the command line in processes of its own, without paying for the imports each time."""

    def __init__(self, directory: Path) -> None:
        self.output = directory / "output.txt"
        self.process = subprocess.Popen(
            [sys.executable, ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, *argv: object, **environment: str) -> int:
        """The pid of a new `pathways-lite ARGV...`."""
        assert self.process.stdin is not None
        self.output.unlink(missing_ok=True)
        request = {"argv": list(map(str, argv)), "output": str(self.output), "environment": environment}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self._answer("pid"))

    def wait(self) -> int:
        """Its exit status; -9 where it was killed."""
        return int(self._answer("status"))

    def run(self, *argv: object) -> int:
        self.start(*argv)
        return self.wait()

    def wait_for(self, text: str, timeout: float = 120) -> None:
        """Until the process has printed `text`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if self.output.exists() and text in self.output.read_text():
                return
            time.sleep(0.01)
        raise TimeoutError(f"{text!r} not in: {self.output.read_text()}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answer(self, kind: str) -> str:
        assert self.process.stdout is not None
        word, value = self.process.stdout.readline().split()
        assert word == kind
        return value
