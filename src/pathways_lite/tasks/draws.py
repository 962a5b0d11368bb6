"""Random draws by key, the same on every machine, and the split of groups into training and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pathways_lite.keyed import derive_keys, random_words

_BLOCK = 32


class Draws:
    """A stream of random draws that is a pure function of a purpose, a seed and a number.

    Python's `random` promises the same `random()` in all versions, but not the same choices and shuffles; these are
    made of words of `keyed` alone.
    """

    def __init__(self, purpose: str, seed: int, number: int = 0) -> None:
        self._key = derive_keys(purpose, seed, np.array([number]))  # as an array: scalars warn where they wrap
        self._words: list[int] = []
        self._blocks = 0

    def word(self) -> int:
        """Return 64 random bits."""
        if not self._words:
            start = self._blocks * _BLOCK
            self._words = random_words(self._key, 0, np.arange(start, start + _BLOCK)).tolist()[::-1]
            self._blocks += 1
        return self._words.pop()

    def below(self, stop: int) -> int:
        """Return an integer in [0, stop); its bias is below stop / 2**64."""
        return self.word() * stop >> 64

    def between(self, first: int, last: int) -> int:
        """Return an integer in [first, last]."""
        return first + self.below(last - first + 1)

    def chance(self, share: float) -> bool:
        """Return True with probability `share`."""
        return (self.word() >> 11) * 2.0**-53 < share

    def choice[T](self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.below(len(items))]

    def shuffled[T](self, items: Sequence[T]) -> list[T]:
        """Return the items in random order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


def is_test_group(family: str, group: str, share: float) -> bool:
    """Return whether a group belongs to the test split: its keyed hash is in the lowest `share`.

    The seed of the problems does not enter, so problems of one seed are not in training documents of another.
    """
    number = int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "little")
    return Draws(f"tasks.split/{family}", 0, number).chance(share)
