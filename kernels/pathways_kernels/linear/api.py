"""The entry point of `linear(x, w)`: `x @ w` with a backward pass that is fast on CPUs too."""

from __future__ import annotations

import jax
from jax import Array

from pathways_kernels.linear import products


def linear(x: Array, w: Array) -> Array:
    """Multiply `x [..., n_in] @ w [n_in, n_out] -> [..., n_out]`, differentiable in both (reverse mode).

    On TPU and GPU it lowers to one plain `dot_general`, and so does each of its two gradients. On CPUs the three
    products are written as XLA's CPU backend computes them fastest, bfloat16 ones in float32 (the operands are
    exact there; the result is rounded to bfloat16 as usual).

    Raises:
      ValueError: the shapes do not fit.
    """
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[0]:
        raise ValueError(f"linear: x {x.shape} @ w {w.shape} do not fit; expected [..., n_in] and [n_in, n_out]")
    return _linear(x, w)


@jax.custom_vjp
def _linear(x: Array, w: Array) -> Array:
    return products.matmul(x, w)


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    return products.matmul(x, w), (x, w)


def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, w = saved
    d_x = products.matmul_rhs_transposed(cotangent, w)
    d_w = products.matmul_lhs_transposed(x, cotangent)
    return d_x.astype(x.dtype), d_w.astype(w.dtype)


_linear.defvjp(_forward, _backward)
