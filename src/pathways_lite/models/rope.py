"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864), computed in float32."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Rotary(NamedTuple):
    """The rotation of every position: float32 [B, T, D/2] twice."""

    cos: jax.Array
    sin: jax.Array


def rotary(positions: jax.Array, head_dim: int, base: float) -> Rotary:
    """Angles `position * base^(-2i/D)` for the pairs i = 0 .. D/2-1 of `positions` int32 [B, T]."""
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def rotate(x: jax.Array, rotation: Rotary) -> jax.Array:
    """Rotate the heads `x` [B, T, heads, D], result in x.dtype.

    Half-split pairing: element i turns with element i + D/2 (as GPT-NeoX and the published Llama weights
    in the Hugging Face layout; the paper pairs 2i with 2i + 1, which is the same up to a permutation of D).
    """
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
