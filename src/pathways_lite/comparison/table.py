"""Comparisons as tables of text, the same on a terminal and in a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathways_lite.comparison import benchmarks
from pathways_lite.comparison.compare import Arm, Comparison, compare_all
from pathways_lite.comparison.metric import Metric
from pathways_lite.intervals import LEVEL, Form, Interval
from pathways_lite.tracking.formatting import duration, si

UNEQUAL_BUDGETS = 1.02
"""Ratio of FLOPs above which a note says that schedules were for different budgets."""

NOT_REACHED = "not reached"

HERE = "in FLOPs here"
"""Of a speedup where the total FLOPs of an arm are unknown."""

# Number of runs below which a note says that a bootstrap interval is too narrow.
_FEW_RUNS = 10

# An arm that is at the target before this share of its FLOPs is not at the end of its schedule there.
_UNFINISHED = 0.95

_EQUAL_COST = 0.01  # relative difference of FLOPs below which arms have learned alike


@dataclass(frozen=True)
class Results:
    """Arms measured by one metric, each compared with the baseline among them."""

    arms: Sequence[Arm]
    baseline: str
    metric: Metric
    comparisons: list[Comparison]
    target: float | None

    @classmethod
    def compare_arms(cls, arms: Sequence[Arm], baseline: str, metric: Metric, target: float | None = None) -> Results:
        """Compare every arm with the one named `baseline`, which is put first."""
        arms = sorted(arms, key=lambda arm: arm.name != baseline)
        return cls(arms, baseline, metric, compare_all(arms, baseline, target), target)

    # ---- at equal compute and at equal loss ----

    header = ("arm", "runs", "loss", "difference", "target", "speedup", "area")

    def rows(self) -> list[list[str]]:
        """Return a row per arm, with intervals on their own line."""
        by_arm = {comparison.arm: comparison for comparison in self.comparisons}
        return [self._row(arm, by_arm.get(arm.name)) for arm in self.arms]

    @staticmethod
    def _row(arm: Arm, comparison: Comparison | None) -> list[str]:
        cells = [arm.name, str(len(arm.curves)), f"{arm.final_loss:.4f}"]
        if comparison is None:
            return [*cells, "baseline", "", "", ""]
        c = comparison
        speedup = c.no_speedup.replace("; ", ";\n") or format_percent(c.speedup, "\n")
        speedup += "" if c.counts_all or c.no_speedup else f"\n{HERE}"
        values = (f"{c.target:.4f}", speedup, format_signed(c.area, "\n"))
        return [*cells, format_signed(c.difference, "\n"), *values]

    def notes(self) -> list[str]:
        """Return what the numbers mean, a sentence or two per note."""
        lines = [
            f"Metric: {self.metric.name}, {self.metric.smoothing_label}; the column shows it at the end of a run. "
            "Curves are interpolated linearly in log FLOPs. "
            f"FLOPs are {self.metric.flops_label} of all stages of a run, including the models that it started from."
        ]
        lines.append(
            "Target: the loss at which FLOPs and training time are compared, "
            + ("which was given." if self.target is not None else "the higher one of the two arms at equal FLOPs.")
        )
        lines += cost_notes(self.arms)
        few = min(len(arm.curves) for arm in self.arms) < _FEW_RUNS
        for c in self.comparisons:
            how = "by Student's t (of the speedup, over its logarithms)" if c.by_student else "by the bootstrap"
            over = "over paired seeds" if c.paired else "over runs, which are not paired (different seeds or numbers)"
            lines.append(
                f"{c.arm} against {c.baseline}: the difference is at {si(c.flops, flops_name(c))}, the most that all "
                f"runs have spent; the speedup is {flops_name(c)} of {c.baseline} over those of {c.arm} to reach the "
                "target, minus 1; the area is the mean difference over log FLOPs. "
                f"Brackets: {LEVEL:.0%} interval {how} {over}."
            )
            lines += _unfinished_note(c)
            if few and not c.by_student and c.t_interval.has_limits:
                lines.append(
                    f"A bootstrap interval over this few runs is too narrow. By Student's t the difference "
                    f"is {format_signed(c.t_interval)}."
                )
            if not c.difference.has_limits:
                lines.append("One run says nothing about how much the result varies between seeds.")
            if caveat := unequal_budgets(c, self.arms):
                lines.append(caveat)
        return [*lines, *_holm_note(self.comparisons)]

    # ---- time to target ----

    @property
    def time_header(self) -> tuple[str, ...]:
        """The columns of `time_rows`."""
        times, score = "training time to the target", "AlgoPerf score"
        return ("arm", times, f"time of {self.baseline}", score, f"score of {self.baseline}")

    def time_rows(self) -> list[list[str]]:
        """Return a row per arm but the baseline: both arms' time of training to the target, and AlgoPerf's scores.

        Without a row where no time is known. A time is the median over runs; the scores are those of the two arms
        alone, at the target of their speedup.
        """
        arms = {arm.name: arm for arm in self.arms}
        if all(c.no_speedup for c in self.comparisons):
            return []
        return [self._time_row(c, arms[c.arm], arms[c.baseline]) for c in self.comparisons]

    def time_notes(self) -> list[str]:
        """Say of which arms times to the target do not differ by more than those of an arm's own runs do."""
        arms = {arm.name: arm for arm in self.arms}
        notes = []
        for c in self.comparisons:
            times = [_times_to(c, arms[name]) for name in (c.arm, c.baseline)]
            if c.no_speedup or not all(map(math.isfinite, (*times[0], *times[1]))):
                continue
            costs = [[curve.first_cost_at(c.target) for curve in arms[name].curves] for name in (c.arm, c.baseline)]
            ratio = np.median(costs[0]) / np.median(costs[1])
            if max(map(min, times)) <= min(map(max, times)):
                notes.append(
                    f"Runs of {c.arm} and of {c.baseline} take overlapping times ({_range(times[0])} and "
                    f"{_range(times[1])}): AlgoPerf's scores, of the median times, do not tell these arms apart."
                )
            elif abs(ratio - 1) < _EQUAL_COST:
                notes.append(
                    f"{c.arm} and {c.baseline} reach the target after the same FLOPs: their times ({_range(times[0])} "
                    f"and {_range(times[1])}), and so AlgoPerf's scores, differ by what FLOPs do not count, or by what "
                    "else the machine did meanwhile."
                )
        return notes

    @staticmethod
    def _time_row(c: Comparison, arm: Arm, baseline: Arm) -> list[str]:
        def shown(of_runs: list[float]) -> str:
            if math.isfinite(median := benchmarks.workload_time([[time] for time in of_runs])):
                return duration(median)
            # The mean curve may reach what half of the runs do not.
            reached = sum(map(math.isfinite, of_runs))
            return f"reached by {reached} of {len(of_runs)} runs" if reached else NOT_REACHED

        if c.no_speedup:
            return [arm.name, "unknown", "unknown", "", ""]
        times = [_times_to(c, arm), _times_to(c, baseline)]
        medians = (benchmarks.workload_time([[time] for time in of_runs]) for of_runs in times)
        scores = benchmarks.scores(dict(zip(("arm", "baseline"), ({"this": time} for time in medians), strict=True)))
        return [arm.name, *map(shown, times), *(f"{score:.3f}" for score in scores.values())]


def _times_to(c: Comparison, arm: Arm) -> list[float]:
    """Return the seconds in which each run of an arm comes to the target; inf for one that does not."""
    return [curve.first_cost_at(c.target, "seconds") for curve in arm.curves]


def _range(times: Sequence[float]) -> str:
    return " to ".join(dict.fromkeys(map(duration, (min(times), max(times)))))


def flops_name(c: Comparison) -> str:
    """Name the FLOPs that a comparison is at."""
    return "FLOPs" if c.counts_all else "FLOPs spent here"


def cost_notes(arms: Sequence[Arm]) -> list[str]:
    """Say which arms start from models that were trained elsewhere, and what FLOPs mean then; [] where none does."""
    unknown, stated = ([arm.name for arm in arms if arm.cost_elsewhere == cost] for cost in ("unknown", "stated"))
    notes = []
    if unknown:
        meaning = (
            "That is fair only if they start from the same model."
            if len(unknown) == len(arms)
            else "Against other arms that is no comparison at equal compute, and no speedup in total FLOPs is known."
        )
        notes.append(
            f"What {_join(unknown)} started from was trained elsewhere, at a cost that is unknown and not free. FLOPs, "
            f"tokens and times are those spent here. {meaning}"
        )
    if stated:
        notes.append(
            f"FLOPs and tokens of {_join(stated)} include training elsewhere as a user stated it (`convert --tokens`); "
            "times do not."
        )
    return notes


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unequal_budgets(c: Comparison, arms: Sequence[Arm]) -> str:
    """Say what the comparison at equal FLOPs cannot where budgets differ, and how the runs end; "" where they do not.

    `arms`: those that are compared, and others.
    """
    if c.max_flops_ratio <= UNEQUAL_BUDGETS:
        return ""
    at_the_end = {arm.name: arm.final_loss for arm in arms}
    difference = at_the_end[c.arm] - at_the_end[c.baseline]
    return (
        f"Budgets differ by a factor of up to {c.max_flops_ratio:.2f}: if learning rates decay until the end of the "
        f"budget, the longer run is at a disadvantage where the shorter one ends. At the ends of the runs, after "
        f"different FLOPs, the loss of {c.arm} is {abs(difference):.4f} {'lower' if difference < 0 else 'higher'}."
    )


def _unfinished_note(c: Comparison) -> list[str]:
    """Say if one arm is at the target at the end of its schedule, and the other one before."""
    (early, early_share), (late, late_share) = sorted(
        zip((c.arm, c.baseline), c.progress, strict=True), key=lambda item: item[1]
    )
    if not (early_share < _UNFINISHED <= late_share and math.isfinite(late_share)):
        return []
    return [
        f"On the mean curves {late} is at the target after {late_share:.0%} of its FLOPs, {early} after "
        f"{early_share:.0%} of its own: if learning rates decay, a finished {late} is compared with an unfinished "
        f"{early}, which would be there sooner if its rate had decayed by then. To compare finished runs, decay "
        f"{early} from an earlier step."
    ]


def _holm_note(comparisons: Sequence[Comparison]) -> list[str]:
    """Say which differences remain after Holm's correction for the number of comparisons."""
    tested = [(c.arm, c.p_holm) for c in comparisons if c.p_holm is not None]
    if len(tested) < 2:
        return []
    by_verdict = {
        verdict: ", ".join(f"{arm} (p = {p:.2g})" for arm, p in tested if (p < 1 - LEVEL) is is_decided)
        for verdict, is_decided in (("Different from the baseline", True), ("Not decided", False))
    }
    verdicts = "; ".join(f"{verdict}: {arms}" for verdict, arms in by_verdict.items() if arms)
    return [
        f"{len(tested)} arms are compared with one baseline, so some brackets exclude zero by chance. After Holm's "
        f"correction, by Student's t of the differences: {verdicts}."
    ]


def format_signed(interval: Interval, separator: str = " ") -> str:
    """Format as in `-0.0310 [-0.0400, -0.0220]`."""
    return _format_interval(interval, "+.4f", separator)


def format_percent(interval: Interval, separator: str = " ") -> str:
    """Format as in `+12.1% [+3.0%, +20.2%]`; inf: only the arm reaches the target; -1: only its baseline."""

    def render(value: float) -> str:
        return {math.inf: "only this arm", -1.0: "only the baseline"}.get(value) or f"{value:+.1%}"

    return _format_interval(interval, render, separator)


def _format_interval(interval: Interval, form: Form, separator: str) -> str:
    if math.isnan(interval.value):
        return NOT_REACHED
    value, low, high = interval.texts(form)
    return f"{value}{separator}[{low}, {high}]" if interval.has_limits else value
