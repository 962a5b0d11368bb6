"""The order of the training examples: arithmetic on the example's number, without state.

Token windows of all domains are numbered together, 0 .. n-1. Epoch e visits them in the order of a keyed permutation
whose key is derived from the seed and e, so example number x is window `permutation(x % n)` of epoch `x // n`.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from pathways_lite.keyed import splitmix64
from pathways_lite.ledger import Timeline

_ROUNDS = 10  # Luby & Rackoff need 4 with ideal round functions; ours are mixers on few bits

Skips = Sequence[tuple[int, int]]
"""`(at_step, n_sequences)` pairs: from step `at_step` on, the data order is `n_sequences` further ahead."""


def round_keys(*context: int) -> np.ndarray:
    """Derive independent uint64 keys, one per Feistel round, from the integers of `context`."""
    text = "/".join(map(str, context)).encode()
    digest = hashlib.shake_256(text).digest(8 * _ROUNDS)
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def permute(x: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Apply a keyed permutation of `[0, n)` to every element of `x` (integers in `[0, n)`, any shape); returns int64.

    A Feistel network permutes the smallest power of two that holds n; values outside `[0, n)` are permuted again
    until they are inside (cycle walking: Black & Rogaway, CT-RSA 2002), fewer than two passes on average.
    """
    bits = max(2, (n - 1).bit_length())
    out = _feistel(np.asarray(x).astype(np.uint64), bits, keys)
    outside = out >= n
    while outside.any():
        out[outside] = _feistel(out[outside], bits, keys)
        outside = out >= n
    return out.astype(np.int64)


def unpermute(y: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """Apply the inverse of `permute`: `unpermute(permute(x, n, keys), n, keys)` is x; returns int64."""
    bits = max(2, (n - 1).bit_length())
    out = _unfeistel(np.asarray(y).astype(np.uint64), bits, keys)
    outside = out >= n
    while outside.any():
        out[outside] = _unfeistel(out[outside], bits, keys)
        outside = out >= n
    return out.astype(np.int64)


def _feistel(x: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """Apply an unbalanced Feistel network over `bits` bits; the halves swap their widths every round."""
    low_bits = bits // 2
    high_bits = bits - low_bits
    for key in keys:
        low = x & np.uint64((1 << low_bits) - 1)
        high = (x >> np.uint64(low_bits)) ^ (splitmix64(low ^ key) >> np.uint64(64 - high_bits))
        x = (low << np.uint64(high_bits)) | high
        low_bits, high_bits = high_bits, low_bits
    return x


def _unfeistel(y: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    """Undo `_feistel`, round by round."""
    widths = bits // 2, bits - bits // 2
    for number, key in reversed(list(enumerate(keys))):
        low_bits, high_bits = widths if number % 2 == 0 else widths[::-1]
        low = y >> np.uint64(high_bits)
        mixed = y & np.uint64((1 << high_bits) - 1)
        high = mixed ^ (splitmix64(low ^ key) >> np.uint64(64 - high_bits))
        y = (high << np.uint64(low_bits)) | low
    return y


class ExampleLocation(NamedTuple):
    """Locations of examples in the corpus, int64 arrays of one shape."""

    epoch: np.ndarray
    domain: np.ndarray
    window: np.ndarray  # index of the token window in the domain


class Order:
    """The keyed order over the token windows of all domains.

    With `of_round` below 1 an epoch ends after that share of its permutation. Each epoch is then a fresh random subset
    of all windows: RS2 with replacement (Okanovic et al. 2023, arXiv 2305.18424). RS2 without replacement is ordinary
    training for that share of the epochs.
    """

    def __init__(self, windows_per_domain: Sequence[int], seed: int, of_round: float = 1.0) -> None:
        self._ends = np.cumsum(np.asarray(windows_per_domain, dtype=np.int64))
        self._seed = seed
        self.n_windows = int(self._ends[-1]) if len(self._ends) else 0
        if self.n_windows < 1:
            raise ValueError("an order needs at least one window")
        self._epoch_length = max(1, round(of_round * self.n_windows))

    def locate(self, examples: np.ndarray) -> ExampleLocation:
        """Return epoch, domain and window of each global example number (non-negative integers)."""
        examples = np.asarray(examples, dtype=np.int64)
        epoch, position = np.divmod(examples, self._epoch_length)
        number = np.empty_like(position)
        for e in np.unique(epoch):
            in_epoch = epoch == e
            number[in_epoch] = permute(position[in_epoch], self.n_windows, round_keys(self._seed, int(e)))
        domain = np.searchsorted(self._ends, number, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        return ExampleLocation(epoch, domain, number - starts[domain])

    def examples_of(self, domain: int, window: int, begin: int, end: int) -> list[int]:
        """Return the examples among begin .. end-1 that are this window, ascending: the inverse of `locate`."""
        number = np.array([window + (int(self._ends[domain - 1]) if domain else 0)])
        examples = []
        for epoch in range(begin // self._epoch_length, -(-end // self._epoch_length)):
            position = int(unpermute(number, self.n_windows, round_keys(self._seed, epoch))[0])
            if position < self._epoch_length:
                examples.append(epoch * self._epoch_length + position)
        return [example for example in examples if begin <= example < end]


def first_example(timeline: Timeline, step: int, skips: Skips = (), first_sequence: int = 0) -> int:
    """Return the global number of the first example that no step before `step` has begun, in closed form.

    It is the sum of the batch sizes before `step` (PaLM section 5) and of every skip that has taken effect (PaLM
    section 5.1: after a spike the data skips 200 to 500 batches, the step counter does not).
    """
    skipped = sum(n for at_step, n in skips if at_step <= step)
    return first_sequence + timeline.sequences_before(step) + skipped


class RowLocation(NamedTuple):
    """Where the rows of a batch begin, int64 [B] each."""

    example: np.ndarray  # global number of the example
    offset: np.ndarray  # tokens of the example before the row; 0 unless a warm-up cuts examples into several rows


def locate_rows(
    timeline: Timeline, step: int, rows: np.ndarray | slice | None = None, skips: Skips = (), first_sequence: int = 0
) -> RowLocation:
    """Return the example of each row of the batch of `step` (of its `rows` only, if given), and where in it it begins.

    During a sequence-length warm-up an example is cut into rows of the step's length, one after another.
    """
    phase_rows, length = timeline.sequences_at(step), timeline.seq_len_at(step)
    tokens = timeline.tokens_before(step) + length * np.arange(phase_rows, dtype=np.int64)
    tokens = tokens if rows is None else tokens[rows]
    skipped = sum(n for at_step, n in skips if at_step <= step)
    return RowLocation(first_sequence + skipped + tokens // timeline.seq_len, tokens % timeline.seq_len)


class RowOfExample(NamedTuple):
    """A row that is an example, or a part of one."""

    step: int
    row: int
    offset: int  # tokens of the example before the row


def rows_of_example(
    timeline: Timeline, example: int, steps: int, skips: Skips = (), first_sequence: int = 0
) -> list[RowOfExample]:
    """Return the rows of an example: one, or several where a sequence-length warm-up cuts it.

    None where none of the first `steps` steps reads it, because it is skipped, perhaps.
    """
    length = timeline.seq_len
    begin, end = example * length, (example + 1) * length

    def first_token(step: int) -> int:
        skipped = sum(n for at_step, n in skips if at_step <= step)
        return (first_sequence + skipped) * length + timeline.tokens_before(step)

    def size(step: int) -> int:
        return timeline.sequences_at(step) * timeline.seq_len_at(step)

    step = bisect.bisect_right(range(steps), begin, key=lambda step: first_token(step) + size(step))
    rows = []
    while step < steps and (first := first_token(step)) < end:
        of_step = timeline.seq_len_at(step)
        tokens = range(max(begin, first), min(end, first + size(step)), of_step)
        rows += [RowOfExample(step, (token - first) // of_step, token - begin) for token in tokens]
        step += 1
    return rows


# ---- the data position of a stage ----


@dataclass(frozen=True)
class DataCursor:
    """The data position of every step of a stage, in closed form: the only state of the data pipeline.

    first_sequence: number of the first example of step 0, after those that earlier stages have read.
    consumed: for a mixture, the number of sequences of each domain that earlier stages have read; empty: none.
    skips: `(at_step, n_sequences)`: sequences skipped from a step on, after a spike (PaLM section 5.1).
    """

    first_sequence: int = 0
    skips: tuple[tuple[int, int], ...] = ()
    consumed: tuple[int, ...] = ()

    @property
    def sequences_read(self) -> int:
        """Number of sequences read before step 0, of all domains."""
        return self.first_sequence + sum(self.consumed)

    def sequences_read_by(self, timeline: Timeline, step: int) -> int:
        """Return the number of sequences read before `step`, of all domains, those before step 0 included."""
        return sum(self.consumed) + self.end_example(timeline, step)

    def with_skip(self, at_step: int, sequences: int) -> DataCursor:
        """Return a cursor that skips `sequences` more at `at_step`."""
        return replace(self, skips=(*self.skips, (at_step, sequences)))

    def begin_example(self, timeline: Timeline, step: int) -> int:
        """Return the number of the example in which the batch of `step` begins."""
        return int(locate_rows(timeline, step, slice(1), self.skips, self.first_sequence).example[0])

    def end_example(self, timeline: Timeline, step: int) -> int:
        """Return the number of the first example that the steps before `step` have not read."""
        return first_example(timeline, step, self.skips, self.first_sequence)

    def to_json(self) -> dict[str, Any]:
        content = {"first_sequence": self.first_sequence, "skips": [list(skip) for skip in self.skips]}
        return content | ({"consumed": list(self.consumed)} if self.consumed else {})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DataCursor:
        skips = tuple((int(step), int(n)) for step, n in data["skips"])
        return cls(data["first_sequence"], skips, tuple(data.get("consumed", ())))
