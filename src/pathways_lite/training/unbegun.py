"""Checkpoints that are made of others without training: of a stage that has not begun, after the one they come from.

A stage starts from them by `Restore(path=...)`.
"""

from __future__ import annotations

from typing import Any

from pathways_lite.ledger import Ledger
from pathways_lite.recipe import Recipe, Stage
from pathways_lite.training.cursor import Cursor
from pathways_lite.training.load import Loaded
from pathways_lite.training.setup import Setup
from pathways_lite.training.starts import Position
from pathways_lite.training.state import TrainState


def recipe_after(found: Loaded, name: str, **fields: Any) -> Recipe:
    """The stages up to that of `found`, and one like it with other `fields`, called `name` or `name`_again."""
    stages = found.setup.recipe.stages[: found.setup.index + 1]
    while name in {stage.name for stage in stages}:
        name += "_again"
    stage = Stage.model_validate({**dict(found.stage), "name": name, **fields})
    return found.setup.recipe.model_copy(update={"stages": (*stages, stage)})


def unbegun_meta(setup: Setup, cursor: Cursor, inherited: Ledger, parent: str) -> dict[str, Any]:
    """What goes with the arrays: nothing of the stage is spent. See `Position` for the arguments."""
    state = TrainState(step=0, params=(), opt_state=(), method_state=(), key=())
    return Position.first(state, cursor, inherited, parent).to_meta(setup)


def meta_after(found: Loaded, setup: Setup) -> dict[str, Any]:
    """The same for what is made of one checkpoint; the data goes on where it was."""
    return unbegun_meta(setup, found.cursor_for(setup.stage), found.cost, found.manifest.digest)
