"""The k largest of many numbers that are spread over devices, without bringing them together: exactly k.

Numbers become unsigned integers of the same order (`ordered`), and behind each stands its place, the first the highest,
so that no two are equal. The k-th largest is found bit by bit, from the top: each round counts, where they lie, how
many are not below a candidate, and only counts travel. It ends as soon as just k are, after some 20 to 30 rounds, or up
to 80 where equal numbers have to be told apart. So the tolerance is zero, and the result is the same however the
numbers are spread; only scores that differ by rounding can change places.

Numbers come in sets [S, ...]: S layers with units of any shape. Counts of a set must be below 2^31; sums over sets are
kept in two words, as all the weights of a model are more than 32 bits count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pathways_lite.methods.pruning.schedules import DENSITIES

Sets = Sequence[jax.Array]
"""For each group, something [sets, ...]."""

KEY, SET, PLACE = range(3)
"""The words of a number: what it is, which set it is in, where it is in that set."""
BITS = (32, 16, 32)


def ordered(scores: jax.Array) -> jax.Array:
    """Float32 scores as uint32 of the same order. -0 is 0; NaN, of which nothing is known, is below everything else."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0.0, 0.0, scores), jnp.uint32)
    keys = jnp.where(bits >> 31 == 1, ~bits, bits | jnp.uint32(1 << 31))
    return jnp.where(jnp.isnan(scores), jnp.uint32(0), keys)


def kept_counts(size: int, density: jax.Array) -> jax.Array:
    """`schedules.kept` of a size below 2^31 and an int32 density in units of 1 / DENSITIES: uint32."""
    density = jnp.uint32(density)
    high, low = jnp.uint32(size // DENSITIES), jnp.uint32(size % DENSITIES)
    return high * density + (low * density + DENSITIES // 2) // DENSITIES


class Count(NamedTuple):
    """high 2^16 + low, with low below 2^16; uint32, of any shape."""

    high: jax.Array
    low: jax.Array

    def not_below(self, other: Count) -> jax.Array:
        """Whether it is at least the other."""
        return (self.high > other.high) | ((self.high == other.high) & (self.low >= other.low))


class Search(NamedTuple):
    """Where the search for thresholds is; lists have one entry per group, or one for all."""

    round: jax.Array
    thresholds: list[jax.Array]  # uint32 [words, sets] or [words]
    exact: list[jax.Array]  # whether just as many as wanted are not below it, [sets] or []


def largest(keys: Sets, counts: Sets, *, together: bool) -> list[jax.Array]:
    """Masks of the largest keys: in each set as many as `counts` [sets] says, or `together` as many as they all say.

    Keys are uint32 [sets, ...], counts uint32 [sets]; of equal keys the first ones are taken.
    """
    gathered = _total if together else _each
    wanted = gathered(counts)
    bits = [(word, bit) for word in range(3) if together or word != SET for bit in reversed(range(BITS[word]))]
    word_of, bit_of = (jnp.array(column) for column in zip(*bits, strict=True))
    first_sets = np.cumsum([0, *(len(x) for x in keys[:-1])])

    def not_below(thresholds: list[jax.Array]) -> list[jax.Array]:
        each = thresholds * len(keys) if together else thresholds
        return [_not_below(x, int(first), t) for x, first, t in zip(keys, first_sets, each, strict=True)]

    def settled(state: Search) -> Search:
        """One more bit of the thresholds."""
        bit = jnp.where(jnp.arange(3) == word_of[state.round], jnp.uint32(1) << jnp.uint32(bit_of[state.round]), 0)
        candidates = [t | bit.reshape(-1, *[1] * (t.ndim - 1)) for t in state.thresholds]
        counted = gathered([_counted(mask) for mask in not_below(candidates)])
        enough = [count.not_below(want) for count, want in zip(counted, wanted, strict=True)]
        just = [e & want.not_below(count) for e, count, want in zip(enough, counted, wanted, strict=True)]
        return Search(
            state.round + 1,
            [jnp.where(e, new, old) for e, new, old in zip(enough, candidates, state.thresholds, strict=True)],
            [before | now for before, now in zip(state.exact, just, strict=True)],
        )

    def unsettled(state: Search) -> jax.Array:
        exact = jnp.all(jnp.stack([jnp.all(exact) for exact in state.exact]))
        return (state.round < len(bits)) & ~exact

    start = Search(
        jnp.int32(0),
        [jnp.zeros((3, *want.low.shape), jnp.uint32) for want in wanted],
        [jnp.zeros(want.low.shape, bool) for want in wanted],
    )
    thresholds = jax.lax.while_loop(unsettled, settled, start).thresholds
    some = [(want.high > 0) | (want.low > 0) for want in wanted] * (len(keys) if together else 1)
    return [mask & _against(any_, mask) for mask, any_ in zip(not_below(thresholds), some, strict=True)]


def _not_below(keys: jax.Array, first_set: int, threshold: jax.Array) -> jax.Array:
    """Which keys [sets, ...], with their sets and places, are not below a threshold [words, sets] or [words]."""
    place = jnp.zeros(keys.shape, jnp.uint32)
    for axis in range(1, keys.ndim):
        place = place * keys.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, keys.shape, axis)
    key, of_set, of_place = (_against(word, keys) for word in threshold)
    first_ones = ~place >= of_place
    if threshold.ndim == 1:  # the same for all sets
        in_set = (1 << BITS[SET]) - 1 - first_set - jax.lax.broadcasted_iota(jnp.uint32, keys.shape, 0)
        first_ones = (in_set > of_set) | ((in_set == of_set) & first_ones)
    return (keys > key) | ((keys == key) & first_ones)


def _counted(x: jax.Array) -> jax.Array:
    """How many are true in each set, uint32 [sets]."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)), dtype=jnp.uint32)


def _against(per_set: jax.Array, x: jax.Array) -> jax.Array:
    return per_set.reshape(*per_set.shape, *[1] * (x.ndim - per_set.ndim))


def _each(counts: Sets) -> list[Count]:
    return [Count(count >> 16, count & 0xFFFF) for count in counts]


def _total(counts: Sets) -> list[Count]:
    """The sum of uint32 counts of up to 2^16 sets."""
    halves = [(jnp.sum(c >> 16, dtype=jnp.uint32), jnp.sum(c & 0xFFFF, dtype=jnp.uint32)) for c in counts]
    high, low = (jnp.sum(jnp.stack(half), dtype=jnp.uint32) for half in zip(*halves, strict=True))
    return [Count(high + (low >> 16), low & 0xFFFF)]
