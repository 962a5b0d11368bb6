"""Decide whether a stage of a run is trained already, by its summary and by what later stages need of it."""

from __future__ import annotations

from collections.abc import Callable

from pathways_lite.checkpoints import CheckpointManager, verify_checkpoint
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.resolve import stages_needed
from pathways_lite.training.stage import StageSpec


def is_trained(spec: StageSpec, run: RunDirectory, note: Callable[[str], None]) -> bool:
    """Return whether nothing of a stage is left to do; all processes call it.

    A stage is trained when its summary says so and, where a later stage is about to start from its last checkpoint,
    that checkpoint is whole. Otherwise the missing steps are trained again, which is exact. `note` receives what the
    user should know. Raises UserError for a stage that cannot be trained here: another run has to, or no checkpoint of
    it is left.
    """
    if not coordination.run_on_primary(lambda: _has_summary(spec, run, note)):
        return False
    if not coordination.run_on_primary(lambda: _is_about_to_be_read(spec.recipe, spec.index, run)):
        return True
    directory = run.stage(spec.stage.name)
    checkpoints, last_step = CheckpointManager(directory.checkpoints), spec.timeline.total_steps
    finding = verify_checkpoint(checkpoints.path(last_step))
    if finding.ok:
        return True
    problem = f"stage {spec.stage.name!r} is finished, but its last checkpoint is not whole:\n{finding}\n"
    if directory.link_target is not None:
        raise UserError(
            f"{problem}It belongs to the run {directory.link_target}: remove "
            f"{directory.path.resolve() / directory.summary_path.name} and train that run again"
        )
    if not coordination.run_on_primary(lambda: bool(set(checkpoints.steps()) - {last_step})):
        raise UserError(f"{problem}No other is left; remove {directory.path} to train the stage from its start")

    def reopen() -> None:
        note(f"{problem}The steps since the newest whole one are trained again.")
        directory.summary_path.unlink()

    coordination.run_on_primary(reopen)
    return False


def _has_summary(spec: StageSpec, run: RunDirectory, note: Callable[[str], None]) -> bool:
    """Return whether the stage has the summary of a finished stage, which names its identity."""
    directory = run.stage(spec.stage.name)
    summary = directory.summary
    identity = None if summary is None else summary.get("identity")
    if identity == spec.identity:
        return True
    if directory.link_target is not None:
        problem = "is not finished" if identity is None else f"has the identity {identity}, not {spec.identity}"
        raise UserError(
            f"stage {spec.stage.name!r} is a link to the run {directory.link_target}, which {problem}; train that run "
            "first, or remove the link to train the stage here"
        )
    if directory.summary_path.exists():
        problem = "is damaged" if identity is None else f"is that of another stage, {identity}"
        note(f"{directory.summary_path} {problem}; stage {spec.stage.name!r} is concluded again")
    return False


def _is_about_to_be_read(recipe: Recipe, index: int, run: RunDirectory) -> bool:
    """Return whether a later stage that has no checkpoint of its own yet starts from the last one of stage `index`."""
    for later in range(index + 1, len(recipe.stages)):
        directory = run.stage(recipe.stages[later].name)
        begun = directory.is_finished or bool(CheckpointManager(directory.checkpoints).steps())
        if not begun and index in stages_needed(recipe, later):
            return True
    return False
