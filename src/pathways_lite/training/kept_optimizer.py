"""Refuse, when a recipe is resolved, an optimizer's state that is to be kept and is not there or does not fit."""

from __future__ import annotations

from typing import Any

import jax

from pathways_lite import models
from pathways_lite.checkpoints import restore_differences
from pathways_lite.errors import UserError
from pathways_lite.recipe import Continue, Grow, Recipe, Restore, Stage
from pathways_lite.training import optimizers
from pathways_lite.training.load import TrainedModel
from pathways_lite.training.stage import stage_timeline


def require_kept_optimizer(recipe: Recipe, index: int) -> None:
    """Raise UserError where stage `index` continues or grows the stage before it with another optimizer's state."""
    stage = recipe.stages[index]
    if not isinstance(stage.start, Continue | Grow) or stage.start.optimizer == "reset":
        return
    before, grows = recipe.stages[index - 1], isinstance(stage.start, Grow)
    if _specs(before, with_shapes=not grows) != _specs(stage, with_shapes=not grows):
        raise UserError(
            f"stages.{stage.name}.start.optimizer={stage.start.optimizer!r}, but the state of {_described(before)} is "
            f"not that of {_described(stage)}; use 'reset', or what stage {before.name!r} has"
        )


def require_stored_optimizer(stage: Stage, model: TrainedModel) -> None:
    """Raise UserError where `stage` keeps the state of an optimizer that the checkpoint does not hold."""
    if not (isinstance(stage.start, Restore) and stage.start.optimizer == "keep"):
        return
    prefix = f"stages.{stage.name}.start.optimizer='keep', but {model.path}"
    if differences := restore_differences(model.manifest, _abstract_state(stage), "opt_state"):
        if not any(name.startswith("opt_state.") for name in model.manifest.arrays):
            raise UserError(
                f"{prefix} holds no optimizer state, like every checkpoint that grow, merge or convert makes; use "
                "'reset', or the checkpoint of a trained stage"
            )
        raise UserError(
            f"{prefix} holds the state of {_described(model.stage)}, and this stage has {_described(stage)} "
            f"({differences[0]}); use 'reset', or what that stage has"
        )
    model.require_full_growth("use start.optimizer='reset'")


def _abstract_state(stage: Stage) -> Any:
    optimizer = optimizers.build_stage_optimizer(stage, stage_timeline(stage))
    return jax.eval_shape(optimizer.init, models.abstract_params(stage.model))


def _specs(stage: Stage, *, with_shapes: bool) -> Any:
    leaves, _ = jax.tree_util.tree_flatten_with_path(_abstract_state(stage))
    return [(path, leaf.dtype, leaf.shape if with_shapes else ()) for path, leaf in leaves]


def _described(stage: Stage) -> str:
    pruning = "" if stage.pruning is None else " with pruning"
    return f"{stage.optimizer.kind}{pruning} for {stage.model.n_layers} layers of d_model={stage.model.d_model}"
