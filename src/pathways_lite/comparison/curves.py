"""The curve of a run: loss against what it has cost, the models that it started from included."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pathways_lite.comparison.metric import Metric
from pathways_lite.errors import UserError
from pathways_lite.tracking.log import Row
from pathways_lite.tracking.run_data import RunData, StageData, smooth

Clock = str
"""`flops`, `tokens` or `seconds` (of training, without compiling, evaluating and saving)."""
CLOCKS: tuple[Clock, ...] = ("flops", "tokens", "seconds")


@dataclass(frozen=True)
class Curve:
    """One run's measurements in their order, all arrays of the same length [n]."""

    name: str
    seed: int
    flops: np.ndarray  # along the chain, from the first stage on, as the metric counts them
    tokens: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray

    @property
    def end(self) -> float:
        """FLOPs at the last measurement."""
        return float(self.flops[-1])

    def at(self, flops: np.ndarray | float) -> np.ndarray:
        """Loss at some compute, interpolated linearly in log FLOPs; the ends' beyond the ends."""
        return np.interp(np.log(flops), np.log(self.flops), self.loss)

    def first_at(self, loss: float, clock: Clock = "flops") -> float:
        """Cost at which the curve first comes to `loss`, between points interpolated as in `at`; inf where never."""
        return first_crossing(getattr(self, clock), self.loss, loss)


def first_crossing(cost: np.ndarray, values: np.ndarray, target: float) -> float:
    """The smallest cost at which the polygon (log cost, values) is at most `target`; inf where it never is."""
    reached = np.flatnonzero(values <= target)
    if not len(reached):
        return math.inf
    i = int(reached[0])
    if i == 0:
        return float(cost[0])
    share = (values[i - 1] - target) / (values[i - 1] - values[i])
    return float(np.exp(np.log(cost[i - 1]) + share * (np.log(cost[i]) - np.log(cost[i - 1]))))


def read_curve(run: RunData, metric: Metric, name: str | None = None) -> Curve:
    """The curve of a whole run, all of its stages. Raises UserError where it has no measurement of `metric`."""
    pieces, seconds = [], 0.0
    for stage in run.stages:
        pieces.append(_piece(stage, metric, seconds))
        seconds += _train_seconds(stage)
    points = np.concatenate(pieces, axis=1)
    points = points[:, np.isfinite(points).all(axis=0)]
    # A stage's evaluation before its first step would repeat its parent's last one.
    points = points[:, np.diff(points[0], prepend=-math.inf) > 0]
    if not points.shape[1]:
        raise UserError(
            f"{run.directory} has no {metric.name} yet; evaluations come every stage.evaluation.every steps and at the "
            "end of a stage"
        )
    flops, tokens, seconds_at, loss = points
    curve = Curve(name or run.name, int(run.recipe.get("seed", 0)), flops, tokens, seconds_at, loss)
    return replace(curve, loss=smooth(curve.loss, metric.window))


def _piece(stage: StageData, metric: Metric, seconds_before: float) -> np.ndarray:
    """One stage's points as [flops, tokens, seconds, loss] × n."""
    rows = [row for row in stage.of_kind("eval" if metric.of == "held-out" else "train") if row.get("total_flops")]
    timed = [row for row in stage.timings if row["kind"] == "train" and "train_seconds" in row]
    seconds = np.full(len(rows), seconds_before)
    if timed:
        at = [0, *(row["step"] for row in timed)]
        seconds += np.interp([row["step"] for row in rows], at, [0.0, *(row["train_seconds"] for row in timed)])
    # Logs of before there were sparse models have only one kind of FLOPs.
    wanted = "total_sparse_flops" if metric.flops == "sparse" else "total_flops"
    flops = [float(row[wanted if wanted in row else "total_flops"]) for row in rows]
    tokens = [float(row["total_tokens"]) for row in rows]
    return np.array([flops, tokens, seconds, [_value(row, metric) for row in rows]])


def _train_seconds(stage: StageData) -> float:
    return float(stage.ledger["stage"]["seconds"]["train"]) if stage.ledger.get("stage") else 0.0


def _value(row: Row, metric: Metric) -> float:
    if metric.of == "train":
        if metric.unit != "loss":
            raise UserError("training is measured in nats per token; use unit='loss', or of='held-out'")
        return float(row["loss"])
    return domain_value(row["domains"], metric)


def domain_value(domains: Mapping[str, Mapping[str, Any]], metric: Metric) -> float:
    """Held-out loss or bits per byte of the metric's domain, or of all domains together by their sums."""
    if metric.domain is not None and metric.domain not in domains:
        raise UserError(f"there is no domain {metric.domain!r}; the held-out domains are {', '.join(domains)}")
    chosen = list(domains.values()) if metric.domain is None else [domains[metric.domain]]
    nll, tokens, size = (sum(result[name] for result in chosen) for name in ("nll", "tokens", "bytes"))
    return float(nll / tokens if metric.unit == "loss" else nll / (math.log(2) * size))


def common_grid(curves: Sequence[Curve]) -> np.ndarray:
    """All FLOPs that some curve has a point at, where every curve has begun and none has ended."""
    begin, end = max(float(curve.flops[0]) for curve in curves), min(curve.end for curve in curves)
    if begin > end:
        raise UserError(f"{curves[0].name} and the runs beside it have no compute in common to be compared at")
    points = np.unique(np.concatenate([curve.flops for curve in curves]))
    return points[(points >= begin) & (points <= end)]
