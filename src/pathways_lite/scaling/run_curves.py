"""Loss curves of our own runs: steps, learning rates and training losses from their logs (docs/runs.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.run_directory import node_label
from pathways_lite.scaling.runs_table import find_runs, left_out_studies
from pathways_lite.scaling.table import Table
from pathways_lite.tracking.run_data import RunData, StageData, read_run


def run_curves(path: str | Path) -> tuple[dict[str, Table], list[str]]:
    """Return a table of step, lr and loss by name for every run at or below `path`, and sentences about them.

    A curve is a first stage and the stages that continue it, as the rate of a trunk and its decay is one schedule. The
    loss is the mean of the steps between two rows, at their middle. Runs are named by the label of their study, or by
    their recipe; a run that is the beginning of another is left out. Raises UserError if there is no run, or no curve.
    """
    runs = [read_run(directory) for directory in find_runs(Path(path))]
    chains = {str(run.directory): _chain(run) for run in runs}
    places = {name: [stage.directory.resolve() for stage in chain] for name, chain in chains.items()}
    curves: dict[str, Table] = {}
    sentences = []
    for run, name in zip(runs, _names(runs), strict=True):
        own = places[str(run.directory)]
        if not own or any(own == others[: len(own)] and len(others) > len(own) for others in places.values()):
            continue
        if len(own) < len(run.stages):
            left_out = ", ".join(stage.name for stage in run.stages[len(own) :])
            sentences.append(f"{name}: {left_out} left out, as a curve ends where a model is changed or replaced.")
        curves[name] = _table(chains[str(run.directory)])
    if note := left_out_studies([Path(path)]):
        sentences.append(f"{note}.")
    if not curves:
        raise UserError(f"no run at or below {path} has a stage that starts from scratch and has logged a loss")
    return curves, sentences


def _chain(run: RunData) -> list[StageData]:
    """Return the first stage and those that continue it, as far as they have logged anything."""
    chain: list[StageData] = []
    for stage in run.stages:
        kind = (stage.recipe.get("start") or {}).get("kind")
        if kind != ("continue" if chain else "scratch") or not stage.rows_of_kind("train"):
            break
        chain.append(stage)
    return chain


def _names(runs: Sequence[RunData]) -> list[str]:
    """Return a name for each run: its label in a study, or its recipe's, with the directory where two are the same."""
    names = [node_label(run.directory) or run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.directory.resolve().name})"
        for name, run in zip(names, runs, strict=True)
    ]


def _table(chain: Sequence[StageData]) -> Table:
    steps: list[float] = []
    rates: list[float] = []
    means: list[tuple[float, float]] = []
    offset = 0.0
    for stage in chain:
        before = offset
        for row in stage.rows_of_kind("train"):
            step = offset + row["step"]
            if "learning_rate" in row and (not steps or step > steps[-1]):
                steps.append(step)
                rates.append(float(row["learning_rate"]))
                middle = float((before + 1 + step) // 2)
                means.append((middle, float(row["mean_loss"] if "mean_loss" in row else row.get("loss", np.nan))))
            before = step
        offset = before
    points = {**dict.fromkeys(steps, np.nan), **dict(means)}
    at = np.array(sorted(points))
    return {"step": at, "lr": np.interp(at, steps, rates), "loss": np.array([points[step] for step in at.tolist()])}
