"""The tasks that a stage evaluates beside held-out text."""

from __future__ import annotations

from pathways_lite.data.store import Store
from pathways_lite.evaluation.downstream import TaskEvaluator
from pathways_lite.recipe import Stage
from pathways_lite.tasks.scored_items import open_tasks

ITEMS = 64  # of each task, unless the recipe says otherwise: every evaluation of the stage takes them


def stage_tasks(stage: Stage, store: Store) -> TaskEvaluator | None:
    """Return the evaluation of the tasks of a resolved stage; None where it has none.

    Raises UserError for a task that is not known, or an item that is longer than the stage's sequences.
    """
    evaluation = stage.evaluation
    if evaluation.tasks is None:
        return None
    tasks = open_tasks(evaluation.tasks, shots=evaluation.shots or 0, limit=evaluation.task_items or ITEMS)
    tokenizer = store.tokenizer()
    evaluator = TaskEvaluator(tasks, stage, tokenizer, store.frame, ends=tokenizer.control.eos)
    evaluator.prepare()
    return evaluator
