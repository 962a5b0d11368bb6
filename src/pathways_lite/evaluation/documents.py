"""Means over whole documents of what a model says at every token: embeddings, and losses.

Documents are cut and packed as for held-out losses (`evaluation.bits`): longer ones into windows that do not see each
other, shorter ones together into rows. So a document's mean depends on nothing but the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.batch import Batch
from pathways_lite.evaluation.bits import pack_windows, split_windows, to_batch

_BATCHES = 64  # of documents packed together: enough to fill rows well, few enough to show progress


class DocumentMeans:
    """Weighted means over documents, in batches of one shape.

    Args:
        values: (params, Batch) to values [rows, seq_len, F] and their weights [rows, seq_len]. Pure. Neither counts
            where the batch carries no loss: there is no token.
        rows: sequences per batch. It changes speed and memory, not the result (to float32 rounding).
        seq_len: tokens per sequence, and so the longest stretch that the model sees.
        place: puts a batch in NumPy where the parameters' devices want it.
        collect: makes of an array that is spread over devices one that each of them has.
    """

    def __init__(
        self,
        values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]],
        *,
        rows: int,
        seq_len: int,
        place: Callable[[Batch], Batch] = lambda batch: batch,
        collect: Callable[[jax.Array], jax.Array] = lambda sums: sums,
    ) -> None:
        self._sums = jax.jit(lambda params, batch, most: collect(_sums(values, params, batch, most)), static_argnums=2)
        self._rows, self._seq_len, self._place = rows, seq_len, place

    def __call__(
        self, params: Any, documents: Iterable[np.ndarray], *, done: Callable[[int], None] = lambda documents: None
    ) -> np.ndarray:
        """Means of `documents` (int32 tokens that begin with EOD), float32 [n, F]; n > 0.

        `done` is told, as it goes, how many more documents are through.
        """
        means = []
        for some in _stretches(documents, _BATCHES * self._rows * self._seq_len):
            means.append(self._of(params, some))
            done(len(some))
        return np.concatenate(means)

    def _of(self, params: Any, documents: Sequence[np.ndarray]) -> np.ndarray:
        windows = [
            (i, window) for i, document in enumerate(documents) for window in split_windows(document, self._seq_len)
        ]
        rows = pack_windows([len(window.tokens) for _, window in windows], self._seq_len)
        most = 1 << (max(map(len, rows)) - 1).bit_length()  # windows in a row, so that few programs are compiled
        total: Any = 0.0
        for first in range(0, len(rows), self._rows):
            chosen = rows[first : first + self._rows]
            batch = to_batch([[windows[i][1] for i in row] for row in chosen], self._rows, self._seq_len)
            sums = np.asarray(self._sums(params, self._place(batch), most), np.float64)
            owner = np.array([windows[i][0] for row in chosen for i in row])
            place = np.array([(r, s) for r, row in enumerate(chosen) for s in range(len(row))])
            part = np.zeros((len(documents), sums.shape[-1]))
            np.add.at(part, owner, sums[place[:, 0], place[:, 1]])
            total = total + part
        return (total[:, :-1] / total[:, -1:]).astype(np.float32)


def _sums(
    values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]], params: Any, batch: Batch, most: int
) -> jax.Array:
    """Sums over each of the first `most` windows of every row, [rows, most, F + 1]: weighted values, then weights."""
    value, weight = values(params, batch)
    real = batch.loss_weights > 0
    # Where there is no token, the model's output may not even be finite.
    value = jnp.where(real[..., None], value.astype(jnp.float32), 0.0)
    weight = jnp.where(real, weight, 0.0).astype(jnp.float32)
    begins = batch.spans.start == jnp.arange(batch.tokens.shape[1])
    window = jax.nn.one_hot(jnp.cumsum(begins, axis=1) - 1, most) * weight[..., None]
    with_one = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    return jnp.einsum("bts,btf->bsf", window, with_one, precision=jax.lax.Precision.HIGHEST)


def _stretches(documents: Iterable[np.ndarray], tokens: int) -> Iterator[list[np.ndarray]]:
    """The documents in order, in lists of about so many tokens."""
    some: list[np.ndarray] = []
    size = 0
    for document in documents:
        some.append(document)
        size += len(document)
        if size >= tokens:
            yield some
            some, size = [], 0
    if some:
        yield some
