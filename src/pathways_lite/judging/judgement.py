"""What repeated samples say about a model: every statistic of a directory of samples, with intervals over problems."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pathways_lite.errors import UserError, counted
from pathways_lite.intervals import Interval
from pathways_lite.judging.coverage import coverage_by_problem, log_spaced, mean_over_problems, problem_resamples
from pathways_lite.judging.samples import Samples
from pathways_lite.judging.selection import answer_codes, best_of_k, vote
from pathways_lite.judging.verdicts import Verdicts
from pathways_lite.judging.weak_verifiers import BestAttempts, WeakResults, best_attempts, resample_weakly

Score = Literal["sum", "mean"]
"""The log probability of a whole sample, which favors short ones, or its mean per token."""

COVERAGE, MAJORITY, WEIGHTED, BEST = "coverage", "majority", "weighted vote", "best of k"


@dataclass(frozen=True)
class Counts:
    """Counts by problem [problems], in the order of the samples."""

    names: list[str]
    domains: list[str]
    groups: list[str]
    samples: np.ndarray
    correct: np.ndarray
    weights: np.ndarray  # of bootstrap resamples [resamples, problems]


@dataclass(frozen=True)
class Curve:
    """A quantity over k by problem [problems, ks], its mean over problems and its limits [ks]."""

    by_problem: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def interval(self, i: int) -> Interval:
        """Return the mean and its limits at the i-th k."""
        return Interval(float(self.mean[i]), float(self.low[i]), float(self.high[i]))


@dataclass(frozen=True)
class WeakJudgement:
    """What the weak verifier lets through: over K in `ks`, and over all of its problems together."""

    ks: np.ndarray
    perfect: Curve  # coverage, which a perfect verifier would give
    solved: Curve
    false_positives: Curve
    single_accuracy: Interval  # of a sample
    conditional_accuracy: Interval  # of a sample that was accepted
    false_positive_rate: Interval  # accepted among the wrong ones
    best: list[BestAttempts]
    best_limits: list[tuple[float, float]]
    counts: Counts  # of the problems that have a weak verifier
    accepted: np.ndarray  # samples of each of them
    right: np.ndarray  # accepted and correct ones


@dataclass(frozen=True)
class Judgement:
    """All statistics of a directory of samples; `curves` are over `ks`, up to the fewest samples of a problem."""

    counts: Counts
    ks: np.ndarray
    curves: dict[str, Curve]
    weak: WeakJudgement | None
    score: Score

    @property
    def unsolved(self) -> float:
        """The share of problems without a correct sample: they alone decide what more samples would bring."""
        return float(np.mean(self.counts.correct == 0))


def judge(
    samples: Samples,
    verdicts: Verdicts,
    problems: Mapping[str, Any],
    *,
    score: Score = "sum",
    costs: Sequence[float] = (0.0, 1.0, 2.0, 4.0, 8.0),
    attempt_cost: float = 0.0,
    advance: Callable[[int], None] = lambda count: None,
) -> Judgement:
    """Compute every statistic. `problems` by id have `domain` and `group`; `advance` is told of problems that are done.

    `costs` of a wrong result and `attempt_cost` are for weak verifiers, in units of what a right result is worth.
    """
    names = list(dict.fromkeys(samples.problem))
    begins = _begins(samples)
    n = np.diff(np.append(begins, len(samples)))
    correct = np.add.reduceat(verdicts.correct.astype(np.int64), begins)
    groups = [str(getattr(problems[name], "group", "") or name) for name in names]
    domains = [str(getattr(problems[name], "domain", "") or "") for name in names]
    counts = Counts(names, domains, groups, n, correct, problem_resamples(len(names), groups))
    ks = log_spaced(int(n.min()))
    by_problem = {COVERAGE: coverage_by_problem(n, correct, ks)}
    by_problem |= _selections(samples, verdicts, names, begins, n, ks, score, advance)
    curves = {name: _curve(values, counts.weights) for name, values in by_problem.items()}
    weak = None
    if (np.minimum.reduceat(verdicts.weak, begins) >= 0).any():
        weak = _judge_weak(verdicts, counts, begins, costs, attempt_cost)
    return Judgement(counts, ks, curves, weak, score)


def first_samples(samples: Samples, verdicts: Verdicts, count: int) -> tuple[Samples, Verdicts]:
    """Return the first `count` samples of every problem and their verdicts. Raises UserError where there are fewer."""
    begins = _begins(samples)
    n = np.diff(np.append(begins, len(samples)))
    if (fewest := int(n.min())) < count:
        name = samples.problem[begins[np.argmin(n)]]
        raise UserError(f"problem {name!r} has {counted(fewest, 'sample')}, which is fewer than {count:,}")
    rows = (begins[:, None] + np.arange(count)).ravel()
    chosen = lambda values: [values[i] for i in rows]  # noqa: E731
    part = replace(
        samples, problem=chosen(samples.problem), sample=samples.sample[rows], text=chosen(samples.text),
        log_probability=samples.log_probability[rows], tokens=samples.tokens[rows],
    )  # fmt: skip
    return part, Verdicts(verdicts.correct[rows], verdicts.weak[rows], chosen(verdicts.answer))


def _begins(samples: Samples) -> np.ndarray:
    """Return the rows at which the problems begin [problems]."""
    return np.flatnonzero([True, *(a != b for a, b in zip(samples.problem[1:], samples.problem, strict=False))])


def _curve(by_problem: np.ndarray, weights: np.ndarray) -> Curve:
    return Curve(by_problem, *mean_over_problems(by_problem, weights))


def _selections(
    samples: Samples, verdicts: Verdicts, names: list[str], begins: np.ndarray, n: np.ndarray, ks: np.ndarray,
    score: Score, advance: Callable[[int], None],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the accuracies [problems, ks] of votes, and of the best by score where there are scores."""
    scores = samples.log_probability
    if score == "mean":
        scores = scores / np.maximum(samples.tokens, 1)
    scored = bool(np.isfinite(scores).any())
    chosen: dict[str, list[np.ndarray]] = {MAJORITY: [], **({WEIGHTED: [], BEST: []} if scored else {})}
    for name, begin, count in zip(names, begins, n, strict=True):
        rows = slice(begin, begin + count)
        codes, correct = answer_codes(verdicts.answer[rows]), verdicts.correct[rows]
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
        chosen[MAJORITY].append(vote(codes, correct, ks, key=key))
        if scored:
            finite = np.where(np.isfinite(scores[rows]), scores[rows], -np.inf)
            # Probabilities, relative to the largest, so that those of long samples are not all zero.
            peak = finite.max()
            weights = np.exp(finite - peak) if np.isfinite(peak) else np.ones(count)
            chosen[WEIGHTED].append(vote(codes, correct, ks, key=key, weights=weights))
            chosen[BEST].append(best_of_k(correct, scores[rows], ks))
        advance(1)
    return {name: np.stack(rows) for name, rows in chosen.items()}


def _judge_weak(
    verdicts: Verdicts, all_counts: Counts, begins: np.ndarray, costs: Sequence[float], attempt_cost: float
) -> WeakJudgement:
    has_weak = np.minimum.reduceat(verdicts.weak, begins) >= 0
    counts = all_counts if has_weak.all() else _subset(all_counts, has_weak)
    accepted = np.add.reduceat((verdicts.weak == 1).astype(np.int64), begins)[has_weak]
    right = np.add.reduceat(((verdicts.weak == 1) & verdicts.correct).astype(np.int64), begins)[has_weak]
    ks = log_spaced(int(counts.samples.min()))
    every: WeakResults = resample_weakly(counts.samples, accepted, right, np.arange(1, int(counts.samples.min()) + 1))
    best = best_attempts(every, costs, attempt_cost)
    limits = []
    for choice in best:
        if choice.attempts == 0:
            limits.append((0.0, 0.0))
            continue
        reward = every.reward(choice.false_cost, attempt_cost)[:, choice.attempts - 1]
        _, low, high = mean_over_problems(reward, counts.weights)
        limits.append((float(low), float(high)))
    ratio = lambda a, b: _ratio(a, b, counts.weights)  # noqa: E731
    return WeakJudgement(
        ks=ks,
        perfect=_curve(coverage_by_problem(counts.samples, counts.correct, ks), counts.weights),
        solved=_curve(every.solved[:, ks - 1], counts.weights),
        false_positives=_curve(every.false_positives[:, ks - 1], counts.weights),
        single_accuracy=ratio(counts.correct, counts.samples),
        conditional_accuracy=ratio(right, accepted),
        false_positive_rate=ratio(accepted - right, counts.samples - counts.correct),
        best=best, best_limits=limits, counts=counts, accepted=accepted, right=right,
    )  # fmt: skip


def _subset(counts: Counts, chosen: np.ndarray) -> Counts:
    names, domains, groups = (
        [value for value, keep in zip(values, chosen, strict=True) if keep]
        for values in (counts.names, counts.domains, counts.groups)
    )
    weights = problem_resamples(len(names), groups)
    return Counts(names, domains, groups, counts.samples[chosen], counts.correct[chosen], weights)


def _ratio(above: np.ndarray, below: np.ndarray, weights: np.ndarray) -> Interval:
    """Return a ratio of sums over problems, with limits by resamples of problems; NaN where nothing is below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(above.sum() / below.sum()) if below.sum() else np.nan
        if len(weights) < 2 or not below.sum():
            return Interval(value)
        low, high = np.nanquantile((weights @ above) / (weights @ below), [0.025, 0.975])
    return Interval(value, float(low), float(high))
