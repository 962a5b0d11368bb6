"""Stopping together: a signal that reaches one process stops all of them after the same step.

A flag among the metrics would cost a place in every train step, and a barrier at every step would tie the hosts to
each other. Instead, all processes ask the same questions in the same order (after each step, between the batches of an
evaluation), and only every k-th question makes them meet, through the coordination service. k is chosen at each
meeting so that about a second passes between two of them, however long a step takes; with steps of a second or more,
that is every step. Every process is told the same k, and so meets at the same question.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pathways_lite.distributed import coordination

_BETWEEN = 1.0  # seconds between two meetings
_MOST = 1000  # questions between two meetings


class Stop:
    """Asks `local`, which gives the number of the signal that this process has received, 0 while there was none."""

    def __init__(self, local: Callable[[], int]) -> None:
        self._local = local
        self._answer = 0
        self._left = 1  # questions until the next meeting, that one included
        self._met: tuple[float, int] | None = None  # when, and with how many questions until the next one
        self._told = 0  # what another process has told of

    @property
    def heard(self) -> int:
        """What this process knows by now: its own signal, or another's. For where they cannot meet, as they compile."""
        return self._local() or self._told

    def should_stop(self) -> int:
        """The signal to stop for, the same answer in all processes, as all ask equally often; 0 while there is none."""
        if coordination.process_count() == 1:
            self._answer = self._local()
        elif not self._answer:
            self._left -= 1
            if not self._left:
                self._answer, self._left = coordination.gather_and_decide(self._local(), self._decide)
        return self._answer

    def should_stop_now(self) -> int:
        """The same, by a meeting of its own, about everything that each process has heard of."""
        self._answer = coordination.max_over_processes(self.heard)
        return self._answer

    def new_pace(self) -> None:
        """To be called by all, before what they do between questions gets slower: they meet at the next two."""
        self._left, self._met = 1, None

    @property
    def exit_status(self) -> int:
        """128 plus the number of the signal that was stopped for, as shells have it; 0 while there was none."""
        return 128 + self._answer if self._answer else 0

    def listen(self) -> None:
        """Tell the others of this process's signal, and hear of theirs; for a thread that does so now and then."""
        if number := self._local():
            coordination.publish("stop", str(number))
        self._told = max((int(number) for number in coordination.poll("stop").values()), default=0)

    def _decide(self, signals: list[int]) -> tuple[int, int]:
        """In process 0: whether to stop, and after how many questions to meet again."""
        now = time.monotonic()
        questions = 1
        if self._met is not None:
            then, asked = self._met
            questions = max(1, min(_MOST, round(asked * _BETWEEN / max(now - then, 1e-3))))
        self._met = now, questions
        return max(signals), questions
