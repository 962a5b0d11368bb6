"""G_stack's guidelines: when to grow, and by how much (Du et al. 2024, arXiv 2405.15319, section 4 and appendix F).

The formulas were fitted to models of 410 M to 3 B parameters and up to about 1.5e21 FLOPs. For toy models the first
gives more tokens than there are to train on; `advise` gives at most a fifth of them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

FITTED_PARAMETERS = (410e6, 3e9)
FITTED_FLOPS = 1.5e21
MAX_BASE_FRACTION = 0.2  # of all tokens
FACTOR = 4  # their recommendation; the optimum is between 2 and 4


def growth_timing(parameters: float, flops: float) -> float:
    """Return the tokens d to train the base on: log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74 (equation 2).

    N: the target's parameters; C = 6 N D: FLOPs to train it on D tokens. Warns outside the fit's range.
    """
    _warn(parameters, flops)
    return 10.0 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74)


def growth_factor(parameters: float, flops: float) -> float:
    """Return the ratio g of non-embedding parameters: log10 g = 1.01 log10 N - 29.88 / log10 C - 7.36 (appendix F).

    The fit is to two sizes, and they call it mediocre; at least 1. Warns outside the fit's range.
    """
    _warn(parameters, flops)
    return max(1.0, 10 ** (1.01 * math.log10(parameters) - 29.88 / math.log10(flops) - 7.36))


@dataclass(frozen=True)
class Advice:
    """Advice for a model of N parameters on D tokens."""

    parameters: float
    tokens: float
    fitted_timing: float
    fitted_factor: float
    factor: int = FACTOR

    @property
    def timing(self) -> float:
        """The tokens to train the base on: the fit's, at most a fifth of all."""
        return min(self.fitted_timing, MAX_BASE_FRACTION * self.tokens)

    @property
    def is_clipped(self) -> bool:
        """Whether the fit asks for more than a fifth of all tokens."""
        return self.timing < self.fitted_timing

    @property
    def base_parameters(self) -> float:
        return self.parameters / self.factor

    @property
    def base_flops(self) -> float:
        return 6 * self.base_parameters * self.timing

    @property
    def target_flops(self) -> float:
        return 6 * self.parameters * self.tokens


def advise(parameters: float, tokens: float) -> Advice:
    """Apply both guidelines, with the recommended factor. Warns outside the fits' range."""
    flops = 6 * parameters * tokens
    with warnings.catch_warnings():
        warnings.simplefilter("once")
        return Advice(parameters, tokens, growth_timing(parameters, flops), growth_factor(parameters, flops))


def _warn(parameters: float, flops: float) -> None:
    low, high = FITTED_PARAMETERS
    if not low <= parameters <= high or flops > FITTED_FLOPS:
        warnings.warn(
            f"the growth guidelines were fitted to {low:.2g} to {high:.2g} parameters and up to {FITTED_FLOPS:.2g} "
            f"FLOPs; {parameters:.2g} parameters and {flops:.2g} FLOPs are outside",
            stacklevel=3,
        )
