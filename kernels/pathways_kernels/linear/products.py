"""The three matrix products of a linear layer, each with a lowering of its own on CPUs.

On TPU and GPU each is one plain `dot_general`, as `jax.grad` of `x @ w` would write it. The platform is chosen while
lowering (`jax.lax.platform_dependent`), not while tracing: a program for a TPU may be compiled ahead of time on a
machine that has only a CPU.

`dtype` is the result's; without it, that of the promoted operands.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def matmul(x: Array, w: Array, dtype: DTypeLike | None = None) -> Array:
    """Multiply `x [..., k] @ w [k, n] -> [..., n]`."""
    return _matmul(x, w, 0, dtype)


def matmul_rhs_transposed(x: Array, w: Array, dtype: DTypeLike | None = None) -> Array:
    """Multiply `x [..., n] @ w [k, n].T -> [..., k]`."""
    return _matmul(x, w, 1, dtype)


def matmul_lhs_transposed(x: Array, y: Array, dtype: DTypeLike | None = None) -> Array:
    """Multiply `x [..., k].T @ y [..., n] -> [k, n]`, summed over all rows: the gradient of a weight."""
    rows = tuple(range(x.ndim - 1))
    operand, result = _dtypes(x, y, dtype)

    def plain(x: Array, y: Array) -> Array:
        dims = ((rows, rows), ((), ()))
        return lax.dot_general(x.astype(operand), y.astype(operand), dims, preferred_element_type=result)

    def cpu(x: Array, y: Array) -> Array:
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        return _float32_dot(x, y, 0, 0).astype(result)

    return lax.platform_dependent(x, y, cpu=cpu, default=plain)


def _matmul(x: Array, w: Array, w_axis: int, dtype: DTypeLike | None) -> Array:
    operand, result = _dtypes(x, w, dtype)

    def plain(x: Array, w: Array) -> Array:
        dims = (((x.ndim - 1,), (w_axis,)), ((), ()))
        return lax.dot_general(x.astype(operand), w.astype(operand), dims, preferred_element_type=result)

    def cpu(x: Array, w: Array) -> Array:
        out = _float32_dot(x.reshape(-1, x.shape[-1]), w, 1, w_axis).astype(result)
        return out.reshape(*x.shape[:-1], w.shape[1 - w_axis])

    return lax.platform_dependent(x, w, cpu=cpu, default=plain)


def _dtypes(a: Array, b: Array, dtype: DTypeLike | None) -> tuple[DTypeLike, DTypeLike]:
    operand = jnp.promote_types(a.dtype, b.dtype)
    return operand, operand if dtype is None else dtype


def _float32_dot(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    # A bfloat16 number is a float32 number: the product is the same, and CPUs are faster at it in float32.
    wide = jnp.promote_types(jnp.promote_types(a.dtype, b.dtype), jnp.float32)
    return lax.dot_general(a.astype(wide), b.astype(wide), (((a_axis,), (b_axis,)), ((), ())))
