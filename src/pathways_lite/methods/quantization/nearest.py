"""Rounding to the nearest of 2^P levels, asymmetric, per output channel or in groups along what is summed over.

scale = (max - min) / (2^P - 1), zero = round(-min / scale), code = clamp(round(w / scale) + zero, 0, 2^P - 1), and the
number that a code stands for is scale (code - zero). The range [min, max] includes 0, which therefore stays 0.
Numbers are float32 throughout; a half is rounded to the even neighbor, as IEEE 754 does.

Shapes: a kernel is a matrix [n, m], n summed over; G groups of rows, the last of which may have fewer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pathways_lite.errors import UserError

BITS = range(2, 9)
SCALE_BITS = 32
"""Bits of a scale, which is stored in float32; a zero takes as many bits as a code."""


class Grid(NamedTuple):
    """The levels of some rows of a kernel, by column."""

    scale: np.ndarray  # float32 [m]
    zero: np.ndarray  # uint8 [m]

    def encode(self, weights: np.ndarray, bits: int) -> np.ndarray:
        """Return the codes of weights [..., m], uint8."""
        code = np.round(weights.astype(np.float32) / self.scale) + self.zero
        return np.clip(code, 0, 2**bits - 1).astype(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the numbers that codes [..., m] stand for, float32."""
        return self.scale * (codes.astype(np.float32) - self.zero)


class Quantized(NamedTuple):
    """A quantized kernel."""

    codes: np.ndarray  # uint8 [n, m]
    scales: np.ndarray  # float32 [G, m]
    zeros: np.ndarray  # uint8 [G, m]

    def decode(self, group: int | None) -> np.ndarray:
        """Return the numbers, float32 [n, m]."""
        return decode(self.codes, self.scales, self.zeros, group)


def fit_grid(weights: np.ndarray, bits: int) -> Grid:
    """Return the levels for weights [n, m]; where all of a column are 0, its scale is 1."""
    low = np.minimum(weights.min(axis=0), 0).astype(np.float32)
    high = np.maximum(weights.max(axis=0), 0).astype(np.float32)
    scale = (high - low) / np.float32(2**bits - 1)
    scale = np.where(scale > 0, scale, np.float32(1))
    return Grid(scale, np.round(-low / scale).astype(np.uint8))


def quantize_nearest(weights: np.ndarray, bits: int, group: int | None) -> Quantized:
    """Round weights [n, m] to `bits` bits, in groups of `group` rows; None: one group."""
    parts = [weights[rows] for rows in group_rows(len(weights), group)]
    grids = [fit_grid(part, bits) for part in parts]
    codes = [grid.encode(part, bits) for grid, part in zip(grids, parts, strict=True)]
    scales, zeros = (np.stack(values) for values in zip(*grids, strict=True))
    return Quantized(np.concatenate(codes), scales, zeros)


def decode(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray, group: int | None) -> np.ndarray:
    """Return the numbers that codes [n, m] stand for with scales and zeros [G, m], float32."""
    rows = group_rows(len(codes), group)
    return np.concatenate([Grid(*grid).decode(codes[part]) for part, *grid in zip(rows, scales, zeros, strict=True)])


def group_rows(n: int, group: int | None) -> list[slice]:
    """Return the rows of each group of n rows."""
    size = group or n
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def effective_bits(n: int, bits: int, group: int | None) -> float:
    """Return the bits that a weight takes on average with its share of scales and zeros, of n weights summed over."""
    return bits + (SCALE_BITS + bits) * len(group_rows(n, group)) / n


def require_bits(bits: int, group: int | None) -> None:
    """Raise UserError for a number of bits or a group that there is not."""
    if bits not in BITS:
        raise UserError(f"--bits={bits} is not from {BITS[0]} to {BITS[-1]}")
    if group is not None and group < 1:
        raise UserError(f"--group={group} is not a number of weights; use e.g. 128, or 0 for one group per output")
