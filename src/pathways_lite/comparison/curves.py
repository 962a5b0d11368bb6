"""The curve of a run: loss against cost, including the models that the run started from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pathways_lite.comparison.metric import Metric
from pathways_lite.errors import UserError, did_you_mean
from pathways_lite.ledger import CostElsewhere, least_known
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.log import Row
from pathways_lite.tracking.run_data import RunData, StageData, smooth

Clock = str
"""`flops`, `tokens` or `seconds` (of training, without compiling, evaluating and saving)."""
CLOCKS: tuple[Clock, ...] = ("flops", "tokens", "seconds")


@dataclass(frozen=True)
class Curve:
    """One run's measurements in order; all arrays have the same length [n]."""

    name: str
    seed: int
    flops: np.ndarray  # cumulative from the first stage on, as the metric counts them
    tokens: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    overlap: int = 0  # tokens of context with which held-out losses were measured
    cost_elsewhere: CostElsewhere | None = None  # "unknown": `flops` and `tokens` are those spent here

    @property
    def last_flops(self) -> float:
        """FLOPs at the last measurement."""
        return float(self.flops[-1])

    def loss_at(self, flops: np.ndarray | float) -> np.ndarray:
        """Return the loss at `flops`, interpolated linearly in log FLOPs and constant beyond the ends."""
        return np.interp(np.log(flops), np.log(self.flops), self.loss)

    def first_cost_at(self, loss: float, clock: Clock = "flops") -> float:
        """Return the cost at which the curve first reaches `loss`, interpolated as in `loss_at`; inf if never."""
        return first_crossing(getattr(self, clock), self.loss, loss)


def first_crossing(cost: np.ndarray, values: np.ndarray, target: float) -> float:
    """Return the smallest cost at which the polyline (log cost, values) is at most `target`; inf if it never is."""
    reached = np.flatnonzero(values <= target)
    if not len(reached):
        return math.inf
    i = int(reached[0])
    if i == 0:
        return float(cost[0])
    fraction = (values[i - 1] - target) / (values[i - 1] - values[i])
    return float(np.exp(np.log(cost[i - 1]) + fraction * (np.log(cost[i]) - np.log(cost[i - 1]))))


def read_curve(run: RunData, metric: Metric, name: str | None = None, *, past: Sequence[StageData] = ()) -> Curve:
    """Read the curve of a run over all of its stages, after those of other runs that led to it (`comparison.past`).

    Raises UserError if it has no measurement of `metric`, or held-out losses with several overlaps.
    """
    stages, seconds = [], 0.0
    for stage in (*past, *run.stages):
        stages.append(_stage_points(stage, metric, seconds))
        seconds += _train_seconds(stage)
    points = np.concatenate(stages, axis=1)
    points = points[:, np.isfinite(points).all(axis=0)]
    # A stage's evaluation before its first step would repeat its parent's last one.
    points = points[:, np.diff(points[0], prepend=-math.inf) > 0]
    if not points.shape[1]:
        if metric.of == "held-out" and any(stage.rows_of_kind("eval") for stage in run.stages):
            raise UserError(
                f"{run.directory} was evaluated, but its corpus has no held-out documents, so there is no "
                f"{metric.name} to compare; compare with --of train, or build the corpus with --held-out FILE and "
                "train again"
            )
        raise UserError(
            f"{run.directory} has no {metric.name} yet; a run is evaluated every stage.evaluation.every steps and at "
            "the end of a stage"
        )
    overlaps = _overlaps(run) if metric.of == "held-out" else {0}
    if len(overlaps) > 1:
        raise UserError(
            f"{run.directory} was evaluated with overlaps of {' and '.join(map(str, sorted(overlaps)))} tokens, so its "
            "held-out losses do not compare; set evaluation.overlap to one number for all stages, or use --of train"
        )
    curve = Curve(name or run.name, int(run.recipe.get("seed", 0)), *points)
    elsewhere = least_known(row.get("cost_elsewhere") for stage in run.stages for row in stage.rows)
    return replace(curve, loss=smooth(curve.loss, metric.window), overlap=overlaps.pop(), cost_elsewhere=elsewhere)


def _overlaps(run: RunData) -> set[int]:
    """Return the overlaps with which the run's stages were evaluated."""
    rows = (row for stage in run.stages for row in stage.rows_of_kind("eval"))
    return {int(result.get("overlap", 0)) for row in rows for result in row["domains"].values()} or {0}


def _stage_points(stage: StageData, metric: Metric, seconds_before: float) -> np.ndarray:
    """Return one stage's points as rows flops, tokens, seconds and loss, [4, n]."""
    rows = [row for row in stage.rows_of_kind("eval" if metric.of == "held-out" else "train") if row.get("total_flops")]
    timed = [row for row in stage.timings if row["kind"] == "train" and "train_seconds" in row]
    seconds = np.full(len(rows), seconds_before)
    if timed:
        steps = [0, *(row["step"] for row in timed)]
        seconds += np.interp([row["step"] for row in rows], steps, [0.0, *(row["train_seconds"] for row in timed)])
    # Logs written before sparse models existed have only one kind of FLOPs.
    key = "total_sparse_flops" if metric.flops == "sparse" else "total_flops"
    flops = [float(row[key if key in row else "total_flops"]) for row in rows]
    tokens = [float(row["total_tokens"]) for row in rows]
    return np.array([flops, tokens, seconds, [_loss_of_row(row, metric) for row in rows]])


def _train_seconds(stage: StageData) -> float:
    return float(stage.ledger["stage"]["seconds"]["train"]) if stage.ledger.get("stage") else 0.0


def _loss_of_row(row: Row, metric: Metric) -> float:
    if metric.of == "train":
        if metric.unit != "loss":
            raise UserError("training loss is in nats per token; use unit='loss', or of='held-out'")
        return float(row["loss"])
    return domain_value(row["domains"], metric)


def domain_value(domains: Mapping[str, Mapping[str, Any]], metric: Metric) -> float:
    """Return the held-out loss or bits per byte of the metric's domain, or of all domains by their sums.

    NaN if nothing is held out. Raises UserError for another domain, and for bits per byte of a lossy tokenizer.
    """
    if not domains:
        return math.nan
    if metric.domain is not None and metric.domain not in domains:
        raise UserError(f"there is no held-out domain {metric.domain!r}.{did_you_mean(metric.domain, domains)}")
    results = list(domains.values()) if metric.domain is None else [domains[metric.domain]]
    if metric.unit == "bits_per_byte" and any(result.get("lossy") for result in results):
        raise UserError(
            "the tokenizer of the corpus loses text, so its bits per byte are not a code length and cannot be "
            "compared; compare losses (unit loss) of runs with the same tokenizer"
        )
    nll, tokens, size = (sum(result[name] for result in results) for name in ("nll", "tokens", "bytes"))
    return float(nll / tokens if metric.unit == "loss" else nll / (math.log(2) * size))


def common_grid(curves: Sequence[Curve]) -> np.ndarray:
    """Return the FLOPs of all points of the curves, within the range that every curve covers.

    Raises UserError if there is none, where held-out losses were measured with different overlaps, and where the FLOPs
    of some include training elsewhere as it was stated, and those of others leave it out as unknown.
    """
    known = {curve.cost_elsewhere: curve.name for curve in curves}
    if "stated" in known and "unknown" in known:
        raise UserError(
            f"the FLOPs of {known['stated']} include training elsewhere as it was stated, and what {known['unknown']} "
            "starts from had an unknown cost, so they do not compare; import that model with --tokens N too"
        )
    by_overlap = {curve.overlap: curve.name for curve in curves}
    if len(by_overlap) > 1:
        listed = ", ".join(f"{name} {overlap}" for overlap, name in sorted(by_overlap.items()))
        raise UserError(
            f"held-out losses with different overlaps do not compare (evaluation.overlap: {listed}); compare with "
            "--of train, or train with the same evaluation.overlap"
        )
    begin, end = max(float(curve.flops[0]) for curve in curves), min(curve.last_flops for curve in curves)
    if begin > end:
        last = min(curves, key=lambda curve: curve.last_flops)
        first = max(curves, key=lambda curve: float(curve.flops[0]))
        why = (
            f"at {si(begin, 'FLOPs')}, of which training elsewhere was stated, {first.name} begins only after all of"
            if first.cost_elsewhere == "stated"
            else f"{first.name} begins at {si(begin, 'FLOPs')}, after all of"
        )
        raise UserError(
            f"the runs have no FLOPs in common, so they cannot be compared: {why} the {si(end, 'FLOPs')} of {last.name}"
        )
    points = np.unique(np.concatenate([curve.flops for curve in curves]))
    return points[(points >= begin) & (points <= end)]
