"""Attention for CPUs in C++ (`cpu.cc`), called through XLA's foreign function interface.

The algorithm is `chunked`'s, and so is what its forward pass saves. Where a program is lowered for another platform,
`chunked` computes it. The library is compiled when the package is built, if there is a C++ compiler (`hatch_build.py`);
without it, `attention` takes `chunked`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention.blocks import accelerator_blocks
from pathways_kernels.attention.chunked import _backward as chunked_backward
from pathways_kernels.attention.chunked import _forward as chunked_forward
from pathways_kernels.attention.common import CHECKPOINT_NAME, LogitTransform, vmap_by_folding
from pathways_kernels.attention.spans import Spans
from pathways_kernels.attention.support import cpu_library

Array = jax.Array

_LANES = 16  # head dims are padded to a multiple of the widest vector


def cpu(q: Array, k: Array, v: Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None) -> Array:
    """See `attention`. Differentiable once, in reverse mode; products are summed in float32.

    One row of the batch and one head is a task of one thread: results have the same bits with any number of them.
    """
    _register()
    spans = Spans(jnp.asarray(spans.start, jnp.int32), jnp.asarray(spans.stop, jnp.int32))
    spare = ((0, 0), (0, 0), (0, 0), (0, -q.shape[3] % _LANES))
    q, k, v = (x if x.shape[3] % _LANES == 0 else jnp.pad(x, spare) for x in (q, k, v))
    out = _attend(q, k, v, spans, LogitTransform(scale, logits_soft_cap))
    return out[..., : out.shape[3] - spare[3][1]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, spans: Spans, transform: LogitTransform) -> Array:
    return _attend_fwd(q, k, v, spans, transform)[0]


def _attend_fwd(q: Array, k: Array, v: Array, spans: Spans, transform: LogitTransform) -> tuple[Array, tuple[Any, ...]]:
    forward = _per_platform(_forward, chunked_forward, transform)
    out, lse = checkpoint_name(forward(q, k, v, *spans), CHECKPOINT_NAME)
    return out, (q, k, v, *spans, out, lse)


def _attend_bwd(transform: LogitTransform, residuals: tuple[Array, ...], d_out: Array) -> tuple[Array | None, ...]:
    return (*_per_platform(_backward, chunked_backward, transform)(*residuals, d_out), None)


_attend.defvjp(_attend_fwd, _attend_bwd)


def _per_platform(on_cpu: Callable[..., Any], elsewhere: Callable[..., Any], transform: LogitTransform) -> Any:
    def run(q: Array, k: Array, v: Array, start: Array, stop: Array, *rest: Array) -> Any:
        blocks = accelerator_blocks(q.shape[0], q.shape[1], k.shape[1], q.shape[2])
        cpu, default = functools.partial(on_cpu, transform), functools.partial(elsewhere, blocks, transform)
        return lax.platform_dependent(q, k, v, Spans(start, stop), *rest, cpu=cpu, default=default)

    return vmap_by_folding(run)


def _forward(transform: LogitTransform, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array]:
    """Return the output `[B, T, H, D]` and every query's log-sum-exp `[B, T, H]` (0 if it sees nothing)."""
    out, lse = _call("attention_forward", transform, (q.shape, q.shape[:3]), q, k, v, spans)
    return out.astype(q.dtype), lse


def _backward(
    transform: LogitTransform, q: Array, k: Array, v: Array, spans: Spans, out: Array, lse: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients of q, k and v. `d_x` is the loss's derivative with respect to x."""
    (B, _, H, D), (S, K) = q.shape, k.shape[1:3]
    shapes = (q.shape, (B, S, H, D), (B, S, H, D))
    d_q, *d_kv = _call("attention_backward", transform, shapes, q, k, v, spans, out, lse, d_out)
    if H != K:
        d_kv = [x.reshape(B, S, K, H // K, D).sum(3) for x in d_kv]
    return d_q.astype(q.dtype), d_kv[0].astype(k.dtype), d_kv[1].astype(v.dtype)


def _call(name: str, transform: LogitTransform, shapes: tuple[tuple[int, ...], ...], *arguments: Any) -> Any:
    arrays = [x if x.dtype == jnp.int32 else x.astype(jnp.float32) for x in jax.tree.leaves(arguments)]
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    call = jax.ffi.ffi_call(f"pathways_kernels_{name}", results)
    return call(*arrays, scale=np.float32(transform.scale), soft_cap=np.float32(transform.soft_cap or 0))


@functools.cache
def _register() -> None:
    for name in ("attention_forward", "attention_backward"):
        jax.ffi.register_ffi_target(
            f"pathways_kernels_{name}", jax.ffi.pycapsule(getattr(cpu_library(), name)), platform="cpu"
        )
