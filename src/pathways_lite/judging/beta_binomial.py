"""Coverage beyond the samples, from the distribution of the problems' success probabilities.

Schaeffer et al. 2025, arXiv 2502.17578: a power law of coverage comes from many problems with tiny probabilities. So a
Beta distribution of probabilities, scaled to [0, s], is fitted by maximum likelihood to the counts of correct samples,
and coverage at any k follows by integration; -ln(coverage) falls like k^-alpha in the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from pathways_lite.errors import UserError

_LARGEST = 1000.0  # of alpha and beta: above it, problems are equally hard as far as counts can tell
_SMALLEST = 1e-3
_BEYOND = 21.0  # e^-21: where k p is so small, or k (1 - p), the integrand is at its limit to 1e-9


@dataclass(frozen=True)
class BetaCoverage:
    """Success probabilities of problems: `scale` times a Beta(alpha, beta) variable."""

    alpha: float
    beta: float
    scale: float = 1.0

    def coverage(self, k: Any) -> np.ndarray:
        """Return 1 - E[(1-p)^k] for numbers of samples k, an array of any shape."""
        k = np.atleast_1d(np.asarray(k, np.float64))
        grid = _Grid(float(k.max()))
        flat = k.ravel()
        log_kernel = flat[:, None] * grid.log_failure(self.scale)
        last = np.where(flat == 0, 1.0, (1 - self.scale) ** flat)
        failures = grid.expectation(np.exp(log_kernel), np.ones(len(flat)), last, self.alpha, self.beta)
        return (1 - failures).reshape(k.shape)


def coverage_scale(samples: Any, correct: Any) -> float:
    """Return the largest success probability s = min(1, max(c/n) (m+1)/m) of m problems.

    The expected maximum of m uniform draws from [0, s] is s m/(m+1).
    """
    rates = np.asarray(correct, np.float64) / np.asarray(samples, np.float64)
    return float(min(1.0, rates.max() * (len(rates) + 1) / len(rates)))


def fit_beta_coverage(samples: Any, correct: Any, *, scale: float | None = None) -> BetaCoverage:
    """Fit the distribution of success probabilities to counts [problems] by maximum likelihood.

    `scale` s is `coverage_scale` unless it is given; with s = 1 the counts are beta-binomial. Raises UserError where no
    sample is correct: nothing is then known about the probabilities.
    """
    samples, correct = np.asarray(samples, np.int64), np.asarray(correct, np.int64)
    return BetaFitter(samples, correct).fit(np.ones(len(samples)), scale)


class BetaFitter:
    """Fits of the same counts [problems] under several weights, such as those of a bootstrap."""

    def __init__(self, samples: np.ndarray, correct: np.ndarray):
        self._samples, self._correct = samples, correct
        self._counts, self._problem = np.unique(np.stack([samples, correct]), axis=1, return_inverse=True)
        self._grid = _Grid(float(samples.max()))
        self._kernels: dict[float, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def fit(self, weights: np.ndarray, scale: float | None = None, start: BetaCoverage | None = None) -> BetaCoverage:
        """Fit counts that are weighted by problem, from `start` if it is given.

        Raises UserError where no weighted sample is correct.
        """
        drawn = weights > 0
        if not self._correct[drawn].any():
            raise UserError("no sample of any problem is correct, so there is no distribution of success probabilities")
        if scale is None:
            repeated = np.repeat(np.arange(len(weights)), weights.astype(int))
            scale = coverage_scale(self._samples[repeated], self._correct[repeated])
        kernel, first, last = self._kernel(scale)
        occurrences = np.bincount(self._problem.ravel(), weights, minlength=self._counts.shape[1])

        def negative_log_likelihood(working: np.ndarray) -> float:
            alpha, beta = np.exp(working)
            likelihood = self._grid.expectation(kernel, first, last, alpha, beta)
            return -float(occurrences @ np.log(np.maximum(likelihood, 1e-300)))

        mean = min(float(weights @ (self._correct / self._samples) / weights.sum()) / scale, 0.95)
        starts = [(size * mean, size * (1 - mean)) for size in (1.0, 10.0)]
        if start is not None:
            starts = [(start.alpha, start.beta)]
        bounds = [(np.log(_SMALLEST), np.log(_LARGEST))] * 2
        fits = [
            optimize.minimize(negative_log_likelihood, np.log(values), method="L-BFGS-B", bounds=bounds)
            for values in starts
        ]
        best = min(fits, key=lambda fit: float(fit.fun))
        alpha, beta = np.exp(best.x)
        return BetaCoverage(float(alpha), float(beta), scale)

    def _kernel(self, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return likelihoods of the counts at every probability [counts, nodes], and at x = 0 and x = 1 [counts].

        Divided by their largest value, which no likelihood ratio sees.
        """
        if scale not in self._kernels:
            n, c = self._counts[:, :, None].astype(np.float64)
            log_kernel = c * self._grid.log_success(scale) + (n - c) * self._grid.log_failure(scale)
            peak = log_kernel.max(axis=1, keepdims=True)
            with np.errstate(divide="ignore"):
                last = c * np.log(scale) + special.xlogy(n - c, 1 - scale) - peak
            first = np.exp(np.where(c[:, 0] == 0, -peak[:, 0], -np.inf))
            self._kernels[scale] = (np.exp(log_kernel - peak), first, np.exp(last[:, 0]))
        return self._kernels[scale]


class _Grid:
    """Nodes of an integral over x in (0, 1) by the trapezoidal rule in ln(x/(1-x)), for up to `n` samples."""

    def __init__(self, n: float):
        # Half of the narrowest peak's width, 2/sqrt(n + alpha + beta); the rule then converges to rounding errors.
        self._step = min(0.1, 1.5 / np.sqrt(n + 2 * _LARGEST)) if n < 1e6 else 0.05
        edge = np.log(max(n, 2.0)) + _BEYOND
        u = np.arange(-edge, edge + self._step, self._step)
        self._log_x, self._log_rest = -np.logaddexp(0, -u), -np.logaddexp(0, u)
        self._x, self._rest = np.exp(self._log_x), np.exp(self._log_rest)

    def log_success(self, scale: float) -> np.ndarray:
        """Return ln p [nodes] of p = scale x."""
        return np.log(scale) + self._log_x

    def log_failure(self, scale: float) -> np.ndarray:
        """Return ln(1 - p) [nodes] of p = scale x."""
        return self._log_rest if scale == 1 else np.log1p(-scale * self._x)

    def expectation(
        self, values: np.ndarray, first: np.ndarray, last: np.ndarray, alpha: float, beta: float
    ) -> np.ndarray:
        """Return E[f(x)] [functions] under Beta(alpha, beta) of values [functions, nodes].

        Beyond the nodes a function has its limits at 0 and 1, `first` and `last` [functions].
        """
        density = np.exp(alpha * self._log_x + beta * self._log_rest - special.betaln(alpha, beta)) * self._step
        density[[0, -1]] *= 0.5
        below = special.betainc(alpha, beta, self._x[0])
        above = special.betainc(beta, alpha, self._rest[-1])
        return values @ density + first * below + last * above
