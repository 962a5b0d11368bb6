"""`pathways-lite evaluate RUN --tasks --along`: tasks at every checkpoint that runs keep, and how they develop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.evaluate_along import Row, checkpoint_facts, default_table, evaluate_along, yes_or_no
from pathways_lite.cli.evaluate_tasks import TaskChoice, task_evaluator
from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.evaluation.downstream import TaskEvaluator
    from pathways_lite.scaling.early_ranking import EarlyRanking
    from pathways_lite.scaling.task_dynamics import Dynamics
    from pathways_lite.tasks.scored_items import Task
    from pathways_lite.training.load import TrainedModel


class TaskMeasurement:
    """Measures tasks, one row each."""

    unit = "items"

    def __init__(self, first: TrainedModel, tasks: list[Task], choice: TaskChoice, average: bool) -> None:
        self._model, self._average, self._mode = first, average, choice.mode
        self._tasks = {task.name: task for task in tasks}
        self._tokenizer = first.tokenizer().fingerprint
        self._evaluators: dict[Any, TaskEvaluator] = {}
        self.units = sum(len(task.items) for task in tasks)
        self.same = {
            "tokenizer": self._tokenizer[:12],
            "mode": choice.mode or "none",
            "average": yes_or_no(average),
        }

    def load(self, checkpoint: Path) -> TrainedModel:
        """Load a checkpoint. Raises UserError where its tokenizer is not that of the others."""
        model = self._model.sibling(checkpoint)
        recorded = model.manifest.meta.get("tokenizer")
        if (recorded or model.tokenizer().fingerprint) != self._tokenizer:
            raise UserError(
                f"{checkpoint} was trained with another tokenizer than {self._model.path}, so that their answers are "
                "of different tokens; evaluate them apart, into tables of their own"
            )
        return model

    def rows(self, model: TrainedModel, measured: list[Row], advance: Callable[[int], None]) -> list[Row]:
        """Evaluate a checkpoint on the tasks of which it has no row yet."""
        missing = dict(self._tasks)
        for row in measured:
            task = missing.pop(row["task"], None)
            if task is not None and task.digest != row["items_digest"]:
                raise UserError(
                    f"the table has results of task {task.name} on other items, or with other shots "
                    f"({row['items_digest']}, these are {task.digest}); name another --out, or delete the file"
                )
        if not missing:
            return []
        self._model = model  # the next one of its stage has the same components
        stage = model.stage
        key = (stage.model, stage.objective, stage.data.seq_len)
        if key not in self._evaluators:
            self._evaluators[key] = task_evaluator(model, list(self._tasks.values()), self._mode)
        evaluator = replace(self._evaluators[key], tasks=list(missing.values()))
        results = evaluator.evaluate(model.params(), advance)
        facts = {**checkpoint_facts(model, self._average), **_log_facts(model)}
        shared = {**facts, **self.same}
        return [{**shared, "task": name, **_columns(result)} for name, result in results.items()]


def _columns(result: dict[str, Any]) -> Row:
    """Return a task's result as columns; its loss is `L`, which laws of accuracy read."""
    values = {name: value for name, value in result.items() if name not in ("loss", "loss_se", "digest")}
    loss = {"L": result["loss"], "L_se": result["loss_se"], "bits_per_byte": result["loss"] / math.log(2)}
    return {**values, **loss, "items_digest": result["digest"]}


def _log_facts(model: TrainedModel) -> Row:
    """Return what the stage's log has of the checkpoint's step: the held-out loss and the learning rate, or nothing."""
    from pathways_lite.tracking.log import LOG, read_log

    directory = model.path.parent.parent
    rows = read_log(directory / LOG) if (directory / LOG).is_file() else []
    step = model.manifest.step
    losses = [row["domains"] for row in rows if row["kind"] == "eval" and row["step"] == step]
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train" and row["step"] <= step]
    tokens = sum(result["tokens"] for result in losses[-1].values()) if losses else 0
    return {
        "held_out_loss": sum(result["nll"] for result in losses[-1].values()) / tokens if tokens else None,
        "learning_rate": rates[-1] if rates else None,
    }


def evaluate_tasks_along(
    path: Path, out: Path | None, choice: TaskChoice, *, every: int, average: bool, as_json: bool
) -> None:
    """Write a table of tasks by checkpoint and a page of curves and statistics, and print them."""
    from pathways_lite.scaling.early_ranking import early_rankings
    from pathways_lite.scaling.runs_table import to_columns
    from pathways_lite.scaling.task_dynamics import task_dynamics
    from pathways_lite.scaling.task_dynamics_report import write_task_report
    from pathways_lite.training.load import load_model

    own, others = choice.split()
    if others:
        raise UserError(f"--along is for our own tasks; evaluate {', '.join(others)} at one checkpoint at a time")
    tasks = choice.open(own)
    first = load_model(path, average=average)
    out = out or default_table(path, "tasks.csv")
    rows, new = evaluate_along(path, out, TaskMeasurement(first, tasks, choice, average), every=every)
    table = to_columns(rows)
    dynamics = task_dynamics(table)
    early = early_rankings(table)
    page = write_task_report(table, dynamics, early, out.with_suffix(".html"))
    if as_json:
        facts = {"table": out, "page": page, "measured": new, "kept": len(rows) - new}
        print_json({**facts, "statistics": dynamics.to_json(), "early": list(map(asdict, early)), "rows": rows})
        return
    _print_dynamics(dynamics, early, f"{path}")
    typer.echo(f"{new} results measured, {len(rows) - new} kept")
    typer.echo(out)
    typer.echo(page)


def _print_dynamics(dynamics: Dynamics, early: Sequence[EarlyRanking], title: str) -> None:
    from pathways_lite.console import Console, Table
    from pathways_lite.scaling.task_dynamics_report import EARLY_HEADER, HEADER, early_rows, statistic_rows

    console = Console()
    for header, rows in ((HEADER, statistic_rows(dynamics)), (EARLY_HEADER, early_rows(early))):
        table = Table(title=title)
        for i, column in enumerate(header):
            table.add_column(column, justify="left" if i < 2 else "right")
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
