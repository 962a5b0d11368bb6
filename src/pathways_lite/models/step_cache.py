"""What a few new tokens attend to when a model decodes: shared prompts, a cache of their row, and the recent entries.

B rows, T new tokens, N entries of shared prompts, S entries of a row's cache, C recent entries, H query heads, K
key/value heads, D head.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention import Spans


def einsum_in_float32(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply arrays, summed and returned in float32."""
    # CPUs have no products of bfloat16 with such results for every shape; widening the operands is exact.
    return lax.platform_dependent(
        x,
        y,
        cpu=lambda x, y: jnp.einsum(subscripts, x.astype(jnp.float32), y.astype(jnp.float32)),
        default=functools.partial(jnp.einsum, subscripts, preferred_element_type=jnp.float32),
    )


class LayerCache(NamedTuple):
    """Keys and values of one layer, [B, K, S, D]."""

    keys: jax.Array
    values: jax.Array


class SharedPlace(NamedTuple):
    """Each row's part of the shared prompts, which are one after another in one array."""

    begin: jax.Array  # int32 [B], the entry of the row's first token
    length: jax.Array  # int32 [B], the number of its tokens there; 0: the row has all entries itself


class CachePlace(NamedTuple):
    """Where new tokens stand behind a cache: in the same place of the recent entries for all rows."""

    start: jax.Array  # int32 [B], the number of entries in the cache, shared ones included
    recent: jax.Array  # int32 [], the number of recent entries that follow
    shared: SharedPlace | None = None


class StepCache(NamedTuple):
    """The keys and values that a few new tokens see, besides their own."""

    own: LayerCache
    recent: LayerCache  # [B, K, C, D]
    place: CachePlace
    shared: LayerCache | None = None  # [K, N, D], for all rows

    def append(self, k: jax.Array, v: jax.Array) -> StepCache:
        """Put the new keys and values [B, T, K, D] behind the recent ones."""

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(new, 1, 2), self.place.recent, axis=2)

        return self._replace(recent=LayerCache(put(self.recent.keys, k), put(self.recent.values, v)))

    def attend(self, q: jax.Array, spans: Spans, *, scale: float, soft_cap: float | None) -> jax.Array:
        """Compute softmax(Q K^T) V of the heads q [B, T, H, D] over the entries in `spans` of positions [B, T].

        Each part is attended to by itself, and their sums are added with a common maximum, so that no keys of a shared
        prompt are copied into rows.
        """
        B, T, H, D = q.shape
        K = self.own.keys.shape[1]
        grouped = q.reshape(B, T, K, H // K, D)
        parts = [("bksd", self.own, self._sees_own(spans)), ("bksd", self.recent, self._sees_recent(spans))]
        if self.shared is not None:
            parts.insert(0, ("ksd", self.shared, self._sees_shared(spans)))
        scores = []
        for axes, part, is_seen in parts:
            score = scale * einsum_in_float32(f"btkgd,{axes}->bkgts", grouped, part.keys)
            if soft_cap is not None:
                score = soft_cap * jnp.tanh(score / soft_cap)
            scores.append(jnp.where(is_seen[:, None, None], score, -jnp.inf))
        # A token sees itself, so the maximum is finite.
        largest = functools.reduce(jnp.maximum, [jnp.max(score, axis=-1, keepdims=True) for score in scores])
        total: jax.Array | float = 0.0
        heads: jax.Array | float = 0.0
        for (axes, part, _), score in zip(parts, scores, strict=True):
            weights = jnp.exp(score - largest)
            total += jnp.sum(weights, axis=-1)
            heads += einsum_in_float32(f"bkgts,{axes}->bkgtd", weights.astype(q.dtype), part.values)
        return jnp.moveaxis(heads / jnp.asarray(total)[..., None], 3, 1).reshape(B, T, H, D).astype(q.dtype)

    def _sees_shared(self, spans: Spans) -> jax.Array:
        """Which entries [B, T, N] of the shared prompts each token sees: those of its row's."""
        assert self.shared is not None
        assert self.place.shared is not None
        begin, length = (x[:, None, None] for x in self.place.shared)
        position = jnp.arange(self.shared.keys.shape[1]) - begin
        stop = jnp.minimum(jnp.minimum(spans.stop[..., None], length), self.place.start[:, None, None])
        return (position >= jnp.maximum(spans.start[..., None], 0)) & (position < stop)

    def _sees_own(self, spans: Spans) -> jax.Array:
        """Which entries [B, T, S] of its row each token sees."""
        position = jnp.arange(self.own.keys.shape[2])[None, None, :]
        if self.place.shared is not None:
            position = position + self.place.shared.length[:, None, None]
        stop = jnp.minimum(spans.stop[..., None], self.place.start[:, None, None])
        return (position >= spans.start[..., None]) & (position < stop)

    def _sees_recent(self, spans: Spans) -> jax.Array:
        """Which recent entries [B, T, C] each token sees."""
        position = self.place.start[:, None, None] + jnp.arange(self.recent.keys.shape[2])
        return (position >= spans.start[..., None]) & (position < spans.stop[..., None])
