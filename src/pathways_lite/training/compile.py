"""The compiled train step, made in the background: meanwhile the state is restored and the first batches are read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# While it is imported, Grain makes all of Python's imports lazy (etils.epy.lazy_imports), in all threads: what JAX
# imports as it traces would fail. So it comes before there is a thread that traces.
import grain  # noqa: F401

from pathways_lite.training.setup import Setup


class Interrupted(Exception):
    """SIGINT or SIGTERM came; everything up to the last completed step is saved."""


class StepCompiler:
    """Compiles a stage's train step once for each batch size, in a thread of its own."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._steps: dict[int, Future[Any]] = {}

    def start(self, sequences: int) -> None:
        """Begin to compile for batches of `sequences`, unless that has been begun."""
        if sequences not in self._steps:
            self._steps[sequences] = future = Future[Any]()
            # A daemon, as native compilation cannot be stopped and must not keep a stopped run from ending.
            threading.Thread(target=self._compile, args=(sequences, future), daemon=True, name="compile").start()

    def get(self, sequences: int, stopped: Callable[[], object]) -> Any:
        """The compiled step. Raises Interrupted as soon as `stopped()` is true, and whatever the compilation raised."""
        self.start(sequences)
        while True:
            try:
                return self._steps[sequences].result(timeout=0.05)
            except TimeoutError:
                if stopped():
                    raise Interrupted from None

    def _compile(self, sequences: int, future: Future[Any]) -> None:
        try:
            future.set_result(self._setup.compile_step(sequences))
        except BaseException as error:
            future.set_exception(error)
