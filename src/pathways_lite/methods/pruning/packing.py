"""Masks as bits, eight to a byte along an array's last axis.

A packed mask has its parameter's axes, the last one an eighth as long, so it is spread over devices as the parameter is
and each device packs and unpacks its own part, where that is whole bytes. Packing along the stacked layers instead,
which no rule spreads, would waste bits in all models whose depth is no multiple of eight.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def pack(mask: jax.Array) -> jax.Array:
    """Bits of a boolean array [..., n] as uint8 [..., ceil(n / 8)], the first in the lowest place, zeros at the end."""
    size = mask.shape[-1]
    if size % 8:
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, -size % 8)])
    bits = mask.reshape(*mask.shape[:-1], -1, 8).astype(jnp.uint8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack(packed: jax.Array, size: int) -> jax.Array:
    """The boolean array [..., size] that was packed."""
    bits = (packed[..., None] >> jnp.arange(8, dtype=jnp.uint8)) & 1
    return bits.reshape(*packed.shape[:-1], -1)[..., :size].astype(bool)


def packed(mask: np.ndarray) -> np.ndarray:
    """`pack` in host memory."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpacked(bits: np.ndarray, size: int) -> np.ndarray:
    """`unpack` in host memory."""
    return np.unpackbits(bits, axis=-1, count=size, bitorder="little").astype(bool)
