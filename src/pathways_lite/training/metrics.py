"""Write metrics: steps and evaluations to both logs, the trackers and the display; and time what a stage does."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.tracking.log import NullLog, RunLog
from pathways_lite.tracking.progress import Progress
from pathways_lite.tracking.trackers import Tracker
from pathways_lite.training.initialize import CheckpointState
from pathways_lite.training.loss_sum import NO_LOSSES, LossSum
from pathways_lite.training.stage import StageSpec
from pathways_lite.training.statistics import statistics_row

_PER_DOMAIN = {"domain_weights", "average_domain_weights", "domain_scores"}


class MetricWriter:
    """Turns steps and evaluations of one stage, which continues from `start`, into rows.

    Logged are every `log_every`-th step, the last step, and steps whose update was dropped.
    """

    def __init__(
        self,
        spec: StageSpec,
        start: CheckpointState,
        log: RunLog | NullLog,
        trackers: Sequence[Tracker],
        progress: Progress,
    ) -> None:
        self._log, self._trackers, self._progress = log, trackers, progress
        self._timeline, self._every, self._inherited = spec.timeline, spec.stage.log_every, start.inherited
        self._domains = spec.store.domains
        self._trainable, self._n_layers = spec.trainable, spec.stage.model.n_layers
        self._last = (start.step, start.seconds)  # where throughput was last measured
        self._losses = start.unlogged
        evaluations = [row for row in log.rows() if row["kind"] == "eval"]
        self._evaluations = {row["step"]: row for row in evaluations}

    def step(self, step: int, values: Mapping[str, Any], seconds: Seconds) -> None:
        """Record the metrics of a step; `step` counts it, `seconds` are those of the stage so far."""
        dropped = not values["ok"]
        self._losses = self._losses.plus(float(values["loss"]))
        if dropped:
            self.event("skip", step, loss=values["loss"], grad_norm=values["grad_norm"])
        if step % self._every and step != self._timeline.total_steps and not dropped:
            return
        losses, self._losses = self._losses, NO_LOSSES
        self._write("train", step, {**_by_domain(values, self._domains), "mean_loss": np.float32(losses.mean)})
        last_step, last_seconds = self._last
        self._last = (step, seconds)
        elapsed = max(seconds.train - last_seconds.train, 1e-9)
        tokens = (self._timeline.tokens_before(step) - self._timeline.tokens_before(last_step)) / elapsed
        flops = (self._timeline.flops_before(step) - self._timeline.flops_before(last_step)) / elapsed
        peak = self._progress.peak_flops
        row = self._log.timing(
            "train",
            step,
            seconds=seconds.total,
            train_seconds=seconds.train,
            tokens_per_second=tokens,
            flops_per_second=flops,
            share_of_peak=flops / peak if peak else None,
        )
        self._track(row)
        self._progress.update(
            step,
            tokens=self._timeline.tokens_before(step),
            mean_loss=losses.mean,
            loss_steps=losses.steps,
            tokens_per_second=tokens,
            flops_per_second=flops,
        )

    def statistics(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the statistics of a step, see `training.statistics`."""
        self._write("statistics", step, statistics_row(values, self._trainable, self._n_layers))

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """Record held-out results: `domains` (`HeldOutLoss.to_json`); `denoisers` and `tasks` if there are any.

        Those of a moving average of the parameters are `average_domains`, `average_denoisers` and `average_tasks`.
        """
        self._write("eval", step, values)
        self._progress.show_evaluation(step, values["domains"])
        self._evaluations[step] = dict(values)

    def has_evaluation(self, step: int) -> bool:
        """Whether the log has the evaluation of `step`."""
        return step in self._evaluations

    @property
    def last_evaluation(self) -> dict[str, Any]:
        """Results of the newest evaluation, `domains` and perhaps `denoisers`; {} before the first."""
        return self._evaluations[max(self._evaluations)] if self._evaluations else {}

    def non_finite_domains(self) -> list[str]:
        """Return the domains whose newest held-out loss is NaN or infinite."""
        domains = self.last_evaluation.get("domains", {})
        return [name for name, result in domains.items() if not math.isfinite(result["loss"])]

    def event(self, event: str, step: int, **values: Any) -> None:
        """Record an event that belongs to the run's result."""
        self._write("event", step, {"event": event, **values})

    def stop_early(self, step: int, **values: Any) -> None:
        """Record once that the stage ends at `step`."""
        if not any(row["step"] == step and row.get("event") == "early_stop" for row in self._log.rows()):
            self.event("early_stop", step, **values)

    def pause(self, kind: str, step: int, seconds: Seconds, begin: float) -> None:
        """Record a compilation, evaluation or save that began when the stage had run for `begin` seconds."""
        self._track(self._log.timing(kind, step, seconds=seconds.total, duration=seconds.total - begin))

    def happened(self, event: str, step: int, seconds: Seconds, **values: Any) -> None:
        """Record what happened to this process only: a resumption, an interruption."""
        self._track(self._log.timing("event", step, event=event, seconds=seconds.total, **values))

    def rewind_to(self, saved: CheckpointState, seconds: Seconds) -> None:
        """Discard what was recorded after the state that was restored."""
        step, self._losses = saved.step, saved.unlogged
        self._log.truncate_after(step)
        self._last = (step, seconds)
        self._evaluations = {at: values for at, values in self._evaluations.items() if at <= step}

    @property
    def unlogged(self) -> LossSum:
        """The losses of the steps since the last log row."""
        return self._losses

    @property
    def log_mark(self) -> dict[str, int] | None:
        """The mark of the reproducible rows so far; None in a process that writes none."""
        return self._log.mark

    def mark_lost_rows(self, saved: CheckpointState) -> bool:
        """Return whether the log holds what it held when `saved` was saved; otherwise an event marks the hole."""
        if saved.log is None or self._log.holds(saved.log):
            return True
        if not any(row["step"] == saved.step and row.get("event") == "lost_rows" for row in self._log.rows()):
            self.event("lost_rows", saved.step)
        return False

    def sync(self) -> None:
        """Return when every row is on the disk."""
        self._log.sync()

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        ledger = Ledger().after(self._timeline, step)
        total = self._inherited + ledger
        counts = {"tokens": ledger.tokens, "flops": ledger.flops}
        chain: dict[str, Any] = {
            "total_tokens": total.tokens,
            "total_flops": total.flops,
            "total_sparse_flops": total.sparse_flops,
        }
        if total.cost_elsewhere is not None:  # the totals leave out, or include as stated, what was trained elsewhere
            chain["cost_elsewhere"] = total.cost_elsewhere
        active = {
            "active_parameters": self._timeline.active_parameters_at(step),
            "active_parameter_tokens": total.active_parameter_tokens,  # of the chain too
        }
        self._track(self._log.row(kind, step, **counts, **chain, **active, **values))

    def _track(self, row: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.row(row)


def _by_domain(values: Mapping[str, Any], domains: Sequence[str]) -> dict[str, Any]:
    """Name metrics by domain: the mean weight of its rows, where samples have weights, and what is learned about it."""
    values = dict(values)
    for name in _PER_DOMAIN & values.keys():
        values[name] = dict(zip(domains, values[name].tolist(), strict=True))
    if (weights := values.pop("row_weights", None)) is None:
        return values
    domain_of_row = np.asarray(values.pop("row_domains"), np.int64)
    values["weight_histogram"] = values["weight_histogram"].tolist()
    rows = {name: domain_of_row == number for number, name in enumerate(domains)}
    means = {name: float(weights[in_domain].mean()) for name, in_domain in rows.items() if in_domain.any()}
    return values | {"weight_of_domain": means}


# ---- wall-clock time by account, for the ledger's goodput ----


class Timer:
    """Books every second since construction on exactly one account of `Seconds`; on `other` when none is named."""

    def __init__(self, before: Seconds | None = None) -> None:
        self._seconds = before or Seconds()
        self._account = "other"
        self._since = time.perf_counter()

    @property
    def seconds(self) -> Seconds:
        """The accounts so far."""
        self._settle()
        return self._seconds

    @contextmanager
    def account(self, name: str) -> Iterator[None]:
        """Book the time inside to `name` (train, compile, save, evaluate); the innermost account wins."""
        self._settle()
        outer, self._account = self._account, name
        try:
            yield
        finally:
            self._settle()
            self._account = outer

    def _settle(self) -> None:
        now = time.perf_counter()
        self._seconds = self._seconds.plus(**{self._account: now - self._since})
        self._since = now
