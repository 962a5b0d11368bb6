"""The rule by which a token is drawn from logits, another for every row, without compiling anew.

B rows, V vocabulary. The order is that of most public samplers: divide by the temperature, keep the k likeliest tokens
(top-k), keep the likeliest ones of these that together have probability p (top-p, nucleus sampling: Holtzman et al.
2019, arXiv 1904.09751), drop those less likely than a share of the likeliest one (min-p: Nguyen et al. 2024, arXiv
2407.01082).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pathways_lite.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """The rule by which a token is sampled from logits.

    temperature: 0 takes the likeliest token (greedy); otherwise logits are divided by it.
    top_k: sample only among the k likeliest tokens.
    top_p: sample only among the smallest set of likeliest tokens whose probabilities add up to p or more, after
        temperature and top_k.
    min_p: sample only among tokens that have at least this share of the likeliest token's probability.

    Raises UserError for values out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature} must be at least 0 (0 = always the likeliest token)")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p} must be between 0 and 1")


PLAIN, GREEDY = Sampling(), Sampling(temperature=0.0)


class Rules(NamedTuple):
    """The rules of all rows, as arrays."""

    temperature: jax.Array  # float32 [B]
    top_k: jax.Array  # int32 [B]; 0: all
    top_p: jax.Array  # float32 [B]; 1: all
    min_p: jax.Array  # float32 [B]; 0: all

    @classmethod
    def of(cls, rules: Sequence[Sampling]) -> Rules:
        """Stack the rules of rows."""
        return cls(
            jnp.array([rule.temperature for rule in rules], jnp.float32),
            jnp.array([rule.top_k or 0 for rule in rules], jnp.int32),
            jnp.array([1.0 if rule.top_p is None else rule.top_p for rule in rules], jnp.float32),
            jnp.array([rule.min_p or 0.0 for rule in rules], jnp.float32),
        )


def drawn_log_probs(logits: jax.Array, rules: Rules) -> jax.Array:
    """Return the log probabilities [B, V] of what is drawn; -inf for tokens that never are.

    Of equal logits the lower id counts as the likelier one. `logits` float32 [B, V] may be -inf where a token is
    forbidden.
    """
    greedy = jnp.where(jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1)[:, None], 0.0, -jnp.inf)
    is_greedy = rules.temperature == 0
    scaled = logits / jnp.where(is_greedy, 1.0, rules.temperature)[:, None]
    top_k = jnp.where(rules.top_k > 0, rules.top_k, logits.shape[-1])
    # Whole batches without a filter do not pay for it.
    scaled = lax.cond(
        jnp.any((rules.top_k > 0) & ~is_greedy),
        lambda: _keep_first(scaled, jnp.ones_like(scaled), top_k.astype(jnp.float32)),
        lambda: scaled,
    )
    has_top_p = (rules.top_p < 1) & ~is_greedy
    scaled = lax.cond(
        jnp.any(has_top_p),
        lambda: jnp.where(has_top_p[:, None], _keep_first(scaled, jax.nn.softmax(scaled), rules.top_p), scaled),
        lambda: scaled,
    )
    threshold = jnp.max(scaled, axis=-1) + jnp.log(rules.min_p)
    scaled = jnp.where(scaled < threshold[:, None], -jnp.inf, scaled)
    return jnp.where(is_greedy[:, None], greedy, jax.nn.log_softmax(scaled))


def _keep_first(scores: jax.Array, weights: jax.Array, limit: jax.Array) -> jax.Array:
    """Keep a token [B, V] if those before it weigh less than `limit` [B], from the highest score on; others get -inf.

    Equal scores have equal weights. Without a sort: the lowest score that is kept is found by bisection on the bits of
    floats, whose order is that of integers.
    """
    order = _ordered_bits(scores)

    def weight_above(value: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(order > value[:, None], weights, 0.0), axis=-1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # above `high` there is less than the limit
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, without overflow
        is_less = weight_above(middle) < limit
        return jnp.where(is_less, low, middle), jnp.where(is_less, middle, high)

    least = jnp.full(scores.shape[:1], jnp.iinfo(jnp.int32).min, jnp.int32)
    _, lowest = lax.fori_loop(0, 32, halve, (least, jnp.max(order, axis=-1)))
    is_tied = order == lowest[:, None]
    tied = jnp.where(is_tied, weights, 0.0)
    before = weight_above(lowest)[:, None] + jnp.cumsum(tied, axis=-1) - tied
    return jnp.where((order > lowest[:, None]) | (is_tied & (before < limit[:, None])), scores, -jnp.inf)


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Return int32 numbers in the order of the float32 ones `x`."""
    bits = lax.bitcast_convert_type(x + 0.0, jnp.int32)  # + 0.0 makes -0.0 the same as 0.0
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def draw(keys: jax.Array, log_probs: jax.Array) -> jax.Array:
    """Draw a token int32 [B] per row of `log_probs` [B, V], by a key [B] of its own, so that other rows do not matter.

    By inverting the cumulative distribution: one random number per row, where Gumbel noise would take V.
    """
    cumulative = jnp.cumsum(jnp.exp(log_probs), axis=-1)
    threshold = jax.vmap(jax.random.uniform)(keys) * cumulative[:, -1]
    token = jnp.sum(cumulative <= threshold[:, None], axis=-1)
    # Rounding must not draw a token beyond the last one that has a probability.
    last = log_probs.shape[-1] - 1 - jnp.argmax(log_probs[:, ::-1] > -jnp.inf, axis=-1)
    return jnp.minimum(token, last).astype(jnp.int32)


def draw_key(base: jax.Array, epoch: jax.Array, position: jax.Array) -> jax.Array:
    """Return the key [B] of the draw of each row's token number `position` in its `epoch`."""
    fold = jax.vmap(jax.random.fold_in)
    return fold(fold(base, epoch), position)


def row_keys(key: jax.Array, problem: np.ndarray, sample: np.ndarray) -> jax.Array:
    """Return the keys [B] of samples: of the common key, the problem (uint32) and the sample's number, and no more."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(key, jnp.asarray(problem, jnp.uint32))
    return jax.vmap(jax.random.fold_in)(keys, jnp.asarray(sample, jnp.uint32))
