"""How a noisy curve is smoothed."""

from __future__ import annotations

import numpy as np


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of up to `window` (odd) values around each one; fewer, but as many on both sides, near the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    index = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)
