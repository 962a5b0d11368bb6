"""Llama 3.1's scaling of RoPE in GGUF files: a table of factors, from which its four numbers are found again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

_TOLERANCE = 1e-4  # relative, of the factors, which are float32
_LOW, _HIGH = 1.0, 4.0  # of all published models


def llama3_parameters(factors: np.ndarray, base: float) -> dict[str, Any] | None:
    """Return `rope_scaling` of config.json that gives a table of factors; None where nothing does.

    Args:
      factors: `[D / 2]`, what the frequency of each pair of dimensions is divided by.
      base: RoPE's base.

    A table fixes the bounds and the original length up to a common factor, so the lower bound is taken as 1.
    """
    factor = float(str(np.float32(factors.max())))
    turns = base ** -(np.arange(len(factors)) / len(factors)) / (2 * math.pi)  # of a pair, per token
    for length, high in _candidates(factors, factor, turns):
        share = np.clip((length * turns - _LOW) / (high - _LOW), 0, 1)
        expected = 1 / ((1 - share) / factor + share)
        if np.allclose(factors, expected, rtol=_TOLERANCE, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": high,
                "original_max_position_embeddings": length,
            }
    return None


def _candidates(factors: np.ndarray, factor: float, turns: np.ndarray) -> Iterator[tuple[int, float]]:
    """Yield original lengths and upper bounds that a table may have: those of published models, then a fit."""
    share = (1 / factors - 1 / factor) / (1 - 1 / factor) if factor > 1 else np.ones(len(factors))
    between = (share > _TOLERANCE) & (share < 1 - _TOLERANCE)
    if not between.any():  # any length will do for which no pair is between the bounds
        kept, divided = turns[share >= 0.5], turns[share < 0.5]
        least = _HIGH / kept.min() if kept.size else 1.0
        most = _LOW / divided.max() if divided.size else 2 * least
        yield from ((length, _HIGH) for length in (8192, round(math.sqrt(least * most))) if least <= length <= most)
        return
    yield round(float(np.median((_LOW + share * (_HIGH - _LOW))[between] / turns[between]))), _HIGH
    if between.sum() > 1:
        slope, start = np.polyfit(turns[between], share[between], 1)
        if start < 0:
            high = round(1 - 1 / start, 4)
            yield round(slope * (high - _LOW)), high
