"""Run the decoder one block at a time, each with parameters that the caller gives, and sum up what its kernels read.

Shapes: B batch, T position, E embed; n numbers that a kernel sums over.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_lite.models.block import Block, BlockOutputs, PerLayer, block_inputs, per_layer_inputs
from pathways_lite.models.decoder import ONE_DEVICE, Params, embed
from pathways_lite.models.decoding import block_structure
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model


class Texts(NamedTuple):
    """Sequences that are run through the blocks: NumPy or JAX arrays."""

    tokens: Any  # int32 [B, T]
    positions: Any  # int32 [B, T], for RoPE
    spans: Spans  # int32 [B, T] twice
    counts: Any  # float32 [B, T], 1; 0 for padding


@dataclass(frozen=True)
class BlockByBlock:
    """The blocks of a model, one at a time. A block's parameters are those of `Block`, without the axis of layers."""

    config: Model
    layout: Layout = ONE_DEVICE

    @functools.partial(jax.jit, static_argnums=0)
    def embed(self, embedding: jax.Array, texts: Texts) -> jax.Array:
        """Return the residual stream [B, T, E] below the first block, of an embedding [V, E]."""
        return embed(self.config, embedding, texts.tokens, self.layout)

    @functools.partial(jax.jit, static_argnums=0)
    def run(self, block: Params, index: jax.Array, x: jax.Array, texts: Texts) -> jax.Array:
        """Return the residual stream [B, T, E] above block number `index`, of `x` below it."""
        return self._run(block, index, x, texts, keep_read=False)[0]

    @functools.partial(jax.jit, static_argnums=(0, 5))
    def second_moments(
        self, block: Params, index: jax.Array, x: jax.Array, texts: Texts, names: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        """Sum x xᵀ over the positions that count, float32 [n, n], of what the kernels of block number `index` read.

        `names`: fields of `Read`. Only what these need is computed.
        """
        read = self._run(block, index, x, texts, keep_read=True)[1].read
        return {name: _sum_of_squares(getattr(read, name), texts.counts) for name in names}

    def _run(
        self, block: Params, index: jax.Array, x: jax.Array, texts: Texts, *, keep_read: bool
    ) -> tuple[jax.Array, BlockOutputs]:
        config, positions = self.config, texts.positions
        key_positions = jnp.arange(texts.tokens.shape[1], dtype=jnp.int32)[None, :]
        inputs = block_inputs(config, positions, texts.spans, key_positions, self.layout, keep_read=keep_read)
        layer: PerLayer = jax.tree.map(lambda leaf: leaf[index], per_layer_inputs(config))
        module: Block = nnx.merge(block_structure(config), block)
        return module(x, inputs, layer)


def _sum_of_squares(read: jax.Array, counts: jax.Array) -> jax.Array:
    rows = read.reshape(*counts.shape, -1).astype(jnp.float32) * counts[..., None]
    return jnp.einsum("bti,btj->ij", rows, rows, precision=jax.lax.Precision.HIGHEST)
