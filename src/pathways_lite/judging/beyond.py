"""Coverage at more samples than were drawn, by a Beta distribution and by the exponentiated power law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import Interval
from pathways_lite.judging.beta_binomial import BetaCoverage, BetaFitter
from pathways_lite.judging.judgement import COVERAGE, Judgement
from pathways_lite.scaling.bootstrap import bootstrap_limits
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.registry import find_law

RESAMPLES = 200  # each is a fit


@dataclass(frozen=True)
class Beyond:
    """Predictions of coverage at `ks`: of the Beta distribution of success, and of exp(-a k^-b)."""

    ks: list[int]
    beta: BetaCoverage
    by_beta: list[Interval]
    power: dict[str, float]  # a and b
    by_power: list[Interval]


def predict_beyond(
    judgement: Judgement, ks: Sequence[int], advance: Callable[[int], None] = lambda count: None
) -> Beyond:
    """Predict coverage at `ks`, with intervals that resample problems. Raises UserError where no sample is correct."""
    counts = judgement.counts
    fitter = BetaFitter(counts.samples, counts.correct)
    beta = fitter.fit(np.ones(len(counts.names)))
    values, drawn = beta.coverage(ks), []
    for weights in counts.weights[:RESAMPLES] if len(counts.weights) > 1 else ():
        advance(1)
        if counts.correct[weights > 0].any():
            drawn.append(fitter.fit(weights, start=beta).coverage(ks))
    if drawn:
        low, high = bootstrap_limits(np.stack(drawn))
    else:
        low = high = np.full(len(values), np.nan)
    by_beta = [Interval(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
    power, by_power = _by_power(judgement, ks)
    return Beyond(list(ks), beta, by_beta, power, by_power)


def _by_power(judgement: Judgement, ks: Sequence[int]) -> tuple[dict[str, float], list[Interval]]:
    by_problem = judgement.curves[COVERAGE].by_problem
    problems, points = by_problem.shape
    if points < 3:
        raise UserError(f"a curve of coverage needs more than {judgement.ks[-1]} samples per problem to be continued")
    groups = np.repeat(np.array(judgement.counts.groups, dtype=object), points)
    table = {"k": np.tile(judgement.ks.astype(np.float64), problems), "coverage": by_problem.ravel()}
    several = len(set(judgement.counts.groups)) > 1
    fit = fit_law(
        find_law("coverage"), table, groups=groups if several else None, bootstraps=RESAMPLES if several else 0
    )
    intervals = fit.predict({"k": np.array(ks, np.float64)})
    return {name: float(value) for name, value in fit.values.items()}, intervals
