"""Patterns of N:M as values and places: n of every m weights along an axis, and where in their m each stood.

For 2:4 in bfloat16 that is 9/16 of the bytes, and what sparse tensor cores take, up to the order in which a vendor's
library wants the places. In host memory.
"""

from __future__ import annotations

import numpy as np

from pathways_lite.recipe import NM


def compressed(x: np.ndarray, mask: np.ndarray, axis: int, pattern: NM) -> tuple[np.ndarray, np.ndarray]:
    """Values, n / m as many along `axis`, and their places, packed along it: 4 to a byte up to m = 4, else 2.

    Raises ValueError where the mask has more than n of some m.
    """
    groups = np.moveaxis(mask, axis, -1).reshape(*_rest(x, axis), -1, pattern.m)
    if (groups.sum(axis=-1) > pattern.n).any():
        raise ValueError(f"the mask has more than {pattern.n} active weights of some {pattern.m} along axis {axis}")
    # Active ones first, in their order; of where there are fewer, places of zeros after them.
    places = np.sort(np.argsort(~groups, axis=-1, kind="stable")[..., : pattern.n], axis=-1)
    values = np.moveaxis(np.where(mask, x, 0), axis, -1).reshape(groups.shape)
    values = np.take_along_axis(values, places, axis=-1)
    flat = lambda y: np.moveaxis(y.reshape(*_rest(x, axis), -1), -1, axis)  # noqa: E731
    return flat(values), _packed(flat(places).astype(np.uint8), axis, _bits(pattern))


def decompressed(values: np.ndarray, places: np.ndarray, axis: int, pattern: NM) -> np.ndarray:
    """The array that was compressed, its mask applied."""
    size = values.shape[axis]
    at = np.moveaxis(_unpacked(places, axis, _bits(pattern), size), axis, -1)
    at = at.reshape(*at.shape[:-1], -1, pattern.n)
    x = np.zeros((*at.shape[:-1], pattern.m), values.dtype)
    np.put_along_axis(x, at, np.moveaxis(values, axis, -1).reshape(at.shape), axis=-1)
    return np.moveaxis(x.reshape(*x.shape[:-2], -1), -1, axis)


def _rest(x: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(size for at, size in enumerate(x.shape) if at != axis)


def places_per_byte(pattern: NM) -> int:
    """How many places of values are packed into a byte."""
    return 8 // _bits(pattern)


def _bits(pattern: NM) -> int:
    return 2 if pattern.m <= 4 else 4


def _packed(x: np.ndarray, axis: int, bits: int) -> np.ndarray:
    """Small numbers along an axis, as many to a byte as fit, the first in the lowest place."""
    x, each = np.moveaxis(x, axis, -1), 8 // bits
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % each)]).reshape(*x.shape[:-1], -1, each)
    bytes_ = np.bitwise_or.reduce(x << (bits * np.arange(each, dtype=np.uint8)), axis=-1)
    return np.moveaxis(bytes_.astype(np.uint8), -1, axis)


def _unpacked(x: np.ndarray, axis: int, bits: int, size: int) -> np.ndarray:
    x = np.moveaxis(x, axis, -1)[..., None] >> (bits * np.arange(8 // bits, dtype=np.uint8))
    x = (x & ((1 << bits) - 1)).reshape(*x.shape[:-2], -1)
    return np.moveaxis(x[..., :size], -1, axis)
