"""The tasks that a stage evaluates beside held-out text."""

from __future__ import annotations

from pathways_lite.data.store import Store
from pathways_lite.evaluation.downstream import TaskEvaluator
from pathways_lite.models.decoder import ONE_DEVICE
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Stage
from pathways_lite.tasks.scored_items import open_tasks

ITEMS = 64  # of each task, unless the recipe says otherwise: every evaluation of the stage takes them


def stage_tasks(stage: Stage, store: Store, layout: Layout = ONE_DEVICE) -> TaskEvaluator | None:
    """Return the evaluation of the tasks of a resolved stage, whose parameters have a layout; None without tasks.

    Raises UserError for a task that is not known, or an item that is longer than the stage's sequences.
    """
    evaluation = stage.evaluation
    if evaluation.tasks is None:
        return None
    tasks = open_tasks(evaluation.tasks, shots=evaluation.shots or 0, limit=evaluation.task_items or ITEMS)
    tokenizer = store.tokenizer()
    # Parameters stay sharded: a copy on every device may not fit beside the optimizer's state.
    evaluator = TaskEvaluator(
        tasks, stage, tokenizer, store.frame, ends=tokenizer.control.eos, layout=layout, gather=False
    )
    evaluator.prepare()
    return evaluator
