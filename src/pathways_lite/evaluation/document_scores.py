"""Score whole documents with a trained model: embeddings and mean losses, by which documents are selected."""

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
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.models.accounting import flops_per_token
from pathways_lite.parallel.sharding import FULL_BATCH
from pathways_lite.recipe import Stage

Pooling = Literal["mean", "position"]
DocumentCounter = Callable[[int], None]


def embeddings(
    evaluator: StageEvaluator,
    params: Any,
    documents: Iterable[np.ndarray],
    pooling: Pooling,
    *,
    done: DocumentCounter = lambda documents: None,
) -> np.ndarray:
    """Embed documents (int32, [opening token, t1 .. tn]), float32 [n, E]: means of the final-normed last hidden states.

    With pooling "position" tokens weigh 1, 2, 3 ... from the beginning of their window, as later ones have more context
    (SGPT, arXiv 2202.08904). Documents longer than the sequence length are read in windows that do not see each other.
    """
    config, layout = evaluator.stage.model, evaluator.layout

    def values(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        hidden = models.apply(config, params, batch.tokens, batch.positions, batch.spans, layout=layout)
        weights = batch.positions + 1 if pooling == "position" else jnp.ones_like(batch.positions)
        return hidden, weights

    return _means(evaluator, values)(params, documents, done=done)


def mean_losses(
    evaluator: StageEvaluator,
    params: Any,
    documents: Iterable[np.ndarray],
    *,
    done: DocumentCounter = lambda documents: None,
) -> np.ndarray:
    """Compute the nats per token of each document, the end included, float32 [n]; windows as for `embeddings`."""
    config, layout = evaluator.stage.model, evaluator.layout

    def values(params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        nll = models.token_losses(config, params, batch, layout=layout).nll
        return nll[..., None], jnp.ones_like(nll)

    return _means(evaluator, values)(params, documents, done=done)[:, 0]


def forward_flops(stage: Stage, tokens: int) -> int:
    """Return the model FLOPs of reading n tokens: a third of those of training on them."""
    return flops_per_token(stage.model, stage.data.seq_len) // 3 * tokens


def _means(evaluator: StageEvaluator, values: Callable[[Any, Batch], tuple[jax.Array, jax.Array]]) -> DocumentMeans:
    layout = evaluator.layout
    return DocumentMeans(
        values,
        rows=evaluator.scorer.rows,
        seq_len=evaluator.stage.data.seq_len,
        place=partial(layout.place_batch, share=FULL_BATCH),
        collect=lambda sums: layout.constrain(sums, None, None, None),
        end=evaluator.store.frame.end,
    )
