"""Shared by the forward and backward kernels of `pallas_tpu`: spans, block specs, and the loop over key blocks."""

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
# The logit of a pair that is not allowed. Finite, so that the difference of two is never NaN, and far below any logit:
# a query whose maximum is this value sees nothing.
MASK_VALUE = -1e30


def dot(x: Array, y: Array, *, transposed: str = "") -> Array:
    """Multiply x @ y, with `transposed` "x" or "y", accumulated in float32; float32 inputs in full precision."""
    contracted = (0,) if transposed == "x" else (1,), (1,) if transposed == "y" else (0,)
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return lax.dot_general(x, y, (contracted, ((), ())), precision=precision, preferred_element_type=jnp.float32)


class SpanBounds(NamedTuple):
    """The queries' spans: an array, or their kind if that is known while tracing."""

    array: Array | None  # int32 [B, 8, T]: start, stop, and rows that fill the tile
    kind: SpanKind | None
    n_keys: int  # without padding

    def load(self, ref: Any, block: Any, Tc: int) -> tuple[Array, Array]:
        """Return start and stop of a block of queries, int32 `[1, Tc]` each; `ref` is the array's block `[8, Tc]`."""
        if self.kind is None:
            return ref[0:1, :], ref[1:2, :]
        start = jnp.zeros((1, Tc), jnp.int32)
        if isinstance(self.kind, Full):
            return start, start + self.n_keys
        stop = block * Tc + lax.broadcasted_iota(jnp.int32, (1, Tc), 1) + (self.kind.offset + 1)
        if isinstance(self.kind, Window):
            start = jnp.maximum(stop - self.kind.size, 0)
        return start, jnp.minimum(stop, self.n_keys)


class BlockSpecs(NamedTuple):
    """The blocks of the arrays that one program of the grid sees."""

    queries: pl.BlockSpec
    keys: pl.BlockSpec
    bounds: pl.BlockSpec | None  # None: there is no array
    per_query: pl.BlockSpec


def block_specs(
    q: Array, k: Array, bounds: SpanBounds, sizes: BlockSizes, order: Callable[..., tuple[Any, Any, Any, Any]]
) -> BlockSpecs:
    """Build the specs; `order` maps grid indices to (head group, row, block of queries, segment of keys)."""
    _, P, G, _, D = q.shape
    repeats = P // k.shape[1]

    def index(block_index: Callable[[Any, Any, Any, Any], tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
        return lambda *grid_and_ranges: block_index(*order(*grid_and_ranges[:-1]))

    return BlockSpecs(
        pl.BlockSpec((None, None, G, sizes.queries, D), index(lambda p, b, i, s: (b, p, 0, i, 0))),
        pl.BlockSpec((None, None, sizes.segment, D), index(lambda p, b, i, s: (b, lax.div(p, repeats), s, 0))),
        pl.BlockSpec((None, 8, sizes.queries), index(lambda p, b, i, s: (b, 0, i))) if bounds.kind is None else None,
        pl.BlockSpec((None, None, G, sizes.queries), index(lambda p, b, i, s: (b, p, 0, i))),
    )


class KeyBlockRange(NamedTuple):
    """The blocks of keys that a block of queries visits: the scalars of `block_ranges`."""

    start: Any
    full_start: Any
    full_stop: Any
    stop: Any


def load_key_block_range(ranges_ref: Any, row: Any, block: Any, segment: Any, sizes: BlockSizes) -> KeyBlockRange:
    """Load the range of one block of queries within a segment of keys, counted from the segment's first block.

    `ranges_ref`, in scalar memory: `block_ranges.key_block_ranges`, flat. The grid's axis 2 is over blocks of queries.
    """
    n = sizes.segment // sizes.keys
    offset = 4 * (row * pl.num_programs(2) + block)
    return KeyBlockRange(*(jnp.clip(ranges_ref[offset + i] - segment * n, 0, n) for i in range(4)))


def key_block_slice(j: Any, sizes: BlockSizes) -> Any:
    """Return the slice of block j in a segment's keys."""
    return pl.ds(pl.multiple_of(j * sizes.keys, sizes.keys), sizes.keys)


def over_keys(
    seen: KeyBlockRange, scores: Callable[[Any, bool], Any], absorb: Callable[[Any, bool, Any], None], unroll: int
) -> None:
    """Run `absorb(j, masked, scores(j, masked))` for all blocks j: full ones in runs of `unroll`, the rest in pairs.

    A run is straight-line code, in which the scores of a block are computed before its predecessor is absorbed: the
    matrix unit and the vector unit work at the same time. Full blocks that do not fill a run are masked too, since a
    shorter run costs more than a mask.
    """
    runs = lax.div(seen.full_stop - seen.full_start, unroll)
    runs_stop = seen.full_start + runs * unroll
    partial_before = seen.full_start - seen.start
    rest = partial_before + seen.stop - runs_stop

    def full(i: Any, _: None) -> None:
        run_of_blocks([seen.full_start + i * unroll + u for u in range(unroll)], False, scores, absorb)

    def masked(i: Any, _: None, count: int) -> None:
        numbers = [i * count + u for u in range(count)]
        blocks = [jnp.where(n < partial_before, seen.start + n, runs_stop + n - partial_before) for n in numbers]
        run_of_blocks(blocks, True, scores, absorb)

    lax.fori_loop(0, runs, full, None)
    pairs = lax.div(rest, 2) if unroll > 1 else 0
    if unroll > 1:
        lax.fori_loop(0, pairs, partial(masked, count=2), None)
    lax.fori_loop(2 * pairs, rest, partial(masked, count=1), None)


def run_of_blocks(
    blocks: list[Any], masked: bool, scores: Callable[[Any, bool], Any], absorb: Callable[[Any, bool, Any], None]
) -> None:
    """Run `absorb` for some blocks of keys in straight-line code."""
    next_scores = scores(blocks[0], masked)
    for j, next_block in zip(blocks, [*blocks[1:], None], strict=True):
        current, next_scores = next_scores, None if next_block is None else scores(next_block, masked)
        absorb(j, masked, current)
