"""Scores of given tokens: nats, and whether greedy decoding would write them, for answers to prompts and for batches.

Whoever scores is a function, `Score`; `model_score` makes one of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.evaluation.bits import pack_windows
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import Model

Score = Callable[[np.ndarray, np.ndarray, np.ndarray, Spans], tuple[Any, Any]]
"""Function of tokens, targets, positions and spans, [rows, T] each: nats of the targets, and whether they are the
likeliest tokens, [rows, T] each."""

_BATCH_ROWS = 8


class TokenScores(NamedTuple):
    """Scores of consecutive tokens, each given all before it that its position sees; [n] or [rows, T]."""

    nll: np.ndarray  # nats, float64
    likeliest: np.ndarray  # bool: greedy decoding would write this token


def model_score(config: Model, params: Any) -> Score:
    """Return the function that scores tokens by a model."""
    return partial(_score, config, params)


def score_rows(
    score: Score, tokens: np.ndarray, targets: np.ndarray, positions: np.ndarray, spans: Spans
) -> TokenScores:
    """Score rows [B, T] in batches of one shape."""
    nll, likeliest = [], []
    for first in range(0, len(tokens), _BATCH_ROWS):
        # The last batch is filled with earlier rows.
        index = np.arange(first, first + _BATCH_ROWS) % len(tokens)
        chunk = score(tokens[index], targets[index], positions[index], Spans(spans.start[index], spans.stop[index]))
        count = min(_BATCH_ROWS, len(tokens) - first)
        nll.append(np.asarray(chunk[0])[:count].astype(np.float64))
        likeliest.append(np.asarray(chunk[1])[:count])
    return TokenScores(np.concatenate(nll), np.concatenate(likeliest))


def score_answers(score: Score, pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int) -> list[TokenScores]:
    """Score each (prompt, answer) pair of at most `seq_len` + 1 tokens; short ones share rows, unseen by each other.

    Returns:
      The scores of each answer's tokens, [len(answer)].
    """
    lengths = [len(prompt.tokens) + len(answer) - 1 for prompt, answer in pairs]
    if lengths and max(lengths) > seq_len:
        raise ValueError(f"a prompt and its answer have {max(lengths) + 1} tokens, more than {seq_len + 1}")
    rows = pack_windows(lengths, seq_len)
    shape = (len(rows), seq_len)
    tokens, targets, positions = (np.zeros(shape, np.int32) for _ in range(3))
    start = np.tile(np.arange(seq_len, dtype=np.int32), (len(rows), 1))
    stop = start + 1
    place = {}
    for row, column, index in _places(rows, lengths):
        prompt, answer = pairs[index]
        both, stretch = [*prompt.tokens, *answer], slice(column, column + lengths[index])
        tokens[row, stretch], targets[row, stretch] = both[:-1], both[1:]
        positions[row, stretch] = own = np.arange(lengths[index])
        start[row, stretch], stop[row, stretch] = column, column + np.maximum(own + 1, prompt.prefix_length)
        place[index] = row, slice(column + len(prompt.tokens) - 1, column + lengths[index])
    if not rows:
        return []
    scores = score_rows(score, tokens, targets, positions, Spans(start, stop))
    return [TokenScores(scores.nll[place[i]], scores.likeliest[place[i]]) for i in range(len(pairs))]


def _places(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the row, the first column and the index of everything that is packed in rows."""
    for row, indices in enumerate(rows):
        column = 0
        for index in indices:
            yield row, column, index
            column += lengths[index]


@partial(jax.jit, static_argnums=0)
def _score(
    config: Model, params: Any, tokens: jax.Array, targets: jax.Array, positions: jax.Array, spans: Spans
) -> tuple[jax.Array, jax.Array]:
    hidden = models.apply(config, params, tokens, positions, spans)

    def score_row(row: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Score one row at a time, because its logits are [T, V]."""
        hidden, targets = row
        logits = models.logits(config, params, hidden)
        nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return nll, jnp.argmax(logits, axis=-1) == targets

    return jax.lax.map(score_row, (hidden, targets))
