"""Held-out bits per byte: how well a model predicts whole documents it was not trained on.

A document is [EOD, t1 .. tn]. It is scored as the n + 1 predictions t1 .. tn, EOD: the closing EOD is the next
document's opening one, so that every held-out token is predicted exactly once and the total is the length of a code
from which the documents, and where each ends, could be restored. Where BOS opens documents and EOS closes them, the
predictions are t1 .. tn, EOS, for the same reason: EOS counts as the closing EOD does, and BOS, which always follows
it, does not.

A document longer than the sequence length L is cut into windows of L predictions, at offsets counted from its
own beginning. A window begins without the text before it (like the cut first document of a training sequence),
except for the last `overlap` tokens of the previous window, which are read but not scored again: then every token
after the first L sees at least `overlap` tokens, at L / (L - overlap) times the cost. Windows never
see each other, so a document's score depends only on the document: not on the batch size, not on its row.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch


@dataclass(frozen=True)
class HeldOutLoss:
    """The code length of some held-out documents under a model. Adds up over documents and domains."""

    nll: float = 0.0  # nats, summed in float64
    tokens: int = 0
    bytes: int = 0  # UTF-8 bytes of the documents' text
    documents: int = 0
    lossy: bool = False  # the tokens do not give the text back, so that bits per byte are not a code length
    overlap: int = 0  # tokens of context that the later windows of a long document had

    def __add__(self, other: HeldOutLoss) -> HeldOutLoss:
        return HeldOutLoss(
            self.nll + other.nll,
            self.tokens + other.tokens,
            self.bytes + other.bytes,
            self.documents + other.documents,
            self.lossy or other.lossy,
            max(self.overlap, other.overlap),
        )

    @property
    def loss(self) -> float:
        """Mean nats per token; NaN where there are no documents."""
        return self.nll / self.tokens if self.tokens else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of text, comparable between tokenizers; NaN where there is no text."""
        return self.nll / (math.log(2) * self.bytes) if self.bytes else math.nan

    @property
    def perplexity(self) -> float:
        """Perplexity per token; infinite where it exceeds the range of a float."""
        return math.exp(self.loss) if not self.loss > 709 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return the sums, the three quotients that people read, and `lossy` and `overlap` where they are not 0."""
        quotients = {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "perplexity": self.perplexity}
        sums = asdict(self)
        for name in ("lossy", "overlap"):
            if not sums[name]:
                del sums[name]
        return quotients | sums


class ScoredDocument(NamedTuple):
    """A document to score."""

    tokens: np.ndarray  # int32; the first one opens it, and none closes it
    text_bytes: int  # UTF-8 bytes of the text of tokens[1:]
    is_whole: bool = True  # False for the beginning of a document, after which no end is predicted
    end: int | None = None  # the token that is predicted after a whole document; None: the one that opens it

    @property
    def predictions(self) -> int:
        """Number of tokens that are predicted: all but the opening one, and the end of a whole document."""
        return len(self.tokens) - (not self.is_whole)

    def windows(self, length: int, overlap: int = 0) -> list[Window]:
        """Cut the predictions into windows: see `split_windows`."""
        return split_windows(self.tokens, length, overlap, is_whole=self.is_whole, end=self.end)


class Evaluator:
    """Scorer of held-out documents, in batches of one fixed shape, so that it compiles once.

    Args:
        token_losses: pure function from (params, Batch) to negative log-likelihoods in nats, float32 [rows, seq_len].
        rows: sequences per batch. It changes speed and memory, not the result (up to float32 rounding).
        seq_len: tokens per sequence, L.
        overlap: tokens of context that a long document's window repeats, 0 <= overlap < L.
        place: puts a NumPy batch on the parameters' devices.
    """

    def __init__(
        self,
        token_losses: Callable[[Any, Batch], jax.Array],
        *,
        rows: int,
        seq_len: int,
        overlap: int = 0,
        place: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        if not 0 <= overlap < seq_len:
            raise ValueError(f"overlap={overlap} must be at least 0 and less than seq_len={seq_len}")
        self._token_losses = jax.jit(token_losses)
        self.rows, self.seq_len, self._overlap = rows, seq_len, overlap
        self._place = place

    def __call__(
        self,
        params: Any,
        documents: Iterable[tuple[np.ndarray, int] | ScoredDocument],
        *,
        between_batches: Callable[[int, int], None] | None = None,
    ) -> HeldOutLoss:
        """Score `documents`: `ScoredDocument`s, or pairs of their first two fields.

        `between_batches` is called with (batches done, all batches) after each one; an exception that it raises
        ends the evaluation.
        """
        windows: list[Window] = []
        count, tokens, text_bytes = 0, 0, 0
        for document in (ScoredDocument(*fields) for fields in documents):
            windows.extend(document.windows(self.seq_len, self._overlap))
            tokens, text_bytes = tokens + document.predictions, text_bytes + document.text_bytes
            count += 1
        rows = pack_windows([len(window.tokens) for window in windows], self.seq_len)
        batches = self._batches(windows, rows)
        nll = self.sum_losses(params, batches, math.ceil(len(rows) / self.rows), between_batches=between_batches)
        return HeldOutLoss(nll, tokens, text_bytes, count, overlap=self._overlap)

    def token_losses(self, params: Any, documents: Iterable[ScoredDocument]) -> list[np.ndarray]:
        """Return the nats of each document's predictions, float32 [n + 1]: t1 .. tn, and the end.

        They are those that a call sums, to the bit where the documents are the same. Of the beginning of a document
        there are n.
        """
        owned = [
            (number, window)
            for number, document in enumerate(ScoredDocument(*fields) for fields in documents)
            for window in document.windows(self.seq_len, self._overlap)
        ]
        rows = pack_windows([len(window.tokens) for _, window in owned], self.seq_len)
        scored: list[np.ndarray] = [np.zeros(0, np.float32)] * len(owned)
        for number, batch in enumerate(self._batches([window for _, window in owned], rows)):
            losses = np.asarray(self._token_losses(params, self._place(batch)))
            for row, indices in zip(losses, rows[number * self.rows : (number + 1) * self.rows], strict=False):
                end = 0
                for index in indices:
                    end += len(owned[index][1].tokens)
                    scored[index] = row[end - owned[index][1].scored : end]
        parts: list[list[np.ndarray]] = [[] for _ in range(1 + max((number for number, _ in owned), default=-1))]
        for (number, _), losses in zip(owned, scored, strict=True):
            parts[number].append(losses)
        return [np.concatenate(part) for part in parts]

    def sum_losses(
        self,
        params: Any,
        batches: Iterable[Batch],
        count: int,
        *,
        between_batches: Callable[[int, int], None] | None = None,
    ) -> float:
        """Sum the nats of all positions that carry loss in `count` batches [rows, seq_len]."""
        nll = 0.0
        for batch, losses in self.losses(params, batches, count, between_batches=between_batches):
            nll += float(np.sum(losses, where=batch.loss_weights > 0))
        return nll

    def losses(
        self,
        params: Any,
        batches: Iterable[Batch],
        count: int,
        *,
        between_batches: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Yield each of `count` batches with the nats of its positions, float64 [rows, seq_len].

        At positions without loss they have no meaning and may not even be finite.
        """
        for done, batch in enumerate(batches, 1):
            yield batch, np.asarray(self._token_losses(params, self._place(batch)), np.float64)
            if between_batches is not None:
                between_batches(done, count)

    def _batches(self, windows: Sequence[Window], rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        for first in range(0, len(rows), self.rows):
            batch_rows = [[windows[i] for i in row] for row in rows[first : first + self.rows]]
            yield windows_to_batch(batch_rows, self.rows, self.seq_len)


class Window(NamedTuple):
    """A chunk of a document, at most L tokens."""

    tokens: np.ndarray  # int32 [n], inputs
    targets: np.ndarray  # int32 [n]
    scored: int  # number of predictions that carry loss, the last ones


def split_windows(
    document: np.ndarray, length: int, overlap: int = 0, *, is_whole: bool = True, end: int | None = None
) -> list[Window]:
    """Cut a document's n + 1 predictions into windows of at most `length`; each is scored in exactly one window.

    The last one is `end`, by default the document's first token. Of the beginning of a document (`is_whole=False`)
    there are n predictions: no end follows.
    """
    targets = np.append(document[1:], document[:1] if end is None else document.dtype.type(end))
    if not is_whole:
        document, targets = document[:-1], targets[:-1]
    windows, scored_to = [], 0
    while scored_to < len(document):
        start = max(0, scored_to - overlap)
        stop = min(start + length, len(document))
        windows.append(Window(document[start:stop], targets[start:stop], stop - scored_to))
        scored_to = stop
    return windows


def pack_windows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack windows into rows of at most `capacity`, given their lengths; return the rows' window indices.

    Best-fit decreasing: the longest window first, each into the fullest row with room for it. It needs at most about
    11/9 of the smallest possible number of rows (Johnson 1974).
    """
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[int]] = {}  # space left -> rows
    spaces: list[int] = []  # the keys of `rows_by_space`, sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fit = bisect.bisect_left(spaces, lengths[index])
        if fit == len(spaces):
            rows.append([])
            row, space = len(rows) - 1, capacity
        else:
            space = spaces[fit]
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                del rows_by_space[space], spaces[fit]
        rows[row].append(index)
        space_left = space - lengths[index]
        if space_left not in rows_by_space:
            rows_by_space[space_left] = []
            bisect.insort(spaces, space_left)
        rows_by_space[space_left].append(row)
    return rows


def windows_to_batch(rows: Sequence[Sequence[Window]], n_rows: int, length: int) -> Batch:
    """Write rows of windows into a Batch [n_rows, length], padded: no loss, each position sees only itself."""
    shape = (n_rows, length)
    tokens, targets, positions = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    start = np.tile(np.arange(length, dtype=np.int32), (n_rows, 1))
    stop = start + 1
    for r, row in enumerate(rows):
        begin = 0
        for window in row:
            end = begin + len(window.tokens)
            tokens[r, begin:end], targets[r, begin:end] = window.tokens, window.targets
            positions[r, begin:end] = np.arange(end - begin)
            weights[r, end - window.scored : end] = 1
            start[r, begin:end] = begin
            begin = end
    domain, sample_id = np.zeros(n_rows, np.int32), np.zeros((n_rows, 2), np.uint32)
    return Batch(tokens, targets, weights, positions, Spans(start, stop), domain, sample_id)
