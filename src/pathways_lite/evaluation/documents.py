"""Means over whole documents of a model's values per token, such as embeddings and losses.

Documents are cut and packed as for held-out losses (`evaluation.bits`): long ones into windows that do not see each
other, short ones together into rows. So a document's mean depends only on the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.evaluation.bits import pack_windows, split_windows, windows_to_batch

_BATCHES_PER_CHUNK = 64  # of documents packed together: enough to fill rows well, few enough to show progress


class DocumentMeans:
    """Weighted means over documents, in batches of one shape.

    Args:
        values: pure function from (params, Batch) to values [rows, seq_len, F] and their weights [rows, seq_len].
            Positions without loss hold no token and are ignored.
        rows: sequences per batch. It changes speed and memory, not the result (up to float32 rounding).
        seq_len: tokens per sequence, and so the longest context that the model sees.
        place: puts a NumPy batch on the parameters' devices.
        collect: replicates an array that is sharded over devices.
        end: the token that is predicted after a document; None: the one that opens it.
    """

    def __init__(
        self,
        values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]],
        *,
        rows: int,
        seq_len: int,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        collect: Callable[[jax.Array], jax.Array] = lambda sums: sums,
        end: int | None = None,
    ) -> None:
        self._sums = jax.jit(lambda params, batch, n: collect(_window_sums(values, params, batch, n)), static_argnums=2)
        self._rows, self._seq_len, self._place, self._end = rows, seq_len, place, end

    def __call__(
        self, params: Any, documents: Iterable[np.ndarray], *, done: Callable[[int], None] = lambda documents: None
    ) -> np.ndarray:
        """Return the means of `documents` (int32, [opening token, t1 .. tn]), float32 [n, F]; n > 0.

        `done` is called with the number of documents of each chunk that is finished.
        """
        means = []
        for chunk in _chunk_documents(documents, _BATCHES_PER_CHUNK * self._rows * self._seq_len):
            means.append(self._means(params, chunk))
            done(len(chunk))
        return np.concatenate(means)

    def _means(self, params: Any, documents: Sequence[np.ndarray]) -> np.ndarray:
        windows = [
            (i, window)
            for i, document in enumerate(documents)
            for window in split_windows(document, self._seq_len, end=self._end)
        ]
        rows = pack_windows([len(window.tokens) for _, window in windows], self._seq_len)
        # The most windows of any row, rounded up to a power of two, so that few programs are compiled.
        max_windows = 1 << (max(map(len, rows)) - 1).bit_length()
        total: Any = 0.0
        for first in range(0, len(rows), self._rows):
            batch_rows = rows[first : first + self._rows]
            batch = windows_to_batch([[windows[i][1] for i in row] for row in batch_rows], self._rows, self._seq_len)
            sums = np.asarray(self._sums(params, self._place(batch), max_windows), np.float64)
            document = np.array([windows[i][0] for row in batch_rows for i in row])
            row_and_window = np.array([(r, w) for r, row in enumerate(batch_rows) for w in range(len(row))])
            batch_total = np.zeros((len(documents), sums.shape[-1]))
            np.add.at(batch_total, document, sums[row_and_window[:, 0], row_and_window[:, 1]])
            total = total + batch_total
        return (total[:, :-1] / total[:, -1:]).astype(np.float32)


def _window_sums(
    values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]], params: Any, batch: Batch, n_windows: int
) -> jax.Array:
    """Sum over each of the first `n_windows` windows of every row, [rows, n_windows, F + 1]: values, then weights."""
    value, weight = values(params, batch)
    has_token = batch.loss_weights > 0
    # Without a token the model's output may not even be finite.
    value = jnp.where(has_token[..., None], value.astype(jnp.float32), 0.0)
    weight = jnp.where(has_token, weight, 0.0).astype(jnp.float32)
    begins = batch.spans.start == jnp.arange(batch.tokens.shape[1])
    window = jax.nn.one_hot(jnp.cumsum(begins, axis=1) - 1, n_windows) * weight[..., None]
    with_one = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    return jnp.einsum("bts,btf->bsf", window, with_one, precision=jax.lax.Precision.HIGHEST)


def _chunk_documents(documents: Iterable[np.ndarray], n_tokens: int) -> Iterator[list[np.ndarray]]:
    """Group the documents, in order, into lists of about `n_tokens` tokens."""
    chunk: list[np.ndarray] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= n_tokens:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
