"""Runs as a table for fits: one row per held-out evaluation, read from run directories without training code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.scaling.table import Table
from pathways_lite.tracking.log import Row
from pathways_lite.tracking.run_data import StageData, read_run


def runs_table(paths: Iterable[str | Path]) -> Table:
    """One row per evaluation of every stage of the runs at or directly below `paths`.

    run, stage, step, lineage (the stages before, joined by " > "), start (how the stage began), optimizer, schedule,
    seed, lr, B (batch in tokens); N, N_non_embedding, N_average (active, over the chain's tokens); D and C of the whole
    chain, the stage's own D_stage and C_stage; L (nats per token over all held-out text) and per domain
    loss_NAME and bits_NAME; train_loss. What is not known is NaN or an empty text.
    Raises UserError where there is no run, or none has been evaluated.
    """
    directories = [run for path in paths for run in _directories(Path(path))]
    rows = [row for directory in directories for row in _rows(directory)]
    if not rows:
        raise UserError(f"none of {len(directories)} runs has a held-out evaluation yet; a table has one row for each")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _directories(path: Path) -> list[Path]:
    if (path / "recipe.json").is_file():
        return [path]
    found = sorted(child.parent for child in path.glob("*/recipe.json"))
    if not found:
        raise UserError(f"there is no run at or directly below {path}; `pathways-lite runs` lists runs")
    return found


def _rows(directory: Path) -> list[dict[str, Any]]:
    run = read_run(directory)
    rows: list[dict[str, Any]] = []
    before: list[StageData] = []
    for stage in run.stages:
        for evaluation in stage.of_kind("eval"):
            rows.append(
                {
                    "run": str(directory),
                    "stage": stage.name,
                    "step": evaluation["step"],
                    "lineage": " > ".join(s.name for s in before),
                    "seed": run.recipe.get("seed"),
                    **_recipe_columns(stage),
                    **_sizes(stage, evaluation, before),
                    **_results(stage, evaluation),
                }
            )
        before.append(stage)
    return rows


def _recipe_columns(stage: StageData) -> dict[str, Any]:
    recipe = stage.recipe
    optimizer, data = recipe.get("optimizer", {}), recipe.get("data", {})
    batch = recipe.get("batch_size")
    return {
        "start": (recipe.get("start") or {}).get("kind", ""),
        "optimizer": optimizer.get("kind", ""),
        "schedule": (optimizer.get("schedule") or {}).get("kind", ""),
        "lr": optimizer.get("learning_rate"),
        # A ramp of batch sizes is no single number.
        "B": batch * data["seq_len"] if isinstance(batch, int) and "seq_len" in data else None,
    }


def _sizes(stage: StageData, row: Row, before: list[StageData]) -> dict[str, Any]:
    N = stage.summary.get("model", {}).get("parameters")
    if N is None and row.get("tokens"):
        N = row["active_parameter_tokens"] / row["tokens"]
    model = stage.recipe.get("model", {})
    tables = model.get("vocab_size", 0) * model.get("d_model", 0) * (1 if model.get("tie_embeddings") else 2)
    active = row.get("active_parameter_tokens", 0) + sum(s.last.get("active_parameter_tokens", 0) for s in before)
    D = row.get("total_tokens", row.get("tokens"))
    return {
        "N": N,
        "N_non_embedding": stage.summary.get("model", {}).get("non_embedding_parameters", N - tables if N else None),
        "N_average": active / D if D else None,
        "D": D,
        "C": row.get("total_flops", row.get("flops")),
        "D_stage": row.get("tokens"),
        "C_stage": row.get("flops"),
    }


def _results(stage: StageData, row: Row) -> dict[str, Any]:
    domains = row.get("domains", {})
    tokens = sum(result.get("tokens", 0) for result in domains.values())
    nll = sum(result.get("nll", np.nan) for result in domains.values())
    trained = [r["loss"] for r in stage.of_kind("train") if r["step"] <= row["step"] and "loss" in r]
    return {
        "L": nll / tokens if tokens else None,
        **{f"loss_{name}": result.get("loss") for name, result in domains.items()},
        **{f"bits_{name}": result.get("bits_per_byte") for name, result in domains.items()},
        "train_loss": trained[-1] if trained else None,
    }


def _column(values: list[Any]) -> np.ndarray:
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else str(value) for value in values], dtype=object)
    return np.array([np.nan if value is None else float(value) for value in values])
