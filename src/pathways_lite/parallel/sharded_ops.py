"""Sharded operations under `jax.shard_map`: matrix products, attention, cross-entropy and embedding lookup.

The collectives are the ones written here: GSPMD is not left to choose them. Each device has its rows of the batch and
its shard of every weight. On one device each function is the plain one.

Shapes: B batch, T query position, S key position, H query heads, K key/value heads, D head dim, E embed, V vocabulary.
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
from pathways_kernels.attention import attention as local_attention
from pathways_kernels.cross_entropy import cross_entropy as local_cross_entropy
from pathways_kernels.linear import linear
from pathways_lite.errors import UserError
from pathways_lite.parallel.sharding import Layout, LogicalAxes

# ---- matrix products of activations and weights ----
#
# A weight is gathered over the mesh axes of "embed" where it is used, in the dtype of the computation; in the backward
# pass its gradient is scattered. The residual stream is gathered over its width once for all products that read it, and
# the products that are added to it are scattered once, as a sum: an all-gather and a reduce-scatter where the tensor
# parallelism of Shoeybi et al. 2019 (arXiv 1909.08053) has an all-reduce.
#
# GSPMD would choose the same gathers, but it writes a reduce-scatter as an all-reduce and a slice, which only some
# compilers turn back into a reduce-scatter.

WEIGHT = "weight"
"""Name of a cast and gathered weight, for the policies of `jax.checkpoint`."""


class Weight(NamedTuple):
    """A layer's kernel with its logical axes; it reads the residual stream ("embed" first) or adds to it (last)."""

    value: jax.Array
    axes: LogicalAxes


def project_in(layout: Layout, x: jax.Array, weights: Sequence[Weight]) -> list[jax.Array]:
    """Multiply `x` [B, T, E] by each of several weights [E, ...]; a result [B, T, ...] is sharded like its weight."""
    values = [weight.value.astype(x.dtype) for weight in weights]
    if not layout.is_sharded:
        return [_product(x, value, 1) for value in values]
    x_spec = layout.spec(("batch", "seq", "residual"), x.shape, "the residual stream")
    weight_specs = tuple(layout.spec(weight.axes, weight.value.shape, "a weight") for weight in weights)
    out_specs = tuple(
        layout.spec(("batch", "seq", *weight.axes[1:]), (*x.shape[:2], *weight.value.shape[1:]), "a product")
        for weight in weights
    )

    def local(x: jax.Array, *values: jax.Array) -> tuple[jax.Array, ...]:
        if layout.size("residual") > 1:
            x = lax.all_gather(x, layout.rules["residual"], axis=2, tiled=True)
        return tuple(_product(x, gather_weight(layout, value, 0), 1) for value in values)

    mapped = jax.shard_map(
        local, mesh=layout.mesh, in_specs=(x_spec, *weight_specs), out_specs=out_specs, check_vma=False
    )
    return list(mapped(x, *values))


def project_out(layout: Layout, terms: Sequence[tuple[jax.Array, Weight]]) -> jax.Array:
    """Sum the products of x [B, T, ...] and weight [..., E] in `terms`: [B, T, E], sharded like the residual stream."""
    values = [weight.value.astype(x.dtype) for x, weight in terms]
    if not layout.is_sharded:
        return _sum([_product(x, value, value.ndim - 1) for (x, _), value in zip(terms, values, strict=True)])
    x_specs = tuple(layout.spec(("batch", "seq", *weight.axes[:-1]), x.shape, "a product") for x, weight in terms)
    weight_specs = tuple(layout.spec(weight.axes, weight.value.shape, "a weight") for _, weight in terms)
    x, weight = terms[0]
    out_spec = layout.spec(("batch", "seq", "residual"), (*x.shape[:2], weight.value.shape[-1]), "the residual stream")

    def local(xs: tuple[jax.Array, ...], values: tuple[jax.Array, ...]) -> jax.Array:
        pairs = zip(xs, values, strict=True)
        total = _sum([_product(x, gather_weight(layout, v, v.ndim - 1), v.ndim - 1) for x, v in pairs])
        if layout.size("residual") > 1:
            total = lax.psum_scatter(total, layout.rules["residual"], scatter_dimension=2, tiled=True)
        return total

    mapped = jax.shard_map(
        local, mesh=layout.mesh, in_specs=(x_specs, weight_specs), out_specs=out_spec, check_vma=False
    )
    return mapped(tuple(x for x, _ in terms), tuple(values))


def gather_weight(layout: Layout, shard: jax.Array, axis: int) -> jax.Array:
    """Gather a parameter's shard along its "embed" axis, number `axis`. Call it under `shard_map`."""
    mesh_axes = layout.mesh_axes("embed")
    return lax.all_gather(shard, mesh_axes, axis=axis, tiled=True) if mesh_axes else shard


def _product(x: jax.Array, kernel: jax.Array, n_contracted: int) -> jax.Array:
    """Contract the last `n_contracted` axes of `x` with the first ones of `kernel`, as one 2-D matmul."""
    n_in = math.prod(kernel.shape[:n_contracted])
    lead, out = x.shape[: x.ndim - n_contracted], kernel.shape[n_contracted:]
    weight = checkpoint_name(kernel.reshape(n_in, -1), WEIGHT)
    return linear(x.reshape(*lead, n_in), weight).reshape(*lead, *out)


def _sum(terms: list[jax.Array]) -> jax.Array:
    return functools.reduce(operator.add, terms)


# ---- attention ----


def attention(layout: Layout, q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, **options: Any) -> jax.Array:
    """Run `pathways_kernels.attention` of q [B, T, H, D] to k and v [B, S, K, D] on each device's rows and heads.

    If the sequence is sharded too, keys and values are gathered over `context`. Spans count keys from the start of the
    sequence, so they do not change (context parallelism as in Llama 3, arXiv 2407.21783, 3.3.2).
    """
    if not layout.is_sharded:
        return local_attention(q, k, v, spans, **options)
    q_spec = layout.spec(("batch", "seq", "heads", None), q.shape, "queries")
    kv_spec = layout.spec(("batch", "seq", "kv", None), k.shape, "keys")
    span_spec = layout.spec(("batch", "seq"), spans.start.shape, "spans")
    group_size = _group_size_to_slice(layout, q.shape[2], k.shape[2])

    def local(q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans) -> jax.Array:
        if layout.size("seq") > 1:
            k, v = (lax.all_gather(x, layout.rules["seq"], axis=1, tiled=True) for x in (k, v))
        if group_size is not None:
            kv_head = lax.axis_index(layout.rules["kv"]) * q.shape[2] // group_size
            k, v = (lax.dynamic_slice_in_dim(x, kv_head, 1, axis=2) for x in (k, v))
        return local_attention(q, k, v, spans, **options)

    # Unchecked, as Pallas cannot say over which axes its results vary. Gradients of shared inputs are summed even so.
    in_specs = (q_spec, kv_spec, kv_spec, span_spec)
    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=in_specs, out_specs=q_spec, check_vma=False)
    return mapped(q, k, v, spans)


def _group_size_to_slice(layout: Layout, heads: int, kv_heads: int) -> int | None:
    """Return the number of query heads per key/value head if each device must slice out its own; else None.

    Key/value heads are replicated if they are fewer than the devices that shard the query heads.
    Raises UserError if the query heads of one device would need several key/value heads.
    """
    n_shards = layout.size("kv")
    if kv_heads % n_shards == 0 or kv_heads == 1:
        return None
    if n_shards % kv_heads:
        raise UserError(
            f"mesh.tensor={n_shards} neither divides n_kv_heads={kv_heads} nor is a multiple of it; change one of them"
        )
    return heads // kv_heads


# ---- the vocabulary: cross-entropy and embedding ----


def cross_entropy(
    layout: Layout,
    hidden: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    *,
    mean_logit: bool = False,
    **options: Any,
) -> tuple[jax.Array, ...]:
    """Run `pathways_kernels.cross_entropy` of hidden [B, T, E] on each device's tokens and shard of the vocabulary.

    `head` [V, E] is sharded like a parameter; it is gathered in the dtype of `hidden`, its gradient scattered once.
    """
    if not layout.is_sharded:
        return local_cross_entropy(hidden, head.astype(hidden.dtype), targets, mean_logit=mean_logit, **options)
    token_spec = layout.spec(("batch", "seq"), targets.shape, "targets")
    head_spec = layout.spec(("vocab", "embed"), head.shape, "the output matrix")
    hidden_spec = layout.spec(("batch", "seq", "residual"), hidden.shape, "the residual stream")
    vocab_axis = "tensor" if layout.size("vocab") > 1 else None

    def local(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
        head = gather_weight(layout, head.astype(hidden.dtype), 1)
        if layout.size("residual") > 1:
            hidden = lax.all_gather(hidden, layout.rules["residual"], axis=2, tiled=True)
        head, targets = _vary(layout, head_spec, head), _vary(layout, token_spec, targets)
        return local_cross_entropy(hidden, head, targets, vocab_axis=vocab_axis, mean_logit=mean_logit, **options)

    in_specs, out_specs = (hidden_spec, head_spec, token_spec), (token_spec,) * (3 if mean_logit else 2)
    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=in_specs, out_specs=out_specs)
    return mapped(hidden, head, targets)


def embedding_lookup(layout: Layout, table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Look up tokens int32 [B, T] in a table [V, E]; returns [B, T, E] in `dtype`, sharded like the residual stream.

    The table is not gathered: each device looks up its slice of every row, for the tokens of all devices that share its
    rows, and an all-to-all exchanges the slices. That sends T B E numbers, where gathering the table would send V E.
    Rows are cast after the lookup, so that the gradient of a frequent token is summed in float32.
    """
    if not layout.is_sharded:
        return jnp.take(table, tokens, axis=0).astype(dtype)
    token_spec = layout.spec(("batch", "seq"), tokens.shape, "tokens")
    table_spec = layout.spec(("vocab", "embed"), table.shape, "the embedding")
    out_spec = layout.spec(("batch", "seq", "residual"), (*tokens.shape, table.shape[1]), "the residual stream")
    peers = layout.mesh_axes("embed")

    def local(table: jax.Array, tokens: jax.Array) -> jax.Array:
        all_tokens = lax.all_gather(tokens, peers) if peers else tokens[None]
        rows = jnp.take(table, all_tokens, axis=0) if layout.size("vocab") == 1 else _local_rows(table, all_tokens)
        rows = rows.astype(dtype)
        if peers:
            rows = lax.all_to_all(rows, peers, split_axis=0, concat_axis=3, tiled=True)
        if layout.size("residual") > 1:
            rows = lax.psum_scatter(rows, layout.rules["residual"], scatter_dimension=3, tiled=True)
        return rows[0]

    mapped = jax.shard_map(local, mesh=layout.mesh, in_specs=(table_spec, token_spec), out_specs=out_spec)
    return mapped(table, tokens)


def _local_rows(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Look up tokens in this device's shard of the vocabulary; zeros for tokens of other shards."""
    index = tokens - lax.axis_index("tensor") * table.shape[0]
    is_local = (index >= 0) & (index < table.shape[0])
    return jnp.where(is_local[..., None], jnp.take(table, jnp.where(is_local, index, 0), axis=0), 0.0)


def _vary(layout: Layout, spec: PartitionSpec, arrays: Any) -> Any:
    """Mark arrays with this spec as varying over every mesh axis.

    Their gradients are then summed over the devices that hold equal copies.
    """
    sharded = {axis for entry in spec for axis in ((entry,) if isinstance(entry, str) else entry or ())}
    replicated = tuple(axis for axis, size in layout.sizes.items() if size > 1 and axis not in sharded)
    return lax.pcast(arrays, replicated, to="varying") if replicated else arrays
