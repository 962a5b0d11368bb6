"""Coordinated stopping: a signal that reaches one process stops all of them after the same step.

A flag among the metrics would cost space in every train step, and a barrier at every step would tie the hosts to each
other. Instead, all processes call `should_stop` at the same points in the same order (after each step, between the
batches of an evaluation), and only every k-th call is a rendezvous, through the coordination service. k is chosen at
each rendezvous so that about a second passes until the next, however long a step takes; with steps of a second or more
every step has one. Every process receives the same k, and so reaches the rendezvous at the same call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pathways_lite.distributed import coordination

_INTERVAL = 1.0  # seconds between two rendezvous
_MAX_CALLS = 1000  # calls between two rendezvous

# What a signal leads to, in words for the user.
_USUAL = "saving a checkpoint and stopping"
UNPREPARED = "stopping as soon as the stage is prepared; there is nothing to save yet"
NOTHING_TO_SAVE = "stopping; there is nothing new to save"
AFTER_COMPILING = "stopping after the compilation and the next step, which is saved"
TRAINED = "the stage is trained and saved; stopping after its summary"


class Stop:
    """The stop decision that all processes share.

    Args:
        local_signal: returns the number of the signal that this process has received, 0 if none.
    """

    def __init__(self, local_signal: Callable[[], int]) -> None:
        self._local_signal = local_signal
        self.consequence = _USUAL  # of a signal that arrives now, in words for the user
        self._decision = 0
        self._calls_left = 1  # until the next rendezvous, including that call
        self._last_rendezvous: tuple[float, int] | None = None  # time, and the number of calls until the next
        self._remote_signal = 0  # published by another process

    @property
    def pending_signal(self) -> int:
        """The signal that this process has received or heard of. For use without a rendezvous, e.g. while compiling."""
        return self._local_signal() or self._remote_signal

    @contextmanager
    def instead(self, consequence: str) -> Iterator[None]:
        """Say `consequence` of signals that arrive meanwhile: not every phase of a run can save or stop at once."""
        outer, self.consequence = self.consequence, consequence
        try:
            yield
        finally:
            self.consequence = outer

    def should_stop(self) -> int:
        """Return the signal to stop for, 0 if none; the same in all processes, as all call it equally often."""
        if coordination.process_count() == 1:
            self._decision = self._local_signal()
        elif not self._decision:
            self._calls_left -= 1
            if not self._calls_left:
                self._decision, self._calls_left = coordination.gather_and_decide(self._local_signal(), self._decide)
        return self._decision

    def should_stop_now(self) -> int:
        """Return the same from an immediate rendezvous, on every signal that any process has heard of."""
        self._decision = coordination.max_over_processes(self.pending_signal)
        return self._decision

    def reset_interval(self) -> None:
        """Reset k when the time between calls changes: the next two calls are rendezvous. All processes call it."""
        self._calls_left, self._last_rendezvous = 1, None

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal that stopped the run, as shells have it; 0 if none did."""
        return 128 + self._decision if self._decision else 0

    def exchange_signals(self) -> None:
        """Publish this process's signal and poll those of the others; for a background thread."""
        if number := self._local_signal():
            coordination.publish("stop", str(number))
        self._remote_signal = max((int(number) for number in coordination.poll("stop").values()), default=0)

    def _decide(self, signals: list[int]) -> tuple[int, int]:
        """Decide in process 0: the signal to stop for, and the number of calls until the next rendezvous."""
        now = time.monotonic()
        calls = 1
        if self._last_rendezvous is not None:
            then, previous_calls = self._last_rendezvous
            calls = max(1, min(_MAX_CALLS, round(previous_calls * _INTERVAL / max(now - then, 1e-3))))
        self._last_rendezvous = now, calls
        return max(signals), calls
