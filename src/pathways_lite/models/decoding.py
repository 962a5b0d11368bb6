"""Decode with a cache of keys and values, through the same blocks as training.

B rows, T new tokens, S entries of a cache, C recent entries, H query heads, K key/value heads, D head, E embed.

`step` reads a few tokens: a part of a prompt, or the one that was drawn last. Blocks are unrolled, and their weights
and caches are arrays of their own (`unstack`), so that nothing is written but what changes: new keys go into a small
array of recent ones, at one place for all rows, and `merge` puts them into the cache once in a while.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_lite.models.block import Block, block_inputs, per_layer_inputs, residual_norm
from pathways_lite.models.decoder import ONE_DEVICE, Params, embed, logits
from pathways_lite.models.step_cache import CachePlace, LayerCache, SharedPlace, StepCache
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model


class StepWeights(NamedTuple):
    """A decoder's parameters in the dtype of the computation, those of each layer by themselves."""

    rest: Params
    layers: tuple[Params, ...]


Cache = tuple[LayerCache, ...]
"""Of each layer, [B, K, S, D]; entry s belongs to position s of a row, behind those of a prompt that it shares."""


class Shared(NamedTuple):
    """Prompts that rows share instead of having copies of their keys and values."""

    cache: Cache  # [K, N, D] of each layer
    place: SharedPlace


def unstack(config: Model, params: Params) -> StepWeights:
    """Cut stacked parameters into those of each layer, as `step` wants them.

    All but norms are cast to config.dtype here, as blocks would do at every token.
    """

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        is_norm = any("norm" in str(key) for key in path)
        return leaf if is_norm else leaf.astype(config.dtype)

    params = jax.tree.map_with_path(cast, params)
    rest = {name: value for name, value in params.items() if name != "layers"}
    layers = params["layers"]
    return StepWeights(rest, tuple(jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(config.n_layers)))


def empty_cache(config: Model, batch: int, length: int) -> Cache:
    """Make a cache without entries, [B, K, length, D] in config.dtype, or one for `length` recent tokens."""
    shape = (batch, config.n_kv_heads, length, config.head_dim)
    return tuple(
        LayerCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype)) for _ in range(config.n_layers)
    )


def step(
    config: Model,
    weights: StepWeights,
    cache: Cache,
    recent: Cache,
    tokens: jax.Array,
    start: jax.Array,
    count: jax.Array | int = 0,
    prefix_length: jax.Array | int = 0,
    *,
    shared: Shared | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, Cache]:
    """Read `tokens` int32 [B, T], which follow those of the cache and the first `count` recent ones.

    Args:
      start: int32 [B], the number of each row's entries in `shared` and `cache`; the recent ones follow.
      prefix_length: int32 [B], positions below it see each other, as the inputs of a prefix LM do; they have to come in
        one call.
      shared: prompts whose entries come before those of `cache`.

    Returns:
      The hidden states after each token, [B, T, E], and the recent entries with the new ones.
    """
    place = CachePlace(start, jnp.asarray(count, jnp.int32), None if shared is None else shared.place)
    prompts = [None] * config.n_layers if shared is None else shared.cache
    positions = start[:, None] + count + jnp.arange(tokens.shape[1], dtype=jnp.int32)
    seen = jnp.maximum(positions + 1, jnp.reshape(prefix_length, (-1, 1)))
    spans = Spans(jnp.zeros_like(positions), seen)
    inputs = block_inputs(config, positions, spans, positions, layout)
    x = embed(config, weights.rest["embedding"], tokens, layout)
    per_layer = per_layer_inputs(config)
    new = []
    for i, (params, old, young, prompt) in enumerate(zip(weights.layers, cache, recent, prompts, strict=True)):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], per_layer)
        layer = layer._replace(cache=StepCache(old, young, place, prompt))
        x, outputs = nnx.merge(block_structure(config), params)(x, inputs, layer)
        new.append(outputs.cache.recent)
    return nnx.merge(_norm_structure(config), weights.rest["final_norm"])(x), tuple(new)


def step_logits(config: Model, weights: StepWeights, hidden: jax.Array) -> jax.Array:
    """Return the logits [..., V] in float32 of hidden states [..., E]."""
    return logits(config, weights.rest, hidden)


def merge(cache: Cache, recent: Cache, start: jax.Array, count: jax.Array, *, layout: Layout = ONE_DEVICE) -> Cache:
    """Put the first `count` int32 [B] recent entries of each row into the cache, from entry `start` int32 [B] on."""

    def put(old: jax.Array, young: jax.Array) -> jax.Array:
        index = jnp.arange(old.shape[2])[None, :] - start[:, None]  # of the recent entry that belongs there, [B, S]
        is_new = (index >= 0) & (index < count[:, None])
        at = jnp.clip(index, 0, young.shape[2] - 1)
        merged = jnp.where(is_new[:, None, :, None], jnp.take_along_axis(young, at[:, None, :, None], axis=2), old)
        return layout.constrain(merged, "batch", "kv", None, None)

    return jax.tree.map(put, cache, recent)


@functools.lru_cache(maxsize=64)
def block_structure(config: Model) -> Any:
    """Return the block's module without values, to be merged with the parameters of one layer."""
    return nnx.split(nnx.eval_shape(lambda: Block(config, nnx.Rngs(params=jax.random.key(0)))))[0]


@functools.lru_cache(maxsize=64)
def _norm_structure(config: Model) -> Any:
    return nnx.split(nnx.eval_shape(lambda: residual_norm(config, (config.d_model,), ("embed",))))[0]
