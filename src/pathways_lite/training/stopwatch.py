"""Wall-clock time by what it is spent on, for the ledger's goodput."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pathways_lite.ledger import Seconds


class Stopwatch:
    """Every second since construction belongs to exactly one account of `Seconds`; `other` when none is named."""

    def __init__(self, before: Seconds | None = None) -> None:
        self._seconds = before or Seconds()
        self._account = "other"
        self._since = time.perf_counter()

    @property
    def seconds(self) -> Seconds:
        """The accounts up to now."""
        self._settle()
        return self._seconds

    @contextmanager
    def account(self, name: str) -> Iterator[None]:
        """Book the time inside to `name` (train, compile, save, evaluate); the innermost account wins."""
        self._settle()
        outer, self._account = self._account, name
        try:
            yield
        finally:
            self._settle()
            self._account = outer

    def _settle(self) -> None:
        now = time.perf_counter()
        self._seconds = self._seconds.plus(**{self._account: now - self._since})
        self._since = now
