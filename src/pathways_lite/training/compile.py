"""Compile the train step in the background, while the state is restored and the first batches are read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# During its import, Grain makes all of Python's imports lazy (etils.epy.lazy_imports), in all threads: what JAX
# imports while it traces would fail. So Grain is imported before there is a thread that traces.
import grain  # noqa: F401

from pathways_lite.signals import Interrupted
from pathways_lite.training.components import Components


class StepCompiler:
    """Compiles a stage's train step once for each batch size and sequence length, in a background thread."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._steps: dict[tuple[int, int | None], Future[Any]] = {}

    def start(self, sequences: int, seq_len: int | None = None) -> None:
        """Start to compile for batches of `sequences`, unless that was started before.

        `seq_len`: tokens of each sequence; None: those after a warm-up.
        """
        if (shape := (sequences, seq_len)) not in self._steps:
            self._steps[shape] = future = Future[Any]()
            # A daemon, as native compilation cannot be stopped and must not keep a stopped run from ending.
            threading.Thread(target=self._compile, args=(*shape, future), daemon=True, name="compile").start()

    def get(self, sequences: int, stopped: Callable[[], object], seq_len: int | None = None) -> Any:
        """Return the compiled step. Raises Interrupted once `stopped()` is true, and what the compilation raised."""
        self.start(sequences, seq_len)
        while True:
            try:
                return self._steps[sequences, seq_len].result(timeout=0.05)
            except TimeoutError:
                if stopped():
                    raise Interrupted from None

    def _compile(self, sequences: int, seq_len: int | None, future: Future[Any]) -> None:
        try:
            future.set_result(self._components.compile_step(sequences, seq_len))
        except BaseException as error:
            future.set_exception(error)
