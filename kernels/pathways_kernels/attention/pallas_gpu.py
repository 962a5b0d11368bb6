"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) over spans, in Pallas for NVIDIA GPUs.

Lowered by Pallas's Triton backend. It runs on every GPU since sm_80 and in the CPU interpreter (in float32: no TF32
there), and compiles ahead of time. Pallas's Mosaic GPU backend would be faster on Hopper and Blackwell (asynchronous
copies and warp specialization by hand), but it needs one kernel per generation. Jax has announced Triton's removal from
Pallas: such kernels will then replace this file, and the contract's tests will stay.

The three kernels are in `pallas_gpu_kernels`, the ranges of their loops in `block_ranges`. This file has block sizes,
padding, grids and the derivative. Programs of the grid share no accumulator, and their results are summed in a fixed
order: the results are the same bits every time. Products of float32 inputs are TF32 unless
`jax.default_matmul_precision` asks for more, as everywhere in XLA on GPUs.

Shapes: B batch, T queries, Tc per block, S keys, Sc per block, H heads, K key heads, G = H / K, D head dim.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans, query_block_ranges
from pathways_kernels.attention.common import CHECKPOINT_NAME, LogitTransform, vmap_by_folding
from pathways_kernels.attention.pallas_gpu_kernels import dkv_kernel, dq_kernel, forward_kernel
from pathways_kernels.attention.spans import Spans

Array = jax.Array


class Tile(NamedTuple):
    """The blocks of one program of the grid, and how it is compiled."""

    queries: int  # Tc
    keys: int  # Sc
    warps: int = 4
    stages: int = 2  # blocks in flight: the next is read while the previous one is multiplied


class Tiles(NamedTuple):
    """The tiles of the three kernels."""

    forward: Tile
    dq: Tile
    dkv: Tile


class _Settings(NamedTuple):
    transform: LogitTransform
    tiles: Tiles
    interpret: bool


def pallas_gpu(
    q: Array,
    k: Array,
    v: Array,
    spans: Spans,
    *,
    scale: float,
    logits_soft_cap: float | None = None,
    interpret: bool = False,
    tiles: Tiles | None = None,
) -> Array:
    """See `attention`. Memory linear in T and S; differentiable once, in reverse mode.

    Lengths are padded to full blocks, the head dim to a power of two.

    Args:
        interpret: run in Pallas's interpreter, slowly, on any platform; for tests.
        tiles: for tests and benchmarks; None: `default_tiles`.
    """
    T, D = q.shape[1], q.shape[3]
    tiles = _fit_tiles(tiles or default_tiles(D, q.dtype), T, k.shape[1])
    settings = _Settings(LogitTransform(scale, logits_soft_cap), tiles, interpret)
    queries, keys = max(tile.queries for tile in tiles), max(tile.keys for tile in tiles)  # powers of two
    head_dim = max(16, pl.next_power_of_2(D))
    padded = padded_spans(spans, k.shape[1], T + -T % queries)
    q, k, v = _pad(q, queries, head_dim), _pad(k, keys, head_dim), _pad(v, keys, head_dim)
    return _attend(q, k, v, padded, settings)[:, :T, :, :D]


def default_tiles(D: int, dtype: Any) -> Tiles:
    """Choose tiles for head dim D: large ones that spill no register on an H100, in at most 130 KiB of shared memory.

    Chosen from what the compiler reports for an H100, not from measured times. On an A100 some kernels spill a little.
    """
    half = jnp.dtype(dtype).itemsize == 2
    if D <= 64:
        if half:
            return Tiles(forward=Tile(128, 64, 8, 3), dq=Tile(128, 64, 8), dkv=Tile(64, 128, 8))
        return Tiles(forward=Tile(128, 64, 8), dq=Tile(128, 32, 8), dkv=Tile(32, 128, 8))
    if D <= 128:
        if half:
            return Tiles(forward=Tile(128, 64, 8, 3), dq=Tile(128, 64, 8), dkv=Tile(64, 128, 8))
        return Tiles(forward=Tile(128, 32, 8), dq=Tile(64, 32, 8), dkv=Tile(32, 32, 4))
    if half:
        return Tiles(forward=Tile(128, 32, 8), dq=Tile(64, 32, 8), dkv=Tile(32, 64, 8))
    return Tiles(forward=Tile(32, 32), dq=Tile(32, 32, 8), dkv=Tile(32, 32, 8))


def _fit_tiles(tiles: Tiles, T: int, S: int) -> Tiles:
    """Shrink tiles to short rows (decoding: one query), but to no less than 16, the tensor cores' own tile."""
    limits = {"queries": max(16, pl.next_power_of_2(T)), "keys": max(16, pl.next_power_of_2(S))}
    return Tiles(
        *(tile._replace(**{name: min(getattr(tile, name), limits[name]) for name in limits}) for tile in tiles)
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, spans: Spans, settings: _Settings) -> Array:
    return _attend_fwd(q, k, v, spans, settings)[0]


def _attend_fwd(q: Array, k: Array, v: Array, spans: Spans, settings: _Settings) -> tuple[Array, tuple[Any, ...]]:
    out, lse = checkpoint_name(vmap_by_folding(partial(_forward, settings))(q, k, v, *spans), CHECKPOINT_NAME)
    return out, (q, k, v, *spans, out, lse)


def _attend_bwd(settings: _Settings, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*vmap_by_folding(partial(_backward, settings))(*residuals, d_out), None)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _forward(settings: _Settings, q: Array, k: Array, v: Array, start: Array, stop: Array) -> tuple[Array, Array]:
    """Return the output `[B, T, H, D]` and the log-sum-exp `[B, H, T]`."""
    B, T, H, _ = q.shape
    tile = settings.tiles.forward
    grid, specs = _query_block_specs(tile, q, k)
    return pl.pallas_call(
        partial(forward_kernel, transform=settings.transform, Sc=tile.keys),
        grid=grid,
        in_specs=(specs.q, specs.k, specs.k, specs.ends, specs.ends, specs.ranges),
        out_specs=(specs.q, specs.scalars),
        out_shape=(_out_shape(q), _out_shape(q, (B, H, T), jnp.float32)),
        **_compiler_options(tile, settings),
    )(q, k, v, start, stop, key_block_ranges(Spans(start, stop), tile.queries, tile.keys))


def _backward(
    settings: _Settings, q: Array, k: Array, v: Array, start: Array, stop: Array, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v."""
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1).transpose(0, 2, 1)
    arrays = (q, k, v, start, stop, lse, delta, d_out)
    return _d_q(settings, *arrays), *_d_kv(settings, *arrays)


def _d_q(
    settings: _Settings,
    q: Array, k: Array, v: Array, start: Array, stop: Array, lse: Array, delta: Array, d_out: Array,
) -> Array:  # fmt: skip
    tile = settings.tiles.dq
    grid, specs = _query_block_specs(tile, q, k)
    return pl.pallas_call(
        partial(dq_kernel, transform=settings.transform, Sc=tile.keys),
        grid=grid,
        in_specs=(
            specs.q,
            specs.k,
            specs.k,
            specs.ends,
            specs.ends,
            specs.ranges,
            specs.scalars,
            specs.scalars,
            specs.q,
        ),
        out_specs=specs.q,
        out_shape=_out_shape(q),
        **_compiler_options(tile, settings),
    )(q, k, v, start, stop, key_block_ranges(Spans(start, stop), tile.queries, tile.keys), lse, delta, d_out)


def _d_kv(
    settings: _Settings,
    q: Array, k: Array, v: Array, start: Array, stop: Array, lse: Array, delta: Array, d_out: Array,
) -> tuple[Array, Array]:  # fmt: skip
    B, T, H, D = q.shape
    S, K = k.shape[1:3]
    tile = settings.tiles.dkv
    m = S // tile.keys
    P = _count_head_groups(H // K, B * K * m)
    heads = H // K // P
    queries = pl.BlockSpec((None, T, heads, D), lambda j, group, b: (b, 0, group, 0))
    scalars = pl.BlockSpec((None, heads, T), lambda j, group, b: (b, group, 0))
    keys = pl.BlockSpec((None, tile.keys, None, D), lambda j, group, b: (b, j, lax.div(group, P), 0))
    ends = pl.BlockSpec((None, T), lambda j, group, b: (b, 0))
    ranges = pl.BlockSpec((None, None, 4), lambda j, group, b: (b, j, 0))
    result = pl.BlockSpec((None, tile.keys, None, D), lambda j, group, b: (b, j, group, 0))
    partials = pl.pallas_call(
        partial(dkv_kernel, transform=settings.transform, Tc=tile.queries),
        grid=(m, K * P, B),
        in_specs=(queries, keys, keys, ends, ends, ranges, scalars, scalars, queries),
        out_specs=(result, result),
        out_shape=(_out_shape(k, (B, S, K * P, D), k.dtype if P == 1 else jnp.float32),) * 2,
        **_compiler_options(tile, settings),
    )(q, k, v, start, stop, query_block_ranges(Spans(start, stop), tile.queries, tile.keys, m), lse, delta, d_out)
    d_k, d_v = (x if P == 1 else x.reshape(B, S, K, P, D).sum(3).astype(k.dtype) for x in partials)
    return d_k, d_v


def _count_head_groups(G: int, programs: int) -> int:
    """Return the number P of programs among which the G heads of a key head are divided.

    With few key heads (multi-query) one program per key head does not fill a GPU. Each of the P programs writes a
    float32 partial gradient. The aim is about four programs on each of 132 processors.
    """
    return next((P for P in range(1, G) if G % P == 0 and P * programs >= 512), G)


class _Specs(NamedTuple):
    """The block of each array that one program of the grid sees."""

    q: pl.BlockSpec  # [Tc, D] of [B, T, H, D]
    k: pl.BlockSpec  # [S, D] of [B, S, K, D]
    ends: pl.BlockSpec  # [Tc] of [B, T]
    ranges: pl.BlockSpec  # [4] of [B, n, 4]
    scalars: pl.BlockSpec  # [Tc] of [B, H, T]


def _query_block_specs(tile: Tile, q: Array, k: Array) -> tuple[tuple[int, int, int], _Specs]:
    """Return the grid and the block specs for one program per block of queries and head.

    Blocks go from the last to the first: with a causal mask the longest programs then start first.
    """
    B, T, H, D = q.shape
    S, K = k.shape[1:3]
    n = T // tile.queries
    return (n, H, B), _Specs(
        q=pl.BlockSpec((None, tile.queries, None, D), lambda i, h, b: (b, n - 1 - i, h, 0)),
        k=pl.BlockSpec((None, S, None, D), lambda i, h, b: (b, 0, lax.div(h, H // K), 0)),
        ends=pl.BlockSpec((None, tile.queries), lambda i, h, b: (b, n - 1 - i)),
        ranges=pl.BlockSpec((None, None, 4), lambda i, h, b: (b, n - 1 - i, 0)),
        scalars=pl.BlockSpec((None, None, tile.queries), lambda i, h, b: (b, h, n - 1 - i)),
    )


def _compiler_options(tile: Tile, settings: _Settings) -> dict[str, Any]:
    params = plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
    return {"compiler_params": params, "interpret": settings.interpret}


def _out_shape(x: Array, shape: tuple[int, ...] | None = None, dtype: Any = None) -> jax.ShapeDtypeStruct:
    """Return the shape of a kernel's output, which varies over the same axes of a `shard_map` as x."""
    return jax.ShapeDtypeStruct(shape or x.shape, dtype or x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def _pad(x: Array, rows: int, head_dim: int) -> Array:
    """Pad `[B, T, H, D]` with zeros: T to a multiple of `rows`, D to `head_dim`."""
    padding = (0, -x.shape[1] % rows, 0, head_dim - x.shape[3])
    return jnp.pad(x, [(0, p) for p in padding]) if any(padding) else x
