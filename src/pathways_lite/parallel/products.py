"""Products of activations and weights, under `jax.shard_map`: what is sent is what is written here.

Each device has its rows and its part of every weight. A weight is gathered over `layout.GATHERED` in the dtype of the
computation, where it is used; where the backward pass comes by, its gradient is scattered back. The residual stream is
gathered over its width once for all products that read it, and products into it are scattered once for their sum: an
all-gather and a reduce-scatter where tensor parallelism after Shoeybi et al. 2019 (arXiv 1909.08053) has an all-reduce.

Left to GSPMD the gathers come out the same, but a reduce-scatter is an all-reduce and a slice, which only some of its
compilers make one of again. B batch, T position, E embed.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.linear import linear
from pathways_lite.parallel.layout import GATHERED, Axes, Layout

WEIGHT = "weight"
"""The name, for policies of `jax.checkpoint`, of a weight as it is multiplied with: cast and gathered."""


class Weight(NamedTuple):
    """A layer's kernel and its logical axes: out of the residual stream ("embed" first) or into it ("embed" last)."""

    value: jax.Array
    axes: Axes


def out_of_residual(layout: Layout, x: jax.Array, weights: Sequence[Weight]) -> list[jax.Array]:
    """`x` [B, T, E] times each of several weights [E, ...]: [B, T, ...], spread over their own axes."""
    values = [weight.value.astype(x.dtype) for weight in weights]
    if not layout.spread:
        return [_product(x, value, 1) for value in values]
    stream = layout.spec(("batch", "seq", "residual"), x.shape, "the residual stream")
    inputs = tuple(layout.spec(weight.axes, weight.value.shape, "a weight") for weight in weights)
    outputs = tuple(
        layout.spec(("batch", "seq", *weight.axes[1:]), (*x.shape[:2], *weight.value.shape[1:]), "a product")
        for weight in weights
    )

    def local(x: jax.Array, *values: jax.Array) -> tuple[jax.Array, ...]:
        if layout.size("residual") > 1:
            x = lax.all_gather(x, layout.rules["residual"], axis=2, tiled=True)
        return tuple(_product(x, gathered(layout, value, 0), 1) for value in values)

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(stream, *inputs), out_specs=outputs, check_vma=False)
    return list(mapped(x, *values))


def into_residual(layout: Layout, terms: Sequence[tuple[jax.Array, Weight]]) -> jax.Array:
    """The sum over `terms` of x [B, T, ...] times a weight [..., E]: [B, T, E], spread as the residual stream."""
    values = [weight.value.astype(x.dtype) for x, weight in terms]
    if not layout.spread:
        return _sum([_product(x, value, value.ndim - 1) for (x, _), value in zip(terms, values, strict=True)])
    inputs = tuple(layout.spec(("batch", "seq", *weight.axes[:-1]), x.shape, "a product") for x, weight in terms)
    places = tuple(layout.spec(weight.axes, weight.value.shape, "a weight") for _, weight in terms)
    first, weight = terms[0]
    out = layout.spec(("batch", "seq", "residual"), (*first.shape[:2], weight.value.shape[-1]), "the residual stream")

    def local(xs: tuple[jax.Array, ...], values: tuple[jax.Array, ...]) -> jax.Array:
        pairs = zip(xs, values, strict=True)
        total = _sum([_product(x, gathered(layout, v, v.ndim - 1), v.ndim - 1) for x, v in pairs])
        if layout.size("residual") > 1:
            total = lax.psum_scatter(total, layout.rules["residual"], scatter_dimension=2, tiled=True)
        return total

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(inputs, places), out_specs=out, check_vma=False)
    return mapped(tuple(x for x, _ in terms), tuple(values))


def gathered(layout: Layout, part: jax.Array, axis: int) -> jax.Array:
    """Under `shard_map`: a parameter's part, gathered along its `axis` "embed"."""
    over = tuple(name for name in GATHERED if layout.sizes[name] > 1)
    return lax.all_gather(part, over, axis=axis, tiled=True) if over else part


def _product(x: jax.Array, kernel: jax.Array, n_contracted: int) -> jax.Array:
    """Contract the last `n_contracted` axes of `x` with the first ones of `kernel`, as one 2-D matmul."""
    n_in = math.prod(kernel.shape[:n_contracted])
    lead, out = x.shape[: x.ndim - n_contracted], kernel.shape[n_contracted:]
    weight = checkpoint_name(kernel.reshape(n_in, -1), WEIGHT)
    return linear(x.reshape(*lead, n_in), weight).reshape(*lead, *out)


def _sum(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, parts)
