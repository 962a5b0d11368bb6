"""What a trained model makes of whole documents: embeddings and losses, by which documents are selected."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.evaluation.documents import DocumentMeans
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.parallel.sharding import FULL_BATCH
from pathways_lite.training.setup import Setup

Pooling = Literal["mean", "position"]
DocumentCounter = Callable[[int], None]


def embeddings(
    setup: Setup,
    params: Any,
    documents: Iterable[np.ndarray],
    pooling: Pooling,
    *,
    done: DocumentCounter = lambda documents: None,
) -> np.ndarray:
    """Embeddings of documents (int32 tokens, EOD first), float32 [n, E]: means of the last hidden states, final-normed.

    With pooling "position" a token counts 1, 2, 3 ... from the beginning of its window on, as later ones have seen more
    (SGPT, arXiv 2202.08904). Documents longer than the sequence length are read in windows that do not see each other.
    """
    config, layout = setup.stage.model, setup.layout

    def values(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        hidden = models.apply(config, params, batch.tokens, batch.positions, batch.spans, layout=layout)
        weights = batch.positions + 1 if pooling == "position" else jnp.ones_like(batch.positions)
        return hidden, weights

    return _means(setup, values)(params, documents, done=done)


def mean_losses(
    setup: Setup, params: Any, documents: Iterable[np.ndarray], *, done: DocumentCounter = lambda documents: None
) -> np.ndarray:
    """Of each document its nats per token, the closing EOD included, float32 [n]; windows as for `embeddings`."""
    config, layout = setup.stage.model, setup.layout

    def values(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        losses = models.token_losses(config, params, batch, layout=layout)[0]
        return losses[..., None], jnp.ones_like(losses)

    return _means(setup, values)(params, documents, done=done)[:, 0]


def forward_flops(setup: Setup, tokens: int) -> int:
    """Model FLOPs of reading so many tokens: a third of those of training on them."""
    return flops_per_token(setup.stage.model, setup.stage.data.seq_len) // 3 * tokens


def _means(setup: Setup, values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]]) -> DocumentMeans:
    layout = setup.layout
    return DocumentMeans(
        values,
        rows=setup.evaluator.rows,
        seq_len=setup.stage.data.seq_len,
        place=partial(layout.place_batch, share=FULL_BATCH),
        collect=lambda sums: layout.constrain(sums, None, None, None),
    )
