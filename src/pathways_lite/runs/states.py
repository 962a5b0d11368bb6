"""The state of every stage of a run by its files and its lock: step, losses, compute, size, age, and how it is."""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
from pathways_lite.errors import UserError
from pathways_lite.run_history import last_end, last_start, read_history
from pathways_lite.run_lock import find_holder
from pathways_lite.runs.find import FoundRun, directory_bytes
from pathways_lite.studies.store import Failure
from pathways_lite.tracking.run_data import RunData, StageData, read_run

KILLED = "killed, or crashed"


def stage_rows(run: FoundRun) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each stage that this run trains itself, as JSON values, and the problems of its files.

    States: done, with `stopped_early` where that is so; running; failed, with a reason; stopped, the same command
    continues it after step `saved_step`; ready: not begun; waiting: for the stage before it. Stages that are links
    belong to another run, unless that is all that there is. `bytes` of the last one are also those of what is beside
    the stages: page, pictures, history.
    """
    data = read_run(run.path)
    problems = list(data.problems)
    try:
        running = find_holder(run.path) is not None
    except UserError as error:
        running = False
        problems.append(str(error))
    unfinished = next((stage.name for stage in data.stages if not stage.is_finished), None)
    rows = []
    for stage in data.stages:
        if run.study is not None and stage.directory.is_symlink():
            continue
        state: dict[str, Any] = {"state": "done" if stage.is_finished else "waiting"}
        if stage.name == unfinished:
            state = _unfinished_state(run.path, stage, running)
        rows.append(_stage_row(run, data, stage) | state)
    if rows:  # so that a run's sizes add up to what deleting it frees
        rows[-1]["bytes"] += directory_bytes(run.path) - sum(row["bytes"] for row in rows)
    return rows, problems


def output_row(path: Path) -> dict[str, Any]:
    """Return the row of a checkpoint that grow, merge or convert wrote, with the columns of `stage_rows`.

    `stage` says what made it: grown, merged, average, sparse, smaller, quantized, or the name that an import gave it.
    """
    step = checkpoint_steps(path)[-1]
    place = path / checkpoint_name(step)
    try:
        meta = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["meta"]
        stage, total = str(meta["lineage"]["stage"]), dict(meta["ledger"]["total"])
        if "tokens" in (imported := meta.get("imported", {})) and imported["tokens"] is None:
            total["cost_elsewhere"] = "unknown"  # an earlier version wrote zeros alone
        state = {"state": "checkpoint"}
        if (quantized := meta.get("quantized")) is not None:
            state["quantization"] = f"{quantized['bits']} bits by {quantized['method']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        stage, total, state = "", {}, {"state": "checkpoint", "reason": "its manifest cannot be read"}
    return {
        "run": str(path),
        "stage": stage,
        "step": step,
        "total_steps": None,
        "saved_step": step,
        "loss": None,
        "mean_loss": None,
        "bits_per_byte": {},
        "total_tokens": total.get("tokens", 0),
        "total_flops": total.get("flops", 0),
        **_cost_elsewhere(total),
        "bytes": directory_bytes(path),
        **_age(place.stat().st_mtime),
        **state,
    }


def _stage_row(run: FoundRun, data: RunData, stage: StageData) -> dict[str, Any]:
    last, train = stage.last_counts, stage.rows_of_kind("train")
    saved = max(checkpoint_steps(stage.directory / "checkpoints"), default=None)
    step, totals = last.get("step", 0), last
    if saved is not None and saved > step:  # a run that was stopped saves a step that need not be logged
        step, ledger = saved, stage.ledger.get("total") or {}
        totals = {f"total_{name}": ledger[name] for name in ("tokens", "flops") if name in ledger}
        totals = totals | {"cost_elsewhere": ledger.get("cost_elsewhere")} if totals else last
    return {
        "run": str(run.path),
        "stage": stage.name,
        "step": step,
        "total_steps": stage.ledger.get("total_steps"),
        **_early_stop(data, stage),
        "saved_step": saved,
        "loss": train[-1]["loss"] if train else None,
        "mean_loss": train[-1].get("mean_loss", train[-1]["loss"]) if train else None,
        "bits_per_byte": {name: result["bits_per_byte"] for name, result in stage.evaluation.items()},
        **({"lossy": True} if any(r.get("lossy") for r in stage.evaluation.values()) else {}),
        "total_tokens": totals.get("total_tokens", 0),
        "total_flops": totals.get("total_flops", 0),
        **_cost_elsewhere(totals),
        "bytes": 0 if stage.directory.is_symlink() else directory_bytes(stage.directory),
        **_age(_updated(stage)),
        **({} if run.study is None else {"study": str(run.study), "arm": run.arm, "seed": data.recipe.get("seed")}),
    }


def _cost_elsewhere(totals: dict[str, Any]) -> dict[str, Any]:
    """Return `cost_elsewhere` where something was trained elsewhere, so that its FLOPs are not all, or are stated."""
    return {} if (elsewhere := totals.get("cost_elsewhere")) is None else {"cost_elsewhere": elsewhere}


def _early_stop(data: RunData, stage: StageData) -> dict[str, Any]:
    """Return `stopped_early` for a finished stage that early stopping ended, and the steps of its budget if known."""
    if not stage.is_finished or not any(row.get("event") == "early_stop" for row in stage.rows_of_kind("event")):
        return {}
    budgets = {fields.get("name"): fields.get("budget") or {} for fields in data.recipe.get("stages", [])}
    budget = budgets.get(stage.name, {})
    in_steps = {"total_steps": budget["n"]} if budget.get("kind") == "steps" else {}
    return {"stopped_early": True, **in_steps}


def _unfinished_state(path: Path, stage: StageData, running: bool) -> dict[str, Any]:
    """Return the state of the first stage that is not finished."""
    if running:
        return {"state": "running"}
    history = read_history(path)
    start, end = last_start(history), last_end(history)
    failure = _failure_of_node(path)
    if end is not None and end.get("reason"):
        return {"state": "failed", "reason": end["reason"]}
    if failure is not None and (end is None or end.get("status")):
        return {"state": "failed", "reason": failure.reason}
    if start is not None and end is None:
        return {"state": "stopped", "reason": KILLED}
    return {"state": "stopped" if stage.has_begun or start is not None else "ready"}


def _failure_of_node(path: Path) -> Failure | None:
    """Return how the last process of a study's node failed, as its runner saw it: it also sees one that was killed."""
    try:
        return Failure(**json.loads((path / "failure.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _age(updated: float | None) -> dict[str, Any]:
    if updated is None:
        return {"updated": None, "age": None}
    moment = datetime.fromtimestamp(updated).astimezone().isoformat(timespec="seconds")
    return {"updated": moment, "age": max(0.0, time.time() - updated)}


def _updated(stage: StageData) -> float | None:
    """Return when a file of the stage was last written, in seconds since the epoch; None where there is none."""
    names = ("log.jsonl", "timings.jsonl", "ledger.json", "summary.json", "checkpoints")
    times = []
    for name in names:
        try:
            times.append((stage.directory / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=None)
