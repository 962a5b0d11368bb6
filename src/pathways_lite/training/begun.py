"""How far the stages of a recipe are in a run directory: which are finished, and where training continues."""

from __future__ import annotations

from dataclasses import dataclass

from pathways_lite.checkpoint_names import checkpoint_steps
from pathways_lite.checkpoints import CheckpointManager, read_manifest
from pathways_lite.data.order import DataCursor
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, stage_identity
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.larger_budget import has_larger_budget
from pathways_lite.training.load import final_step
from pathways_lite.training.run_record import stage_has_begun
from pathways_lite.training.stage import stage_timeline


@dataclass(frozen=True)
class StageState:
    """How far a stage is."""

    step: int = 0  # at which training continues, or ended
    finished: bool = False
    position: int | None = (
        None  # sequences of the data's order that were read before that step; None where it is not known
    )

    def describe(self, total_steps: int) -> str:
        """Say it for people; "" for a stage that has no checkpoint."""
        if self.finished:
            early = self.step < total_steps
            return f"finished, stopped early at step {self.step:,} of {total_steps:,}" if early else "finished"
        return f"continues at step {self.step:,} of {total_steps:,}" if self.step else ""


def stage_states(recipe: Recipe, run: RunDirectory | None) -> list[StageState]:
    """Return how far each stage of a resolved recipe is in `run`.

    Nothing is done of a stage that the run began with another recipe (`is_another_recipe`), nor of those after it.
    """
    states = [StageState()] * len(recipe.stages)
    if run is None or not run.recipe_path.is_file():
        return states
    old, other = run.recipe(), first_other_stage(recipe, run)
    for index in range(min(len(recipe.stages), len(old.stages)) if other is None else other):
        states[index] = _state(recipe, index, run, finished=not is_enlarged(old, recipe, index, run))
    return states


def first_other_stage(recipe: Recipe, run: RunDirectory) -> int | None:
    """Return the first stage that `run` began with another recipe, so that this one is refused there; None if none."""
    if not run.recipe_path.is_file():
        return None
    old = run.recipe()
    common = range(min(len(recipe.stages), len(old.stages)))
    return next((index for index in common if is_another_recipe(old, recipe, index, run)), None)


def _state(recipe: Recipe, index: int, run: RunDirectory, *, finished: bool) -> StageState:
    """Return the state of a stage; not `finished`: its summary is that of a smaller budget."""
    stage = recipe.stages[index]
    directory = run.stage(stage.name)
    finished = finished and directory.is_finished
    step = final_step(directory, stage) if finished else max(checkpoint_steps(directory.checkpoints), default=0)
    if not step:
        return StageState(finished=finished)
    try:
        manifest = read_manifest(CheckpointManager(directory.checkpoints).path(step))
    except UserError:  # damaged; training says what it does about it
        return StageState(step, finished)
    cursor = DataCursor.from_json(manifest.meta["cursor"])
    return StageState(step, finished, cursor.sequences_read_by(stage_timeline(stage), step))


def is_enlarged(old: Recipe, new: Recipe, index: int, run: RunDirectory) -> bool:
    """Return whether stage `index`, the last that was begun in `run`, continues in place with a larger budget."""
    begun, *later = (stage_has_begun(run.stage(stage.name).path) for stage in old.stages[index:])
    return begun and not any(later) and has_larger_budget(old, new, index)


def is_another_recipe(old: Recipe, new: Recipe, index: int, run: RunDirectory) -> bool:
    """Return whether stage `index` was begun in `run` and would compute something else with the new recipe."""
    if not stage_has_begun(run.stage(old.stages[index].name).path) or is_enlarged(old, new, index, run):
        return False
    return stage_identity(old, index) != stage_identity(new, index)
