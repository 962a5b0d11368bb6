"""Coverage at more samples than were drawn, by a Beta distribution and by the exponentiated power law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.intervals import Interval
from pathways_lite.judging.beta_binomial import BetaCoverage, BetaFitter
from pathways_lite.judging.coverage import coverage_by_problem, mean_over_problems
from pathways_lite.judging.judgement import COVERAGE, Judgement
from pathways_lite.scaling.bootstrap import bootstrap_limits
from pathways_lite.scaling.fit import fit_law
from pathways_lite.scaling.laws.registry import find_law

RESAMPLES = 200  # each is a fit


@dataclass(frozen=True)
class Beyond:
    """Predictions of coverage at `ks`: of the Beta distribution of success, and of exp(-a k^-b).

    They rest on `samples` of each problem, none of which is correct in a share `unsolved` of the problems. `measured`
    is the coverage of all that were drawn, NaN where these are fewer than k.
    """

    ks: list[int]
    samples: int
    unsolved: float
    beta: BetaCoverage
    by_beta: list[Interval]
    power: dict[str, float]  # a and b
    by_power: list[Interval]
    measured: list[Interval]


def predict_beyond(
    judgement: Judgement, ks: Sequence[int], advance: Callable[[int], None] = lambda count: None,
    *, whole: Judgement | None = None,
) -> Beyond:  # fmt: skip
    """Predict coverage at `ks`, with intervals that resample problems. Raises UserError where no sample is correct.

    Where `judgement` is of a part of the samples, `whole` is of all, which predictions are compared with.
    """
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
    measured = [_measured(whole or judgement, k) for k in ks]
    samples = int(counts.samples.min())
    return Beyond(list(ks), samples, judgement.unsolved, beta, by_beta, power, by_power, measured)


def _measured(judgement: Judgement, k: int) -> Interval:
    counts = judgement.counts
    if k > counts.samples.min():
        return Interval(np.nan)
    coverage = coverage_by_problem(counts.samples, counts.correct, [k])[:, 0]
    return Interval(*map(float, mean_over_problems(coverage, counts.weights)))


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
