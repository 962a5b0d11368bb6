"""The table of every statistic of one or several directories of samples, a row per number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pathways_lite.intervals import Interval
from pathways_lite.judging.beyond import Beyond
from pathways_lite.judging.judgement import Curve, Judgement, WeakJudgement
from pathways_lite.judging.report import shown_places


def numbers_table(judged: Mapping[str, tuple[Judgement, Beyond | None]]) -> dict[str, np.ndarray]:
    """Return rows of directories by name: `samples` (the name), `quantity`, `k`, `value`, and the limits `low`, `high`.

    Curves have the points of the printed table. Predictions, by `beta` and `power` law, have the samples that they rest
    on in their quantity's name. A reward's quantity has the cost of a wrong result, and `k` is how many attempts pay
    best. `k` is NaN where there is none.
    """
    rows: list[tuple[str, str, float, Interval]] = []
    for name, (judgement, beyond) in judged.items():
        rows += [(name, *row) for row in _rows(judgement, beyond)]
    names, quantities, ks, intervals = zip(*rows, strict=True)
    text = lambda values: np.array(values, dtype=object)  # noqa: E731
    limits: dict[str, Any] = {
        column: np.array([getattr(interval, column) for interval in intervals]) for column in ("value", "low", "high")
    }
    return {"samples": text(names), "quantity": text(quantities), "k": np.array(ks, np.float64), **limits}


def _rows(judgement: Judgement, beyond: Beyond | None) -> Iterator[tuple[str, float, Interval]]:
    yield "problems", np.nan, Interval(len(judgement.counts.names))
    yield "unsolved", np.nan, Interval(judgement.unsolved)
    for name, curve in judgement.curves.items():
        yield from _points(name.replace(" ", "_"), judgement.ks, curve)
    if beyond is not None:
        yield f"unsolved_in_{beyond.samples}", np.nan, Interval(beyond.unsolved)
        for name, intervals in (("beta", beyond.by_beta), ("power", beyond.by_power)):
            for k, interval in zip(beyond.ks, intervals, strict=True):
                yield f"coverage_by_{name}_from_{beyond.samples}", k, interval
        for k, interval in zip(beyond.ks, beyond.measured, strict=True):
            if np.isfinite(interval.value):
                yield "coverage_measured", k, interval
    if judgement.weak is not None:
        yield from _weak_rows(judgement.weak)


def _weak_rows(weak: WeakJudgement) -> Iterator[tuple[str, float, Interval]]:
    yield "weak_problems", np.nan, Interval(len(weak.counts.names))
    for name in ("perfect", "solved", "false_positives"):
        yield from _points(name, weak.ks, getattr(weak, name))
    for name in ("single_accuracy", "conditional_accuracy", "false_positive_rate"):
        yield name, np.nan, getattr(weak, name)
    for best, (low, high) in zip(weak.best, weak.best_limits, strict=True):
        yield f"reward_at_cost_{best.false_cost:g}", best.attempts, Interval(best.reward, low, high)


def _points(name: str, ks: np.ndarray, curve: Curve) -> Iterator[tuple[str, float, Interval]]:
    for i in shown_places(len(ks)):
        yield name, float(ks[i]), curve.interval(i)
