"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) over spans, in Pallas for NVIDIA GPUs.

Lowered by Pallas's Triton backend. It serves every GPU since sm_80, runs in the CPU interpreter (in float32: no TF32
there), and compiles ahead of time. Pallas's Mosaic GPU backend would be faster on Hopper and Blackwell (asynchronous
copies and warp specialisation by hand), but it needs one kernel per generation. Jax announces Triton's removal from
Pallas: this file is then to be replaced by such kernels, and the contract's tests with it stay.

The three kernels are in `pallas_gpu_kernels`, the ranges of their loops in `block_ranges`. Here: block sizes, padding,
grids and the derivative. Nothing is accumulated across programs except by a sum of fixed order: the results are the
same bits every time. Products of float32 inputs are TF32 unless `jax.default_matmul_precision` asks for more, as
everywhere in XLA on GPUs.

Shapes: B batch, T queries, Tc per block, S keys, Sc per block, H heads, K key heads, G = H / K, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pathways_kernels.attention.block_ranges import of_keys, of_queries, padded_spans
from pathways_kernels.attention.common import RESULTS, LogitTransform
from pathways_kernels.attention.pallas_gpu_kernels import dkv_kernel, dq_kernel, forward_kernel
from pathways_kernels.attention.spans import Spans

Array = jax.Array


class Tile(NamedTuple):
    """What one program works on at a time, and how it is compiled."""

    queries: int  # Tc
    keys: int  # Sc
    warps: int = 4
    stages: int = 2  # blocks in flight: read ahead while the one before is multiplied


class Tiles(NamedTuple):
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

    Lengths are padded to whole blocks, the head dim to a power of two. `interpret` runs it on any platform, slowly, for
    tests; `tiles` are chosen here unless a test or a benchmark wants others.
    """
    T, D = q.shape[1], q.shape[3]
    tiles = _fitted(tiles or default_tiles(D, q.dtype), T, k.shape[1])
    settings = _Settings(LogitTransform(scale, logits_soft_cap), tiles, interpret)
    queries, keys = max(tile.queries for tile in tiles), max(tile.keys for tile in tiles)  # powers of two
    wide = max(16, pl.next_power_of_2(D))
    padded = padded_spans(spans, k.shape[1], T + -T % queries)
    q, k, v = _pad(q, queries, wide), _pad(k, keys, wide), _pad(v, keys, wide)
    return _attend(q, k, v, padded, settings)[:, :T, :, :D]


def default_tiles(D: int, dtype: Any) -> Tiles:
    """Tiles for head dim D: large ones that spill no register on an H100, in at most 130 KiB of shared memory.

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


def _fitted(tiles: Tiles, T: int, S: int) -> Tiles:
    """No larger than short rows are (decoding: one query); at least 16, the tensor cores' own tile."""
    most = {"queries": max(16, pl.next_power_of_2(T)), "keys": max(16, pl.next_power_of_2(S))}
    return Tiles(*(tile._replace(**{name: min(getattr(tile, name), most[name]) for name in most}) for tile in tiles))


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, spans: Spans, settings: _Settings) -> Array:
    return _attend_fwd(q, k, v, spans, settings)[0]


def _attend_fwd(q: Array, k: Array, v: Array, spans: Spans, settings: _Settings) -> tuple[Array, tuple[Any, ...]]:
    out, lse = checkpoint_name(_folding_vmap(partial(_forward, settings))(q, k, v, *spans), RESULTS)
    return out, (q, k, v, *spans, out, lse)


def _attend_bwd(settings: _Settings, residuals: tuple[Any, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*_folding_vmap(partial(_backward, settings))(*residuals, d_out), None)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _forward(settings: _Settings, q: Array, k: Array, v: Array, start: Array, stop: Array) -> tuple[Array, Array]:
    """The output `[B, T, H, D]` and the log-sum-exp `[B, H, T]`."""
    B, T, H, _ = q.shape
    tile = settings.tiles.forward
    grid, specs = _per_query_block(tile, q, k)
    return pl.pallas_call(
        partial(forward_kernel, transform=settings.transform, Sc=tile.keys),
        grid=grid,
        in_specs=(specs.q, specs.k, specs.k, specs.ends, specs.ends, specs.ranges),
        out_specs=(specs.q, specs.scalars),
        out_shape=(_like(q), _like(q, (B, H, T), jnp.float32)),
        **_compilation(tile, settings),
    )(q, k, v, start, stop, of_keys(Spans(start, stop), tile.queries, tile.keys))


def _backward(
    settings: _Settings, q: Array, k: Array, v: Array, start: Array, stop: Array, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """The gradients with respect to q, k and v."""
    delta = (out.astype(jnp.float32) * d_out.astype(jnp.float32)).sum(-1).transpose(0, 2, 1)
    arrays = (q, k, v, start, stop, lse, delta, d_out)
    return _d_q(settings, *arrays), *_d_kv(settings, *arrays)


def _d_q(
    settings: _Settings,
    q: Array, k: Array, v: Array, start: Array, stop: Array, lse: Array, delta: Array, d_out: Array,
) -> Array:  # fmt: skip
    tile = settings.tiles.dq
    grid, specs = _per_query_block(tile, q, k)
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
        out_shape=_like(q),
        **_compilation(tile, settings),
    )(q, k, v, start, stop, of_keys(Spans(start, stop), tile.queries, tile.keys), lse, delta, d_out)


def _d_kv(
    settings: _Settings,
    q: Array, k: Array, v: Array, start: Array, stop: Array, lse: Array, delta: Array, d_out: Array,
) -> tuple[Array, Array]:  # fmt: skip
    B, T, H, D = q.shape
    S, K = k.shape[1:3]
    tile = settings.tiles.dkv
    m = S // tile.keys
    P = _parts(H // K, B * K * m)
    heads = H // K // P
    queries = pl.BlockSpec((None, T, heads, D), lambda j, part, b: (b, 0, part, 0))
    scalars = pl.BlockSpec((None, heads, T), lambda j, part, b: (b, part, 0))
    keys = pl.BlockSpec((None, tile.keys, None, D), lambda j, part, b: (b, j, lax.div(part, P), 0))
    ends = pl.BlockSpec((None, T), lambda j, part, b: (b, 0))
    ranges = pl.BlockSpec((None, None, 4), lambda j, part, b: (b, j, 0))
    result = pl.BlockSpec((None, tile.keys, None, D), lambda j, part, b: (b, j, part, 0))
    parts = pl.pallas_call(
        partial(dkv_kernel, transform=settings.transform, Tc=tile.queries),
        grid=(m, K * P, B),
        in_specs=(queries, keys, keys, ends, ends, ranges, scalars, scalars, queries),
        out_specs=(result, result),
        out_shape=(_like(k, (B, S, K * P, D), k.dtype if P == 1 else jnp.float32),) * 2,
        **_compilation(tile, settings),
    )(q, k, v, start, stop, of_queries(Spans(start, stop), tile.queries, tile.keys, m), lse, delta, d_out)
    d_k, d_v = (x if P == 1 else x.reshape(B, S, K, P, D).sum(3).astype(k.dtype) for x in parts)
    return d_k, d_v


def _parts(G: int, programs: int) -> int:
    """Into how many parts a group's heads are divided: few key heads (multi-query) alone do not fill a GPU.

    Each part is a program and a float32 partial gradient. Enough programs for about four on each of 132 processors.
    """
    return next((P for P in range(1, G) if G % P == 0 and P * programs >= 512), G)


class _Specs(NamedTuple):
    q: pl.BlockSpec  # [Tc, D] of [B, T, H, D]
    k: pl.BlockSpec  # [S, D] of [B, S, K, D]
    ends: pl.BlockSpec  # [Tc] of [B, T]
    ranges: pl.BlockSpec  # [4] of [B, n, 4]
    scalars: pl.BlockSpec  # [Tc] of [B, H, T]


def _per_query_block(tile: Tile, q: Array, k: Array) -> tuple[tuple[int, int, int], _Specs]:
    """The grid, and each program's part of the arrays, for one program per block of queries and head.

    Blocks run from the last to the first: under a causal mask the longest programs then start first.
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


def _compilation(tile: Tile, settings: _Settings) -> dict[str, Any]:
    params = plgpu.CompilerParams(num_warps=tile.warps, num_stages=tile.stages)
    return {"compiler_params": params, "interpret": settings.interpret}


def _like(x: Array, shape: tuple[int, ...] | None = None, dtype: Any = None) -> jax.ShapeDtypeStruct:
    """What a kernel writes: varies over the same axes of a `shard_map` as x does."""
    return jax.ShapeDtypeStruct(shape or x.shape, dtype or x.dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def _pad(x: Array, rows: int, wide: int) -> Array:
    """`[B, T, H, D]` with T padded to a multiple of `rows` and D to `wide`, by zeros."""
    extra = (0, -x.shape[1] % rows, 0, wide - x.shape[3])
    return jnp.pad(x, [(0, e) for e in extra]) if any(extra) else x


def _folding_vmap(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, whose arguments and results all begin with the batch: `vmap` makes the batch larger.

    Pallas would add a dimension to the grid, of which Triton allows three.
    """
    folded = custom_vmap(f)

    @folded.def_vmap
    def rule(size: int, batched: list[bool], *args: Array) -> tuple[Any, Any]:
        args = tuple(
            (x if mapped else jnp.broadcast_to(x, (size, *x.shape))).reshape(-1, *x.shape[1 + mapped :])
            for x, mapped in zip(args, batched, strict=True)
        )
        out = _folding_vmap(f)(*args)
        split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), out)
        return split, jax.tree.map(lambda _: True, out)

    return folded
