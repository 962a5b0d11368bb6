"""What the forward and the backward kernel of `pallas_tpu` share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from pathways_kernels.attention.block_sizes import BlockSizes
from pathways_kernels.attention.static_kinds import Full, SpanKind, Window

Array = jax.Array

LANES = 128
# In place of the logit of a pair that is not allowed. Finite, so that a difference of two is never NaN, and far below
# any logit: a query whose maximum it is saw nothing.
UNSEEN = -1e30


def dot(x: Array, y: Array, *, transposed: str = "") -> Array:
    """`x @ y`, with `transposed="x"` or `"y"` of that one, accumulated in float32; of float32 in full precision."""
    contracted = (0,) if transposed == "x" else (1,), (1,) if transposed == "y" else (0,)
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, y, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


class Bounds(NamedTuple):
    """Where the queries' spans are: in an array, or in their kind where that is known while tracing."""

    array: Array | None  # int32 [B, 8, T]: start, stop, and rows that fill the tile
    kind: SpanKind | None
    n_keys: int  # without padding

    def rows(self, ref: Any, block: Any, Tc: int) -> tuple[Array, Array]:
        """Start and stop of a block of queries, int32 `[1, Tc]` each; `ref` is the array's block `[8, Tc]`."""
        if self.kind is None:
            return ref[0:1, :], ref[1:2, :]
        start = jnp.zeros((1, Tc), jnp.int32)
        if isinstance(self.kind, Full):
            return start, start + self.n_keys
        stop = block * Tc + lax.broadcasted_iota(jnp.int32, (1, Tc), 1) + (self.kind.offset + 1)
        if isinstance(self.kind, Window):
            start = jnp.maximum(stop - self.kind.size, 0)
        return start, jnp.minimum(stop, self.n_keys)


class Specs(NamedTuple):
    queries: pl.BlockSpec
    keys: pl.BlockSpec
    bounds: pl.BlockSpec | None  # None: there is no array of them
    per_query: pl.BlockSpec


def specs(
    q: Array, k: Array, bounds: Bounds, sizes: BlockSizes, order: Callable[..., tuple[Any, Any, Any, Any]]
) -> Specs:
    """Blocks of the arrays; `order` turns the grid's indices into (part, row, block of queries, segment of keys)."""
    _, P, G, _, D = q.shape
    repeats = P // k.shape[1]

    def index(place: Callable[[Any, Any, Any, Any], tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda *grid_and_ranges: place(*order(*grid_and_ranges[:-1]))

    return Specs(
        pl.BlockSpec((None, None, G, sizes.queries, D), index(lambda p, b, i, s: (b, p, 0, i, 0))),
        pl.BlockSpec((None, None, sizes.segment, D), index(lambda p, b, i, s: (b, lax.div(p, repeats), s, 0))),
        pl.BlockSpec((None, 8, sizes.queries), index(lambda p, b, i, s: (b, 0, i))) if bounds.kind is None else None,
        pl.BlockSpec((None, None, G, sizes.queries), index(lambda p, b, i, s: (b, p, 0, i))),
    )


class Visits(NamedTuple):
    """The blocks of keys that a block of queries visits, as `block_ranges` gives them: scalars."""

    first: Any
    whole: Any
    ragged: Any
    last: Any


def visits(ranges_ref: Any, row: Any, block: Any, segment: Any, sizes: BlockSizes) -> Visits:
    """Those of one block of queries that lie in a segment of keys, counted from its beginning.

    `ranges_ref`, in scalar memory: `block_ranges.of_keys`, flat. The grid's axis 2 goes over blocks of queries.
    """
    n = sizes.segment // sizes.keys
    at = 4 * (row * pl.num_programs(2) + block)
    return Visits(*(jnp.clip(ranges_ref[at + i] - segment * n, 0, n) for i in range(4)))


def block_of_keys(j: Any, sizes: BlockSizes) -> Any:
    """Where block j of a segment's keys lies."""
    return pl.ds(pl.multiple_of(j * sizes.keys, sizes.keys), sizes.keys)


def over_keys(
    seen: Visits, scores: Callable[[Any, bool], Any], absorb: Callable[[Any, bool, Any], None], unroll: int
) -> None:
    """`absorb(j, masked, scores(j, masked))` for all blocks j: whole ones in runs of `unroll`, the rest in pairs.

    A run is straight-line code, in which the scores of a block are computed before the one before it is absorbed: the
    matrix unit works while the vector unit does. What is left of the whole blocks is masked too, since a shorter run
    costs more than a mask.
    """
    runs = lax.div(seen.ragged - seen.whole, unroll)
    done = seen.whole + runs * unroll
    before = seen.whole - seen.first
    rest = before + seen.last - done

    def whole(i: Any, _: None) -> None:
        run_of_blocks([seen.whole + i * unroll + u for u in range(unroll)], False, scores, absorb)

    def masked(i: Any, _: None, count: int) -> None:
        which = [i * count + u for u in range(count)]
        run_of_blocks([jnp.where(w < before, seen.first + w, done + w - before) for w in which], True, scores, absorb)

    lax.fori_loop(0, runs, whole, None)
    pairs = lax.div(rest, 2) if unroll > 1 else 0
    if unroll > 1:
        lax.fori_loop(0, pairs, partial(masked, count=2), None)
    lax.fori_loop(2 * pairs, rest, partial(masked, count=1), None)


def run_of_blocks(
    blocks: list[Any], masked: bool, scores: Callable[[Any, bool], Any], absorb: Callable[[Any, bool, Any], None]
) -> None:
    """Some blocks of keys in straight-line code."""
    ahead = scores(blocks[0], masked)
    for j, following in zip(blocks, [*blocks[1:], None], strict=True):
        current, ahead = ahead, None if following is None else scores(following, masked)
        absorb(j, masked, current)
