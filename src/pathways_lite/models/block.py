"""The transformer block: PaLM's parallel form and Llama's serial one, and what it needs beside the residual stream.

Shapes: B batch, T position, E embed, L layers. A block is made with the parameters of all layers stacked on a leading
axis of length L, and called on one layer's slice of them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_lite.models.activations import Activations, observe
from pathways_lite.models.layers import (
    MLP,
    Attention,
    Axes,
    Norm,
    Rotary,
    add_bias,
    drop_branch,
    dropout,
    layer_weight,
    rotary,
)
from pathways_lite.models.step_cache import StepCache
from pathways_lite.parallel.sharded_ops import project_in, project_out
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model

NO_WINDOW = 1 << 30  # longer than any sequence, and far from the end of int32


class Auxiliary(NamedTuple):
    """What a forward pass gives beside hidden states: float32 scalars, summed over the blocks.

    `losses` are added to the training loss, weights included (a router's load balance, say); `metrics` are logged
    under their names. The dense blocks have neither. `activations` are not summed, but of each block, [L], where they
    are observed.
    """

    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]
    activations: Activations | None = None


NO_AUXILIARY = Auxiliary({}, {})


Segments = Sequence[tuple[int, int, frozenset[str]]]
"""Runs of blocks (first, end, names of arrays without gradients in them); (): one run, with all gradients."""


class BlockInputs(NamedTuple):
    """Inputs that all blocks of one forward pass share."""

    rotation: Rotary
    local_rotation: Rotary | None  # of layers with a window, where theirs differs
    spans: Spans
    key_positions: jax.Array  # int32 [B, T], where each query stands on the key axis
    layout: Layout
    observe: bool = False  # whether blocks return `Activations`
    keep_read: bool = False  # whether blocks return `Read`
    segments: Segments = ()


class PerLayer(NamedTuple):
    """Inputs that differ from block to block, besides the parameters; None where the model has no such thing."""

    window: jax.Array | None = None  # int32, sliding window in tokens
    dropout_key: jax.Array | None = None
    cache: StepCache | None = None
    drop_rate: jax.Array | None = None  # float32, probability of stochastic depth


class Read(NamedTuple):
    """What the kernels of a block are multiplied with, in the dtype of the computation."""

    attention: jax.Array  # [B, T, E], by the projections to queries, keys and values
    heads: jax.Array  # [B, T, H, D], by the projection out of attention
    mlp: jax.Array  # [B, T, E], by the projections into the MLP; `attention` itself where both share a norm
    units: jax.Array  # [B, T, F], by the projection out of the MLP


class BlockOutputs(NamedTuple):
    """What a block returns beside the residual stream; stacked on a layer axis by the scan over blocks."""

    cache: StepCache | None
    auxiliary: Auxiliary
    read: Read | None = None


def residual_norm(config: Model, shape: tuple[int, ...], axes: Axes) -> Norm:
    """The norm over the embed axis that the model uses everywhere in the residual stream."""
    return Norm(shape, axes, config.norm_epsilon, centered=config.norm == "layer", bias=config.has_bias("norm"))


class Block(nnx.Module):
    """One transformer block: made with the parameters of all layers stacked, called on one layer's slice of them.

    parallel (PaLM section 2): y = x + MLP(N(x)) + Attention(N(x)), one shared norm, or one each (GPT-NeoX).
    serial (Llama):            h = x + Attention(N1(x)),  y = h + MLP(N2(h)).
    Norms may also be after the branches, h = x + N1(Attention(x)) (OLMo 2), or on both sides (Gemma 2).
    """

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.config = config
        norm = functools.partial(residual_norm, config, (config.n_layers, config.d_model), ("layers", "embed"))
        if config.block == "parallel" and config.parallel_norms is None:
            self.norm = norm()
        elif config.norm_position != "post":
            self.attention_norm, self.mlp_norm = norm(), norm()
        if config.norm_position is not None:
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()
        self.attention = Attention(config, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: jax.Array, inputs: BlockInputs, layer: PerLayer) -> tuple[jax.Array, BlockOutputs]:
        layout, attention, mlp = inputs.layout, self.attention, self.mlp
        if self.config.block == "parallel":
            if self.config.parallel_norms is None:
                attention_input = mlp_input = self.norm(x)
                q, k, v, *hidden = project_in(layout, attention_input, [*attention.qkv_weights, *mlp.in_weights])
            else:
                attention_input = self.attention_norm(x)
                q, k, v = project_in(layout, attention_input, attention.qkv_weights)
                mlp_input = self.mlp_norm(x)
                hidden = project_in(layout, mlp_input, mlp.in_weights)
            heads, cache, logit = self._attend(q, k, v, inputs, layer)
            units = mlp(*hidden)
            x = x + self._add_branches(layer, layout, attention=heads, mlp=units)
        else:
            is_normed = self.config.norm_position != "post"
            attention_input = self.attention_norm(x) if is_normed else x
            q, k, v = project_in(layout, attention_input, attention.qkv_weights)
            heads, cache, logit = self._attend(q, k, v, inputs, layer)
            x = x + self._add_branches(layer, layout, attention=heads)
            mlp_input = self.mlp_norm(x) if is_normed else x
            hidden = project_in(layout, mlp_input, mlp.in_weights)
            units = mlp(*hidden)
            x = x + self._add_branches(layer, layout, mlp=units)
        activations = None if logit is None else observe(x, logit)
        read = Read(attention_input, heads, mlp_input, units) if inputs.keep_read else None
        return x, BlockOutputs(cache, NO_AUXILIARY._replace(activations=activations), read)

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, inputs: BlockInputs, layer: PerLayer
    ) -> tuple[jax.Array, StepCache | None, jax.Array | None]:
        """softmax(Q K^T) V of every head, [B, T, H, D], before the output projection; the largest logit, or None."""
        rotation, spans, key_positions = inputs.rotation, inputs.spans, inputs.key_positions
        if layer.window is not None:
            spans = Spans(jnp.maximum(spans.start, key_positions + 1 - layer.window), spans.stop)
            if inputs.local_rotation is not None:
                is_local = layer.window < NO_WINDOW
                rotation = jax.tree.map(functools.partial(jnp.where, is_local), inputs.local_rotation, rotation)
        return self.attention(
            q, k, v, rotation, spans, layer.cache, key_positions, inputs.layout, observe=inputs.observe
        )

    def _add_branches(self, layer: PerLayer, layout: Layout, **branches: jax.Array) -> jax.Array:
        """Sum the output projections of the `attention` heads and the `mlp`'s hidden units.

        Each has its bias, norm and dropout where the model has them. Stochastic depth drops the sum: in a serial block
        attention and MLP draw by themselves.
        """
        weights = {"attention": self.attention.out, "mlp": self.mlp.down}
        biases = {"attention": self.attention.out_bias, "mlp": self.mlp.down_bias}
        terms = {name: (value, layer_weight(weights[name])) for name, value in branches.items()}
        dropout_key = layer.dropout_key if self.config.dropout > 0.0 else None
        if dropout_key is None and self.config.norm_position is None:
            total = functools.reduce(add_bias, [biases[name] for name in terms], project_out(layout, [*terms.values()]))
        else:
            outputs = {name: add_bias(project_out(layout, [term]), biases[name]) for name, term in terms.items()}
            if self.config.norm_position is not None:
                norms = {"attention": self.attention_post_norm, "mlp": self.mlp_post_norm}
                outputs = {name: norms[name](output) for name, output in outputs.items()}
            if dropout_key is not None:
                keys = dict(zip(weights, jax.random.split(dropout_key), strict=True))
                outputs = {name: dropout(x, self.config.dropout, keys[name]) for name, x in outputs.items()}
            total = functools.reduce(operator.add, outputs.values())
        if layer.dropout_key is None or layer.drop_rate is None:
            return total
        # `split` above gives the keys 0 and 1 of a layer's.
        key = jax.random.fold_in(layer.dropout_key, 2 + list(weights).index(next(iter(branches))))
        return drop_branch(total, layer.drop_rate, key, by_row=self.config.stochastic_depth_by != "batch")


def block_inputs(
    config: Model,
    positions: jax.Array,
    spans: Spans,
    key_positions: jax.Array,
    layout: Layout,
    *,
    observe: bool = False,
    keep_read: bool = False,
    segments: Segments = (),
) -> BlockInputs:
    """Return what all blocks share, for tokens at `positions` int32 [B, T]."""
    rotation = rotary(positions, config.rotary_dim, config.rope_base, config.rope_scaling)
    base = config.local_rope_base
    local_rotation = None if base is None else rotary(positions, config.rotary_dim, base)
    return BlockInputs(rotation, local_rotation, spans, key_positions, layout, observe, keep_read, segments)


def per_layer_inputs(config: Model, dropout_key: jax.Array | None = None, cache: StepCache | None = None) -> PerLayer:
    """Build the inputs that differ between blocks, stacked on a leading axis as the parameters are."""
    window = None
    if config.window is not None and any(w is not None for w in config.window):
        pattern = [NO_WINDOW if w is None else min(w, NO_WINDOW) for w in config.window]
        window = jnp.tile(jnp.array(pattern, jnp.int32), config.n_layers // len(pattern))
    drop_rate = None
    if dropout_key is not None and config.stochastic_depth:
        drop_rate = config.stochastic_depth / config.n_layers * jnp.arange(1, config.n_layers + 1, dtype=jnp.float32)
    if dropout_key is not None and (config.dropout > 0.0 or drop_rate is not None):
        dropout_key = jax.vmap(functools.partial(jax.random.fold_in, dropout_key))(jnp.arange(config.n_layers))
    else:
        dropout_key = None
    return PerLayer(window, dropout_key, cache, drop_rate)
