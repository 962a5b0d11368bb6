"""Write parameters from memory as a checkpoint that belongs to the model they come from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.checkpoints import write_streamed
from pathways_lite.conversion.blocks import stream_blocks
from pathways_lite.conversion.grow_and_merge import meta_from, next_stage
from pathways_lite.output_lock import lock_directory
from pathways_lite.recipe import AdamW, Restore
from pathways_lite.training.load import TrainedModel


def save_params(trained: TrainedModel, params: Any, out: Path) -> Path:
    """Write parameters of the model of `trained` into a new checkpoint below `out`. Returns its directory.

    Raises UserError where `out` has such a checkpoint.
    """
    streamed = {}
    for array, leaf in zip(
        jax.tree.leaves(models.param_specs(trained.stage.model)), jax.tree.leaves(params), strict=True
    ):
        streamed[f"params.{array.name}"] = stream_blocks(
            array, leaf.shape, str(leaf.dtype), functools.partial(_read, leaf)
        )
    start = Restore(
        path=str(trained.path), digest=trained.manifest.digest, weights="average" if trained.average else None
    )
    # An optimizer that averages would look for its state.
    optimizer = {"optimizer": AdamW()} if trained.stage.optimizer.averages_params else {}
    spec = next_stage(trained, "saved", start=start, **optimizer)
    meta, parent = meta_from(trained, spec), trained.manifest.meta
    meta |= {name: parent[name] for name in ("imported", "tokenizer") if name in parent}  # what exports ask for
    with lock_directory(out):
        return write_streamed(out, 0, streamed, meta, lambda: None, trained.files_to_carry())


def _read(leaf: Any, block: int | None) -> np.ndarray:
    return np.asarray(leaf if block is None else leaf[block : block + 1])
