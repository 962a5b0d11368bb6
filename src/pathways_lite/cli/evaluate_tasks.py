"""`pathways-lite evaluate RUN --tasks`: likelihoods and written answers of tasks, by one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pathways_lite.cli.common import count_progress, print_json
from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.evaluation.downstream import TaskEvaluator
    from pathways_lite.recipe import Mode
    from pathways_lite.tasks.scored_items import Task
    from pathways_lite.training.load import TrainedModel


class TaskChoice(NamedTuple):
    """The tasks to evaluate, as the options say."""

    names: str  # separated by commas
    shots: int
    limit: int | None
    mode: Mode | None
    include: Path | None = None  # a directory with tasks of lm-evaluation-harness
    chat: bool = False  # ask an instruct model by its chat template
    multiturn: bool = True  # in a chat, shots are earlier turns

    def split(self) -> tuple[list[str], list[str]]:
        """Return the names of our own tasks, and those of lm-evaluation-harness.

        A name that is neither a family's nor a file's is the harness's, if that is installed or `include` is given.
        Raises UserError for one that the harness does not have either.
        """
        from pathways_lite.cli.evaluate_lm_eval import is_installed, require_task_names
        from pathways_lite.tasks.scored_items import is_task_name

        names = [name for name in map(str.strip, self.names.split(",")) if name]
        if not names:
            raise UserError("--tasks names no task; write e.g. --tasks sum,facts:choices")
        own = [name for name in names if is_task_name(name) or not (is_installed() or self.include)]
        others = [name for name in names if name not in own]
        require_task_names(others, self.include)
        return own, others

    def open(self, names: list[str]) -> list[Task]:
        """Open our own tasks. Raises UserError for one that is not known."""
        from pathways_lite.tasks.scored_items import open_tasks

        return open_tasks(names, shots=self.shots, limit=self.limit, chat=self.chat)


def evaluate_tasks(path: Path, choice: TaskChoice, *, average: bool, as_json: bool) -> None:
    """Evaluate the newest valid checkpoint at `path` on tasks, and print the results."""
    from pathways_lite.training.load import load_model

    own, others = choice.split()
    tasks = choice.open(own)
    harness_tasks = None
    if others:
        from pathways_lite.cli.evaluate_lm_eval import HarnessTasks

        harness_tasks = HarnessTasks(others, choice)
    model = load_model(path, average=average)
    evaluator = task_evaluator(model, tasks, choice)
    evaluator.prepare()  # which refuses what does not fit, before parameters are read
    harness = {} if harness_tasks is None else harness_tasks.run(model)
    with count_progress("evaluating tasks", evaluator.items, "items") as report:
        results = evaluator.evaluate(model.params(), report) if own else {}
    if as_json:
        facts = {"checkpoint": model.path, "digest": model.manifest.digest, "average": average, "tasks": results}
        print_json(
            facts | ({"apply_chat_template": True} if choice.chat else {}) | ({"lm_eval": harness} if others else {})
        )
        return
    title = f"{model.path}, average of parameters" if average else f"{model.path}"
    if own:
        _print_results(results, title)
    if others:
        _print_harness(harness, title)


def task_evaluator(model: TrainedModel, tasks: list[Task], choice: TaskChoice) -> TaskEvaluator:
    """Return the evaluation of a checkpoint on tasks, which is asked as `choice` says.

    Raises UserError for a chat with a model that has no chat template.
    """
    from pathways_lite.data.chat_template import ChatTemplate
    from pathways_lite.evaluation.downstream import TaskEvaluator
    from pathways_lite.evaluation.task_chat import TaskChat

    tokenizer = model.tokenizer()
    opener, ends = model.prompt_tokens(tokenizer)
    chat = None
    if choice.chat:
        chat = TaskChat(ChatTemplate(tokenizer, str(model.path), option="--apply-chat-template"), choice.multiturn)
    return TaskEvaluator(
        tasks, model.stage, tokenizer, model.frame(), opener, ends, choice.mode,
        chat=chat, layout=model.components.layout,
    )  # fmt: skip


def _print_results(results: Mapping[str, Mapping[str, Any]], title: str) -> None:
    from pathways_lite.console import Console, Table
    from pathways_lite.tracking.formatting import percent

    caption = (
        "±: standard error over items, variants of one problem together. Choices by ln p, by ln p per token, and by "
        'ln p less that after "Answer:". ln p, loss (nats per byte), p and Brier are of the right answer.'
    )
    table = Table(title=title, caption=caption)
    headers = "task,items,shots,accuracy,chance,sum,token,unconditional,ln p,loss,p,Brier"
    for column in headers.split(","):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, result in results.items():
        by_normalization = [
            f"{result[key]:.1%}" if (key := f"accuracy_{way}") in result else "-"
            for way in ("sum", "token", "unconditional")
        ]
        table.add_row(
            name, f"{result['items']:,}", f"{result['shots']}",
            f"{percent(result['accuracy'])} ± {percent(result['accuracy_se'])}", percent(result["chance"]),
            *by_normalization,
            *(f"{result[key]:.{digits}f}" for key, digits in (("log_p", 2), ("loss", 3), ("p", 3), ("brier", 3))),
        )  # fmt: skip
    Console().print(table)


def _print_harness(results: Mapping[str, Any], title: str) -> None:
    from pathways_lite.cli.evaluate_lm_eval import result_rows
    from pathways_lite.console import Console, Table

    table = Table(title=f"{title}, by lm-evaluation-harness")
    for column in ("task", "items", "shots", "metric", "value"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for row in result_rows(results):
        table.add_row(*row)
    Console().print(table)
