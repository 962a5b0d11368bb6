"""Logits and losses of texts, for those who look at a model from Python: no spans, positions or EODs by hand.

A text is a document of its own, as in training: EOD opens it, so its first token is predicted too, and an EOD is
predicted after its last one. Documents are int32 [n + 1], [EOD, t1 .. tn], as `encode_documents` returns them. Give the
`frame` of a model whose documents BOS opens and EOS closes (`TrainedModel.frame()`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention.spans import causal
from pathways_lite import models
from pathways_lite.data.tokenizers import Tokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.bits import Evaluator, ScoredDocument
from pathways_lite.recipe import Model

_ROWS = 8  # sequences of a batch
_SHORTEST = 32  # lengths are powers of two from here on, so that few programs are compiled


def encode_documents(
    tokenizer: Tokenizer, texts: Iterable[str], *, frame: DocumentFrame | None = None
) -> list[np.ndarray]:
    """Tokenize texts into documents, int32 [n + 1] each, that begin with EOD, or with what opens those of `frame`."""
    opens = np.array([tokenizer.eod if frame is None else frame.opens])
    return [np.concatenate([opens, ids]).astype(np.int32) for ids in tokenizer.encode_batch(list(texts))]


def document_logits(config: Model, params: Any, documents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the logits of the token after each of a document's tokens, float32 [n + 1, V].

    Row 0 is the prediction of the document's first token.
    """
    return [np.asarray(_logits(config, params, _padded(document)))[0, : len(document)] for document in documents]


def document_losses(
    config: Model,
    params: Any,
    documents: Sequence[np.ndarray],
    *,
    seq_len: int | None = None,
    frame: DocumentFrame | None = None,
) -> list[np.ndarray]:
    """Return the nats of each document's predictions, float32 [n + 1]: t1 .. tn, and the end.

    A document is read as a whole, or with `seq_len` in windows of that many tokens, as the held-out evaluation of a
    stage does. That evaluation, in its own batches, is `StageEvaluator.scorer.token_losses`.
    """
    if not documents:
        return []
    length = seq_len or _round_up(max(map(len, documents)))
    end = None if frame is None else frame.end
    scored = [ScoredDocument(document, 0, end=end) for document in documents]
    return _evaluator(config, length).token_losses(params, scored)


@functools.lru_cache(maxsize=16)
def _evaluator(config: Model, seq_len: int) -> Evaluator:
    def nll(params: Any, batch: Any) -> jax.Array:
        return models.token_losses(config, params, batch).nll

    return Evaluator(nll, rows=_ROWS, seq_len=seq_len)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: Model, params: Any, tokens: jax.Array) -> jax.Array:
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    hidden = models.apply(config, params, tokens, positions, causal(rows, length))
    return models.logits(config, params, hidden)


def _padded(document: np.ndarray) -> np.ndarray:
    """Pad a document at its end, int32 [1, T]; no token sees what is after it."""
    tokens = np.zeros((1, _round_up(len(document))), np.int32)
    tokens[0, : len(document)] = document
    return tokens


def _round_up(length: int) -> int:
    return max(_SHORTEST, 1 << (length - 1).bit_length())
