"""Decode with a KV cache, through the same blocks and the same attention contract as training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pathways_kernels.attention import Spans
from pathways_lite.errors import UserError
from pathways_lite.models.decoder import Params, forward, logits
from pathways_lite.models.layers import KVCache
from pathways_lite.recipe import Model


def init_cache(config: Model, batch: int, length: int) -> KVCache:
    """Make an empty cache for `length` positions in all: keys and values [L, B, length, K, D] in config.dtype."""
    shape = (config.n_layers, batch, length, config.n_kv_heads, config.head_dim)
    return jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)


def decode(
    config: Model,
    params: Params,
    cache: KVCache,
    tokens: jax.Array,
    start_position: int | jax.Array,
    prefix_length: int | jax.Array = 0,
) -> tuple[jax.Array, KVCache]:
    """Append `tokens` int32 [B, T] to the cache; T = the prompt's length to prefill, then 1 per step.

    Args:
      cache: from `init_cache` or the last call.
      start_position: position of the first token; one for all rows or int32 [B]. A row whose prompt was padded on the
        right may start at its own prompt's length: later tokens overwrite the padding's entries, and no query sees an
        entry beyond its own position.
      prefix_length: positions below it see each other, as the inputs of a prefix LM do; they have to come in one call.

    Returns:
      The next token's logits after each of the tokens, float32 [B, T, V], and the cache with them.

    Raises:
      UserError: the tokens do not fit into the cache (checked where `start_position` is a Python integer).
    """
    batch, count = tokens.shape
    length = cache[0].shape[2]
    first = start_position if isinstance(start_position, int) else 0
    if first + count > length:
        raise UserError(f"positions {first} to {first + count - 1} do not fit into a cache for {length} positions")
    start = jnp.broadcast_to(jnp.asarray(start_position, jnp.int32), (batch,))
    positions = start[:, None] + jnp.arange(count, dtype=jnp.int32)
    spans = Spans(jnp.zeros_like(positions), jnp.maximum(positions + 1, prefix_length))
    hidden, outputs = forward(config, params, tokens, positions, spans, positions, cache=cache)
    assert outputs.cache is not None
    return logits(config, params, hidden), outputs.cache
