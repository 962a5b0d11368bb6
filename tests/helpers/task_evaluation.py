"""A small evaluation of tasks: choices, and answers that are written."""

from typing import Any

import jax

from pathways_lite import models
from pathways_lite.data.tokenizers import ByteTokenizer
from pathways_lite.document_frame import DocumentFrame
from pathways_lite.evaluation.downstream import TaskEvaluator
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import AdamW, Data, Model, Stage
from pathways_lite.tasks.scored_items import open_task

MODEL = Model(d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=260, dtype="float32")


def evaluate_tasks(layout: Layout) -> dict[str, Any]:
    """Evaluate random parameters, sharded by a layout, as training does."""
    abstract = layout.abstract_parameters(models.abstract_params(MODEL), models.logical_axes(MODEL))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract) if layout.is_sharded else None
    params = jax.jit(lambda: models.init(MODEL, jax.random.key(0)), out_shardings=shardings)()
    stage = Stage(model=MODEL, data=Data(corpus="x", seq_len=64), optimizer=AdamW(), batch_size=2, budget="1 steps")
    tasks = [open_task(name, limit=5) for name in ("sum:choices", "sum")]
    evaluator = TaskEvaluator(tasks, stage, ByteTokenizer(), DocumentFrame(256), layout=layout, gather=False)
    results = evaluator.evaluate(params)
    return {
        name: {key: value for key, value in each.items() if not isinstance(value, str)}
        for name, each in results.items()
    }
