"""How a model scores given answers to given prompts: likelihood of every token, and whether it is the likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.attention import Spans
from pathways_kernels.attention.spans import full, prefix
from pathways_lite import models
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.recipe import Model

_ROWS = 8


class Scored(NamedTuple):
    """Of an answer's tokens, each given the prompt and those before it; [len(answer)]."""

    nll: np.ndarray  # nats, float64
    likeliest: np.ndarray  # bool: greedy decoding would have written it


def score(config: Model, params: Any, pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int) -> list[Scored]:
    """Score (prompt, answer) pairs of at most `seq_len` + 1 tokens together, in batches of one shape."""
    results = []
    for first in range(0, len(pairs), _ROWS):
        some = pairs[first : first + _ROWS]
        arrays = _rows(some, seq_len)
        nll, likeliest = (np.asarray(x) for x in _score(config, params, *arrays))
        for row, (prompt, answer) in enumerate(some):
            here = slice(len(prompt.tokens) - 1, len(prompt.tokens) - 1 + len(answer))
            results.append(Scored(nll[row, here].astype(np.float64), likeliest[row, here]))
    return results


def _rows(pairs: Sequence[tuple[Prompt, Sequence[int]]], seq_len: int) -> tuple[np.ndarray, np.ndarray, Spans]:
    """Tokens, targets and spans [_ROWS, seq_len]."""
    whole = np.zeros((_ROWS, seq_len + 1), np.int32)
    together = np.zeros(_ROWS, np.int32)
    for row, (prompt, answer) in enumerate(pairs):
        tokens = [*prompt.tokens, *answer]
        if len(tokens) > seq_len + 1:
            raise ValueError(
                f"a prompt of {len(prompt.tokens)} and an answer of {len(answer)} exceed {seq_len + 1} tokens"
            )
        whole[row, : len(tokens)] = tokens
        together[row] = prompt.together
    return whole[:, :-1], whole[:, 1:], prefix(full(_ROWS, seq_len), together)


@partial(jax.jit, static_argnums=0)
def _score(
    config: Model, params: Any, tokens: jax.Array, targets: jax.Array, spans: Spans
) -> tuple[jax.Array, jax.Array]:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    hidden = models.apply(config, params, tokens, positions, spans)

    def row(of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """One row at a time, as its logits are [T, V]."""
        logits = models.logits(config, params, of[0])
        nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, of[1][:, None], axis=-1)[:, 0]
        return nll, jnp.argmax(logits, axis=-1) == of[1]

    return jax.lax.map(row, (hidden, targets))
