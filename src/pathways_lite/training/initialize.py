"""Where a stage begins: one function for each start of the recipe's vocabulary, and one for its own checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathways_lite.checkpoints import CheckpointManager, restore
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.ledger import Ledger, Seconds
from pathways_lite.recipe import Continue, Grow, Merge, Restore, Scratch
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.init_growth import grow_checkpoint
from pathways_lite.training.init_merging import furthest, merge_cost, merge_lineage, merged_params
from pathways_lite.training.load import load_model
from pathways_lite.training.references import cost_of_uses, load_reference
from pathways_lite.training.sample_weights import MethodState
from pathways_lite.training.setup import Setup
from pathways_lite.training.spike_guard import GuardState
from pathways_lite.training.step import TrainState


@dataclass(frozen=True)
class CheckpointState:
    """Everything that a checkpoint saves and restores as one."""

    state: TrainState
    cursor: DataCursor
    guard: GuardState
    seconds: Seconds  # of this stage
    inherited: Ledger  # the cost of everything the first parameters were made of
    parent: str | None  # digest of the checkpoint that the first parameters came from

    @classmethod
    def first(cls, state: TrainState, cursor: DataCursor, inherited: Ledger, parent: str | None) -> CheckpointState:
        """Before a stage's first step."""
        return cls(state, cursor, GuardState(), Seconds(), inherited, parent)

    @property
    def step(self) -> int:
        return int(self.state.step)

    def ledger(self, setup: Setup) -> Ledger:
        """The stage's own account at this position."""
        return Ledger(seconds=self.seconds).after(setup.timeline, self.step)

    def to_meta(self, setup: Setup) -> dict[str, Any]:
        """The JSON that goes with the arrays into a checkpoint."""
        ledger = self.ledger(setup)
        return {
            "cursor": self.cursor.to_json(),
            "guard": self.guard.to_json(),
            "ledger": {"stage": ledger.to_json(), "total": (self.inherited + ledger).to_json()},
            "inherited": self.inherited.to_json(),
            "lineage": {"stage": setup.stage.name, "identity": setup.identity, "parent": self.parent},
            "recipe": setup.recipe.model_dump(mode="json"),
        }


def restore_latest(
    setup: Setup, checkpoints: CheckpointManager, *, at_most: int | None = None, report: Callable[[str], None]
) -> CheckpointState | None:
    """The stage's newest whole checkpoint, None where it has none. Raises UserError for one of another recipe."""
    found = checkpoints.restore_latest(setup.abstract_state, at_most=at_most, report=report)
    if found is None:
        return None
    identity = found.meta["lineage"]["identity"]
    if identity != setup.identity:
        raise UserError(
            f"{checkpoints.directory} holds checkpoints of another recipe (identity {identity}, this one is "
            f"{setup.identity}); choose another run directory with --out"
        )
    return CheckpointState(
        state=found.arrays,
        cursor=DataCursor.from_json(found.meta["cursor"]),
        guard=GuardState.from_json(found.meta["guard"]),
        seconds=Ledger.from_json(found.meta["ledger"]["stage"]).seconds,
        inherited=Ledger.from_json(found.meta["inherited"]),
        parent=found.meta["lineage"]["parent"],
    )


def initialize_stage(setup: Setup, run: RunDirectory, stopped: Callable[[], int]) -> CheckpointState:
    """The position before the stage's first step, as its start says, with the arrays that its method needs.

    Raises UserError where that cannot be had, and Interrupted where it takes training and `stopped()` is true.
    """
    position = _started(setup, run, stopped)
    position = replace(position, inherited=position.inherited + cost_of_uses(setup.recipe, setup.index, run))
    if not (like := setup.abstract_state.method_state):
        return position
    memory = setup.first_memory()
    reference = load_reference(setup.recipe, setup.index, run)
    params = () if reference is None else reference.params_like(like.reference)
    return replace(position, state=position.state._replace(method_state=MethodState(memory, params)))


def _started(setup: Setup, run: RunDirectory, stopped: Callable[[], int]) -> CheckpointState:
    match setup.stage.start:
        case Scratch():
            return CheckpointState.first(setup.fresh_state(), DataCursor(), Ledger(), None)
        case Continue(optimizer=optimizer):
            parent = run.stage(setup.recipe.stages[setup.index - 1].name)
            return _from_checkpoint(setup, parent.checkpoints, keep_optimizer=optimizer == "keep")
        case Restore(path=path, optimizer=optimizer):
            return _from_checkpoint(setup, path, keep_optimizer=optimizer == "keep")
        case Grow():
            return _grown(setup, run.stage(setup.recipe.stages[setup.index - 1].name).checkpoints, stopped)
        case Merge() as start:
            return _merged(setup, start)


def _from_checkpoint(setup: Setup, path: str | Path, *, keep_optimizer: bool) -> CheckpointState:
    """Another stage's parameters (and its optimizer's state, if kept); data goes on where that one stopped."""
    found = load_model(path)
    if keep_optimizer:
        # The parameters that were being trained, which those to evaluate (`found.params`) need not be.
        like = setup.abstract_state
        state = setup.state_with(found.trained_params_like(like.params))
        state = state._replace(opt_state=restore(found.path, like.opt_state, "opt_state").arrays)
    else:
        state = setup.state_with(found.params(setup))
    return CheckpointState.first(state, found.cursor_for(setup.stage), found.cost, found.manifest.digest)


def _grown(setup: Setup, path: Path, stopped: Callable[[], int]) -> CheckpointState:
    """A larger model of another stage's; data goes on where that one stopped, and where learning to grow did."""
    found = load_model(path)
    grown = grow_checkpoint(setup, found, found.cursor_for(setup.stage), stopped)
    return CheckpointState.first(grown.state, grown.cursor, found.cost + grown.spent, found.manifest.digest)


def _merged(setup: Setup, start: Merge) -> CheckpointState:
    """The average of several checkpoints; data goes on behind the one that has come furthest in it."""
    ingredients = [load_model(one.path) for one in start.of]
    state = setup.state_with(merged_params(setup, ingredients, [one.weight for one in start.of]))
    return CheckpointState.first(
        state, furthest(ingredients, setup.stage), merge_cost(ingredients), merge_lineage(ingredients)
    )
