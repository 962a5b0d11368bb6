"""Distributed top-k: select exactly the k largest of numbers that are sharded over devices, without gathering them.

Numbers become unsigned integers in the same order (`order_keys`). Each is extended by its position, the first position
the highest, so that no two are equal. A search finds the k-th largest bit by bit, from the top. Each round counts on
every device the numbers that are not below a candidate, and only counts are communicated. The search ends as soon as
exactly k are not below: after 20 to 30 rounds, or up to 80 where equal numbers must be distinguished. The tolerance is
zero, and the result does not depend on the sharding; only scores that differ by rounding can swap ranks.

Numbers come in sets [S, ...]: S layers with units of any shape. Counts of a set must be below 2^31. Sums over sets take
two words, as the number of weights of a model can exceed 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.pruning.schedules import DENSITIES

Sets = Sequence[jax.Array]
"""An array [sets, ...] for each group."""

KEY, SET, POSITION = range(3)
"""The words of an extended number: its key, its set, and its position in that set."""
BITS = (32, 16, 32)
"""The size of each word."""


def order_keys(scores: jax.Array) -> jax.Array:
    """Map float32 scores to uint32 keys in the same order. -0 equals 0, and NaN is below everything else."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0.0, 0.0, scores), jnp.uint32)
    keys = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
    return jnp.where(jnp.isnan(scores), jnp.uint32(0), keys)


def kept_counts(size: int, density: jax.Array) -> jax.Array:
    """Return `schedules.num_kept` as uint32, for a size below 2^31 and an int32 density in units of 1 / DENSITIES."""
    density = jnp.uint32(density)
    high, low = jnp.uint32(size // DENSITIES), jnp.uint32(size % DENSITIES)
    return high * density + (low * density + DENSITIES // 2) // DENSITIES


class Count(NamedTuple):
    """A count, high * 2^16 + low with low below 2^16; uint32, of any shape."""

    high: jax.Array
    low: jax.Array

    def is_at_least(self, other: Count) -> jax.Array:
        """Whether this count is at least the other."""
        return (self.high > other.high) | ((self.high == other.high) & (self.low >= other.low))


class Search(NamedTuple):
    """State of the search for thresholds; lists have one entry per group, or one for all."""

    round: jax.Array
    thresholds: list[jax.Array]  # uint32 [words, sets] or [words]
    exact: list[jax.Array]  # whether exactly the target count is not below the threshold, [sets] or []


def select_largest(keys: Sets, counts: Sets, *, is_global: bool) -> list[jax.Array]:
    """Build masks of the largest keys; of equal keys, the first are selected.

    Args:
      keys: uint32 [sets, ...].
      counts: uint32 [sets], the number to select in each set.
      is_global: select the sum of all counts from all sets together instead.
    """
    combine = _total if is_global else _per_set
    targets = combine(counts)
    bits = [(word, bit) for word in range(3) if is_global or word != SET for bit in reversed(range(BITS[word]))]
    word_of, bit_of = (jnp.array(column) for column in zip(*bits, strict=True))
    set_offsets = np.cumsum([0, *(len(x) for x in keys[:-1])])

    def not_below(thresholds: list[jax.Array]) -> list[jax.Array]:
        per_group = thresholds * len(keys) if is_global else thresholds
        return [_not_below(x, int(offset), t) for x, offset, t in zip(keys, set_offsets, per_group, strict=True)]

    def set_next_bit(state: Search) -> Search:
        """Decide one more bit of the thresholds."""
        bit = jnp.where(jnp.arange(3) == word_of[state.round], jnp.uint32(1) << jnp.uint32(bit_of[state.round]), 0)
        candidates = [t | bit.reshape(-1, *[1] * (t.ndim - 1)) for t in state.thresholds]
        counted = combine([_count_true(mask) for mask in not_below(candidates)])
        enough = [count.is_at_least(target) for count, target in zip(counted, targets, strict=True)]
        exact = [e & target.is_at_least(count) for e, count, target in zip(enough, counted, targets, strict=True)]
        return Search(
            state.round + 1,
            [jnp.where(e, new, old) for e, new, old in zip(enough, candidates, state.thresholds, strict=True)],
            [before | now for before, now in zip(state.exact, exact, strict=True)],
        )

    def is_unfinished(state: Search) -> jax.Array:
        all_exact = jnp.all(jnp.stack([jnp.all(exact) for exact in state.exact]))
        return (state.round < len(bits)) & ~all_exact

    start = Search(
        jnp.int32(0),
        [jnp.zeros((3, *target.low.shape), jnp.uint32) for target in targets],
        [jnp.zeros(target.low.shape, bool) for target in targets],
    )
    thresholds = jax.lax.while_loop(is_unfinished, set_next_bit, start).thresholds
    nonzero = [(target.high > 0) | (target.low > 0) for target in targets] * (len(keys) if is_global else 1)
    return [mask & _expand_dims(any_, mask) for mask, any_ in zip(not_below(thresholds), nonzero, strict=True)]


def _not_below(keys: jax.Array, set_offset: int, threshold: jax.Array) -> jax.Array:
    """Whether keys [sets, ...], extended by set and position, are not below a threshold [words, sets] or [words]."""
    position = jnp.zeros(keys.shape, jnp.uint32)
    for axis in range(1, keys.ndim):
        position = position * keys.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, keys.shape, axis)
    key_word, set_word, position_word = (_expand_dims(word, keys) for word in threshold)
    wins_tie = ~position >= position_word
    if threshold.ndim == 1:  # one threshold for all sets
        set_rank = (1 << BITS[SET]) - 1 - set_offset - jax.lax.broadcasted_iota(jnp.uint32, keys.shape, 0)
        wins_tie = (set_rank > set_word) | ((set_rank == set_word) & wins_tie)
    return (keys > key_word) | ((keys == key_word) & wins_tie)


def _count_true(x: jax.Array) -> jax.Array:
    """Count the true elements of each set, uint32 [sets]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)), dtype=jnp.uint32)


def _expand_dims(per_set: jax.Array, x: jax.Array) -> jax.Array:
    """Append axes to `per_set` so that it broadcasts against `x`."""
    return per_set.reshape(*per_set.shape, *[1] * (x.ndim - per_set.ndim))


def _per_set(counts: Sets) -> list[Count]:
    return [Count(count >> 16, count & 0xFFFF) for count in counts]


def _total(counts: Sets) -> list[Count]:
    """Sum uint32 counts of up to 2^16 sets."""
    halves = [(jnp.sum(c >> 16, dtype=jnp.uint32), jnp.sum(c & 0xFFFF, dtype=jnp.uint32)) for c in counts]
    high, low = (jnp.sum(jnp.stack(half), dtype=jnp.uint32) for half in zip(*halves, strict=True))
    return [Count(high + (low >> 16), low & 0xFFFF)]
