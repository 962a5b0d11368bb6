"""`pathways-lite evaluate RUN --tasks --along`: tasks at every checkpoint that runs keep, and how they develop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.evaluate_along import (
    Row,
    checkpoint_facts,
    default_table,
    evaluate_along,
    measured_sentence,
    yes_or_no,
)
from pathways_lite.cli.evaluate_lm_eval import HarnessTasks
from pathways_lite.cli.evaluate_lm_eval_rows import count_items, requests_digest, task_columns
from pathways_lite.cli.evaluate_tasks import TaskChoice, task_evaluator
from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.evaluation.downstream import TaskEvaluator
    from pathways_lite.scaling.early_ranking import EarlyRanking
    from pathways_lite.scaling.task_dynamics import Dynamics
    from pathways_lite.tasks.scored_items import Task
    from pathways_lite.training.load import TrainedModel


_SHOWN = 20  # checkpoints on the terminal


class TaskMeasurement:
    """Measures tasks, one row each: our own, and those of lm-evaluation-harness."""

    unit = "items"

    def __init__(
        self, first: TrainedModel, tasks: list[Task], harness: HarnessTasks | None, choice: TaskChoice, average: bool
    ) -> None:
        self._model, self._average, self._choice = first, average, choice
        self._tasks, self._harness = {task.name: task for task in tasks}, harness
        self._tokenizer = first.tokenizer().fingerprint
        self._evaluators: dict[Any, TaskEvaluator] = {}
        evaluator = self._evaluator(first)
        self._digests = {task.name: evaluator.digest(task) for task in tasks}
        self.units = sum(len(task.items) for task in tasks)
        self._harness_items: dict[str, int] = {}
        if harness is not None:
            requests = harness.requests(first)
            self._harness_items = {name: count_items(each) for name, each in requests.items()}
            self._digests |= {name: requests_digest(each) for name, each in requests.items()}
            self.units += sum(self._harness_items.values())
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

    def require_room(self, checkpoints: Iterable[Path]) -> None:
        """Raise UserError where the items do not fit what checkpoints were trained on; their parameters are not read.

        One that is damaged, or was just deleted, is passed over.
        """
        from pathways_lite.checkpoints import DamagedError

        for checkpoint in checkpoints:
            with suppress(DamagedError, FileNotFoundError):
                self._evaluator(self.load(checkpoint)).prepare()

    def rows(self, model: TrainedModel, measured: list[Row], advance: Callable[[int], None]) -> list[Row]:
        """Evaluate a checkpoint on the tasks of which it has no row yet."""
        missing = dict(self._digests)
        for row in measured:
            digest = missing.pop(row["task"], None)
            if digest not in (None, row["items_digest"]):
                raise UserError(
                    f"the table has results of task {row['task']} on other items, or with other shots "
                    f"({row['items_digest']}, these are {digest}); name another --out, or delete the file"
                )
        if not missing:
            return []
        self._model = model  # the next one of its stage has the same components
        results: dict[str, Row] = {}
        if own := [task for name, task in self._tasks.items() if name in missing]:
            results |= replace(self._evaluator(model), tasks=own).evaluate(model.params(), advance)
        if others := [name for name in self._harness_items if name in missing]:
            results |= self._harness_results(model, others)
            advance(sum(self._harness_items[name] for name in others))
        shared = {**checkpoint_facts(model, self._average), **_log_facts(model), **self.same}
        return [
            {**shared, "task": name, **_columns(result), "items_digest": self._digests[name]}
            for name, result in results.items()
        ]

    def _evaluator(self, model: TrainedModel) -> TaskEvaluator:
        """Return the evaluation of a checkpoint; checkpoints of one model and length share it."""
        stage = model.stage
        key = (stage.model, stage.objective, stage.data.seq_len)
        if key not in self._evaluators:
            self._evaluators[key] = task_evaluator(model, list(self._tasks.values()), self._choice)
        return self._evaluators[key]

    def _harness_results(self, model: TrainedModel, names: list[str]) -> dict[str, Row]:
        assert self._harness is not None
        results = self._harness.run(model, names, samples=True)
        return {name: task_columns(results, self._harness.tasks[name]) for name in names}


def _columns(result: Row) -> Row:
    """Return a task's result as columns; its loss is `L`, which laws of accuracy read."""
    values = {name: value for name, value in result.items() if name not in ("loss", "loss_se", "digest")}
    if "loss" not in result:
        return values
    return {**values, "L": result["loss"], "L_se": result["loss_se"], "bits_per_byte": result["loss"] / math.log(2)}


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
    from pathways_lite.training.evaluate_checkpoints import kept_checkpoints
    from pathways_lite.training.load import load_model

    own, others = choice.split()
    tasks = choice.open(own)
    harness = HarnessTasks(others, choice) if others else None
    first = load_model(path, average=average)
    out = out or default_table(path, "tasks.csv")
    measurement = TaskMeasurement(first, tasks, harness, choice, average)
    measurement.require_room({each.parent: each for each in kept_checkpoints(path, every)}.values())  # one per stage
    rows, new = evaluate_along(path, out, measurement, every=every)
    table = to_columns(rows)
    dynamics = task_dynamics(table)
    early = early_rankings(table)
    page = write_task_report(table, dynamics, early, out.with_suffix(".html"))
    if as_json:
        facts = {"table": out, "page": page, "measured": new, "kept": len(rows) - new}
        print_json({**facts, "statistics": dynamics.to_json(), "early": list(map(asdict, early)), "rows": rows})
        return
    _print_accuracies(rows, f"{path}: accuracy")
    _print_dynamics(dynamics, early, f"{path}")
    typer.echo(measured_sentence(new, len(rows) - new, "result"))
    typer.echo(out)
    typer.echo(page)


def _print_accuracies(rows: list[Row], title: str) -> None:
    """Print the accuracy of every task by checkpoint; of many checkpoints some, with the first and the last."""
    from pathways_lite.console import Console, Table
    from pathways_lite.tracking.formatting import percent, si

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    checkpoints: dict[str, dict[str, Row]] = {}
    for row in rows:
        checkpoints.setdefault(row["digest"], {})[row["task"]] = row
    places = np.unique(np.linspace(0, len(checkpoints) - 1, min(_SHOWN, len(checkpoints))).round().astype(int))
    shown = [list(checkpoints.values())[place] for place in places]
    named = [name for name in ("run", "stage") if len({row[name] for row in rows}) > 1]
    caption = f"{len(shown)} of {len(checkpoints)} checkpoints; the file has all"
    table = Table(title=title, caption=caption if len(shown) < len(checkpoints) else None)
    for column in (*named, "step", "tokens", *tasks):
        table.add_column(column, justify="left" if column in named else "right")
    for by_task in shown:
        facts = next(iter(by_task.values()))
        values = (percent(by_task.get(task, {}).get("accuracy")) for task in tasks)
        tokens = "–" if facts["D"] is None else si(facts["D"])
        table.add_row(*(str(facts[name]) for name in named), f"{facts['step']:,.0f}", tokens, *values)
    Console().print(table)


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
