"""Comparisons as a table of texts, the same on a terminal and on a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pathways_lite.comparison import benchmarks
from pathways_lite.comparison.bootstrap import LEVEL, Interval
from pathways_lite.comparison.compare import Arm, Comparison, compare_all
from pathways_lite.comparison.metric import Metric
from pathways_lite.tracking.formatting import duration, si

# Compute beyond the common end, as a share, from which it is told that schedules were for different budgets.
_LONGER = 1.02

# Runs below which it is told that a bootstrap interval is too narrow.
_FEW = 10


@dataclass(frozen=True)
class Results:
    """Arms measured by one metric, each compared with one of them."""

    arms: Sequence[Arm]
    baseline: str
    metric: Metric
    comparisons: list[Comparison]
    target: float | None

    @classmethod
    def of(cls, arms: Sequence[Arm], baseline: str, metric: Metric, target: float | None = None) -> Results:
        """Compare every arm with the one named `baseline`, which comes first."""
        arms = sorted(arms, key=lambda arm: arm.name != baseline)
        return cls(arms, baseline, metric, compare_all(arms, baseline, target), target)

    # ---- at equal compute and at equal loss ----

    header = ("arm", "runs", "loss", "difference", "speedup", "area")

    def rows(self) -> list[list[str]]:
        """A row per arm; intervals on a line of their own."""
        found = {comparison.arm: comparison for comparison in self.comparisons}
        return [self._row(arm, found.get(arm.name)) for arm in self.arms]

    @staticmethod
    def _row(arm: Arm, comparison: Comparison | None) -> list[str]:
        own = [arm.name, str(len(arm.curves)), f"{arm.final_loss:.4f}"]
        if comparison is None:
            return [*own, "baseline", "", ""]
        c = comparison
        return [*own, signed(c.difference, "\n"), percent(c.speedup, "\n"), signed(c.area, "\n")]

    def notes(self) -> list[str]:
        """What the numbers are, a sentence or two each."""
        lines = [
            f"Measured: {self.metric.name}, {self.metric.smoothing}; in the column, at the end. Curves are "
            f"interpolated linearly in log FLOPs; these are {self.metric.compute}, of all stages of a run, those "
            "that it started from included."
        ]
        few = min(len(arm.curves) for arm in self.arms) < _FEW
        for c in self.comparisons:
            how = "over paired seeds" if c.paired else "over runs, which are no pairs (other seeds or numbers of runs)"
            lines.append(
                f"{c.arm} against {c.baseline}: difference at {si(c.flops, 'FLOPs')}, the most that all runs have "
                f"spent; speedup: FLOPs of {c.baseline} over FLOPs of {c.arm} to come to {c.target:.4f}, less 1; area: "
                f"the mean difference over log FLOPs. Brackets: {LEVEL:.0%} bootstrap {how}."
            )
            if few and c.student is not None and not math.isnan(c.student.low):
                lines.append(
                    f"A bootstrap over so few runs is too narrow. By Student's t over pairs the difference is "
                    f"{signed(c.student)}."
                )
            if math.isnan(c.difference.low):
                lines.append("One run says nothing about how far another seed would have come out otherwise.")
            if c.longer > _LONGER:
                lines.append(
                    f"Budgets differ by a factor of up to {c.longer:.2f}: where a schedule decays to the end of its "
                    "budget, a longer run is at a disadvantage at the shorter one's end."
                )
        return lines

    # ---- time to target ----

    time_header = ("arm", "training time to the target", "AlgoPerf score")

    def time_rows(self) -> list[list[str]]:
        """Median seconds of training until the target, over runs; and the score that AlgoPerf would give."""
        times = {
            arm.name: {
                "this": benchmarks.workload_time(
                    [[curve.first_at(self.time_target, "seconds")] for curve in arm.curves]
                )
            }
            for arm in self.arms
        }
        scores = benchmarks.scores(times)
        shown = {name: of["this"] for name, of in times.items()}
        return [
            [name, duration(time) if math.isfinite(time) else "not reached", f"{scores[name]:.3f}"]
            for name, time in shown.items()
        ]

    @property
    def time_target(self) -> float:
        """The loss to come to: the given one, or the highest that an arm's runs have at the end, on average."""
        if self.target is not None:
            return self.target
        return max(arm.final_loss for arm in self.arms)


def signed(interval: Interval, between: str = " ") -> str:
    """`-0.0310 [-0.0400, -0.0220]`."""
    return _with_ends(interval, lambda value: f"{value:+.4f}", between)


def percent(interval: Interval, between: str = " ") -> str:
    """`+12.1% [+3.0%, +20.2%]`."""
    return _with_ends(interval, lambda value: "only this one" if value == math.inf else f"{value:+.1%}", between)


def _with_ends(interval: Interval, show: Callable[[float], str], between: str) -> str:
    if math.isnan(interval.value):
        return "not reached"
    value = show(interval.value)
    return value if math.isnan(interval.low) else f"{value}{between}[{show(interval.low)}, {show(interval.high)}]"
