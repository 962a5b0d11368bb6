"""What GSPMD is not left alone with: kernels, and the tables of the vocabulary, under `jax.shard_map`.

On one device each function is the plain one. B batch, T query, S key, H query heads, K key/value heads, D head,
E embed, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from pathways_kernels.attention import Spans
from pathways_kernels.attention import attention as one_attention
from pathways_kernels.cross_entropy import cross_entropy as one_cross_entropy
from pathways_kernels.linear import linear
from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import FSDP_AXES, Axes, Layout

# Products of activations and weights, under `jax.shard_map`: what is sent is what is written here.
#
# Each device has its rows and its part of every weight. A weight is gathered over `sharding.FSDP_AXES` in the dtype of
# the computation, where it is used; where the backward pass comes by, its gradient is scattered back. The residual
# stream is
# gathered over its width once for all products that read it, and products into it are scattered once for their sum: an
# all-gather and a reduce-scatter where tensor parallelism after Shoeybi et al. 2019 (arXiv 1909.08053) has an
# all-reduce.
#
# Left to GSPMD the gathers come out the same, but a reduce-scatter is an all-reduce and a slice, which only some of its
# compilers make one of again. B batch, T position, E embed.


WEIGHT = "weight"
"""The name, for policies of `jax.checkpoint`, of a weight as it is multiplied with: cast and gathered."""


class Weight(NamedTuple):
    """A layer's kernel and its logical axes: out of the residual stream ("embed" first) or into it ("embed" last)."""

    value: jax.Array
    axes: Axes


def project_in(layout: Layout, x: jax.Array, weights: Sequence[Weight]) -> list[jax.Array]:
    """`x` [B, T, E] times each of several weights [E, ...]: [B, T, ...], spread over their own axes."""
    values = [weight.value.astype(x.dtype) for weight in weights]
    if not layout.is_spread:
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
        return tuple(_product(x, gather_weight(layout, value, 0), 1) for value in values)

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(stream, *inputs), out_specs=outputs, check_vma=False)
    return list(mapped(x, *values))


def project_out(layout: Layout, terms: Sequence[tuple[jax.Array, Weight]]) -> jax.Array:
    """The sum over `terms` of x [B, T, ...] times a weight [..., E]: [B, T, E], spread as the residual stream."""
    values = [weight.value.astype(x.dtype) for x, weight in terms]
    if not layout.is_spread:
        return _sum([_product(x, value, value.ndim - 1) for (x, _), value in zip(terms, values, strict=True)])
    inputs = tuple(layout.spec(("batch", "seq", *weight.axes[:-1]), x.shape, "a product") for x, weight in terms)
    places = tuple(layout.spec(weight.axes, weight.value.shape, "a weight") for _, weight in terms)
    first, weight = terms[0]
    out = layout.spec(("batch", "seq", "residual"), (*first.shape[:2], weight.value.shape[-1]), "the residual stream")

    def local(xs: tuple[jax.Array, ...], values: tuple[jax.Array, ...]) -> jax.Array:
        pairs = zip(xs, values, strict=True)
        total = _sum([_product(x, gather_weight(layout, v, v.ndim - 1), v.ndim - 1) for x, v in pairs])
        if layout.size("residual") > 1:
            total = lax.psum_scatter(total, layout.rules["residual"], scatter_dimension=2, tiled=True)
        return total

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(inputs, places), out_specs=out, check_vma=False)
    return mapped(tuple(x for x, _ in terms), tuple(values))


def gather_weight(layout: Layout, part: jax.Array, axis: int) -> jax.Array:
    """Under `shard_map`: a parameter's part, gathered along its `axis` "embed"."""
    over = tuple(name for name in FSDP_AXES if layout.sizes[name] > 1)
    return lax.all_gather(part, over, axis=axis, tiled=True) if over else part


def _product(x: jax.Array, kernel: jax.Array, n_contracted: int) -> jax.Array:
    """Contract the last `n_contracted` axes of `x` with the first ones of `kernel`, as one 2-D matmul."""
    n_in = math.prod(kernel.shape[:n_contracted])
    lead, out = x.shape[: x.ndim - n_contracted], kernel.shape[n_contracted:]
    weight = checkpoint_name(kernel.reshape(n_in, -1), WEIGHT)
    return linear(x.reshape(*lead, n_in), weight).reshape(*lead, *out)


def _sum(parts: list[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, parts)


def attention(layout: Layout, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, **options: Any) -> jax.Array:
    """`pathways_kernels.attention` of q [B, T, H, D] to k and v [B, S, K, D], each device its rows and heads.

    Where the sequence is spread too, a device's queries see all keys, gathered over `context`: spans count keys from
    the sequence's beginning, so they need no change (context parallelism as in Llama 3, arXiv 2407.21783, 3.3.2).
    """
    if not layout.is_spread:
        return one_attention(q, k, v, spans, **options)
    query = layout.spec(("batch", "seq", "heads", None), q.shape, "queries")
    key = layout.spec(("batch", "seq", "kv", None), k.shape, "keys")
    span = layout.spec(("batch", "seq"), spans.start.shape, "spans")
    group = _key_heads(layout, q.shape[2], k.shape[2])

    def local(q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> jax.Array:
        if layout.size("seq") > 1:
            k, v = (lax.all_gather(x, layout.rules["seq"], axis=1, tiled=True) for x in (k, v))
        if group is not None:
            at = lax.axis_index(layout.rules["kv"]) * q.shape[2] // group
            k, v = (lax.dynamic_slice_in_dim(x, at, 1, axis=2) for x in (k, v))
        return one_attention(q, k, v, spans, **options)

    # Unchecked, as Pallas cannot say over which axes its results vary. Gradients of what is shared are summed even so.
    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(query, key, key, span), out_specs=query, check_vma=False)
    return mapped(q, k, v, spans)


def _key_heads(layout: Layout, heads: int, kv_heads: int) -> int | None:
    """How many query heads share a key/value head, where a device must pick its own out of all; else None.

    Raises UserError where a device's query heads would need parts of several.
    """
    parts = layout.size("kv")
    if kv_heads % parts == 0 or kv_heads == 1:
        return None
    if parts % kv_heads:
        raise UserError(
            f"mesh.tensor={parts} neither divides n_kv_heads={kv_heads} nor is a multiple of it; change one of them"
        )
    return heads // kv_heads


def cross_entropy(
    layout: Layout, hidden: jax.Array, head: jax.Array, targets: jax.Array, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """`pathways_kernels.cross_entropy` of hidden [B, T, E]: each device its tokens and its part of the vocabulary.

    `head` [V, E] lies as a parameter; it is gathered in the dtype of `hidden`, its gradient scattered once.
    """
    if not layout.is_spread:
        return one_cross_entropy(hidden, head.astype(hidden.dtype), targets, **options)
    tokens = layout.spec(("batch", "seq"), targets.shape, "targets")
    table = layout.spec(("vocab", "embed"), head.shape, "the output matrix")
    states = layout.spec(("batch", "seq", "residual"), hidden.shape, "the residual stream")
    vocab_axis = "tensor" if layout.size("vocab") > 1 else None

    def local(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        head = gather_weight(layout, head.astype(hidden.dtype), 1)
        if layout.size("residual") > 1:
            hidden = lax.all_gather(hidden, layout.rules["residual"], axis=2, tiled=True)
        head, targets = _vary(layout, table, head), _vary(layout, tokens, targets)
        return one_cross_entropy(hidden, head, targets, vocab_axis=vocab_axis, **options)

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(states, table, tokens), out_specs=(tokens, tokens))
    return mapped(hidden, head, targets)


def embedding_lookup(layout: Layout, table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of an embedding table [V, E] for tokens int32 [B, T], in `dtype`: [B, T, E], spread as the residual stream.

    The table stays where it is: each device looks up its part of every row for the tokens of all devices that share its
    rows, and the parts are exchanged. That sends T B E numbers, where gathering the table would send V E.
    Rows are cast after the lookup, so that the gradient of a frequent token is summed in float32.
    """
    if not layout.is_spread:
        return jnp.take(table, tokens, axis=0).astype(dtype)
    place = layout.spec(("batch", "seq"), tokens.shape, "tokens")
    parts = layout.spec(("vocab", "embed"), table.shape, "the embedding")
    out = layout.spec(("batch", "seq", "residual"), (*tokens.shape, table.shape[1]), "the residual stream")
    peers = tuple(axis for axis in FSDP_AXES if layout.sizes[axis] > 1)

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        everyones = lax.all_gather(tokens, peers) if peers else tokens[None]
        rows = jnp.take(table, everyones, axis=0) if layout.size("vocab") == 1 else _rows_of_part(table, everyones)
        rows = rows.astype(dtype)
        if peers:
            rows = lax.all_to_all(rows, peers, split_axis=0, concat_axis=3, tiled=True)
        if layout.size("residual") > 1:
            rows = lax.psum_scatter(rows, layout.rules["residual"], scatter_dimension=3, tiled=True)
        return rows[0]

    return jax.shard_map(local, mesh=layout.mesh, in_specs=(parts, place), out_specs=out)(table, tokens)


def _rows_of_part(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows that are in this device's part of the vocabulary, zeros for the others."""
    here = tokens - lax.axis_index("tensor") * table.shape[0]
    is_here = (here >= 0) & (here < table.shape[0])
    return jnp.where(is_here[..., None], jnp.take(table, jnp.where(is_here, here, 0), axis=0), 0.0)


def _vary(layout: Layout, spec: PartitionSpec, arrays: Any) -> Any:
    """Arrays that lie as `spec` says, as values of their own on every device: their gradients are then summed over the
    devices that had them in common."""
    mentioned = {axis for place in spec for axis in ((place,) if isinstance(place, str) else place or ())}
    common = tuple(axis for axis, size in layout.sizes.items() if size > 1 and axis not in mentioned)
    return lax.pcast(arrays, common, to="varying") if common else arrays
