"""What a learning-rate schedule has done up to a step: the inputs of the annealing laws."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import signal

from pathways_lite.errors import UserError

Shape = Literal["constant", "cosine", "wsd", "wsdld", "wsdcon"]


def schedule(
    shape: Shape, steps: int, *, peak: float, end: float = 0.0, warmup: int = 0, stable: int | None = None
) -> np.ndarray:
    """Learning rates of steps 0 .. steps-1 after a linear warm-up of `warmup` steps, [steps].

    cosine falls from peak to end over what follows the warm-up; wsd exponentially and wsdld linearly from `stable`;
    wsdcon drops to `end` there at once.
    """
    step = np.arange(steps, dtype=np.float64)
    rates = np.full(steps, peak)
    begin = warmup if shape == "cosine" else steps if stable is None else stable
    share = np.clip((step - begin) / max(steps - begin, 1), 0, 1)
    after = step >= begin
    match shape:
        case "cosine":
            rates = np.where(after, end + 0.5 * (peak - end) * (1 + np.cos(np.pi * share)), peak)
        case "wsd":
            rates = np.where(after, peak * (end / peak) ** share, peak)
        case "wsdld":
            rates = np.where(after, peak + (end - peak) * share, peak)
        case "wsdcon":
            rates = np.where(after, end, peak)
        case "constant":
            pass
        case _:
            raise UserError(f"schedule {shape!r} is not known; give constant, cosine, wsd, wsdld or wsdcon")
    return np.where(step < warmup, peak * step / max(warmup, 1), rates)


def forward_area(rates: np.ndarray) -> np.ndarray:
    """S1(s), the sum of learning rates up to and with step s, [steps]."""
    return np.cumsum(rates)


def annealing_area(rates: np.ndarray, momentum: float = 0.999) -> np.ndarray:
    """S2(s) of Tissue et al., [steps]: the sum of m_i = momentum m_{i-1} + (eta_{i-1} - eta_i), m_0 = 0.

    A linear recurrence, so two linear filters.
    """
    falls = np.concatenate([[0.0], -np.diff(rates)])
    return np.cumsum(signal.lfilter([1.0], [1.0, -momentum], falls))
