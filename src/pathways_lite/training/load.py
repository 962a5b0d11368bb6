"""A trained model out of a checkpoint: for evaluation, for generation, and as the start of another stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite import models
from pathways_lite.checkpoints import Manifest, checkpoint_paths, examine, read_manifest, restore
from pathways_lite.errors import UserError
from pathways_lite.recipe import Model, Recipe, ScheduleFree, Stage
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.optimizers import evaluation_params
from pathways_lite.training.setup import Setup


@dataclass(frozen=True)
class Loaded:
    """A valid checkpoint and the stage that made it; parameters are read when asked for."""

    path: Path
    manifest: Manifest
    setup: Setup

    @property
    def stage(self) -> Stage:
        return self.setup.stage

    def params(self, model: Model | None = None) -> Any:
        """The parameters to evaluate or to start from (schedule-free: the averaged ones).

        With `model`, they must be exactly that model's: otherwise UserError with the difference.
        """
        like = models.abstract_params(model or self.stage.model)
        trained = restore(self.path, like, "params").arrays
        if not isinstance(self.stage.optimizer, ScheduleFree):
            return trained  # the optimizer's state, larger than the parameters, need not be read
        opt_state = restore(self.path, self.setup.abstract_state.opt_state, "opt_state").arrays
        return evaluation_params(opt_state, trained)


def load_model(path: str | Path) -> Loaded:
    """The newest valid checkpoint at or below `path` (a checkpoint, stage or run directory).

    Raises UserError where there is none, or where it was not written by `pathways-lite train`.
    """
    path = find_checkpoint(path)
    manifest = read_manifest(path)
    try:
        recipe = Recipe.model_validate(manifest.meta["recipe"])
        index = [stage.name for stage in recipe.stages].index(manifest.meta["lineage"]["stage"])
    except (KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path} does not say which recipe made it: {error}") from error
    return Loaded(path, manifest, Setup(recipe, index))


def find_checkpoint(path: str | Path) -> Path:
    """The newest valid checkpoint at or below `path`; of a run, that of its last stage that has any.

    Raises UserError where there is none.
    """
    if not str(path):
        raise UserError("a checkpoint is needed: name a checkpoint, stage or run directory")
    run = RunDirectory(Path(path))
    places = [Path(path)]
    if run.recipe_path.is_file():
        stages = [run.stage(stage.name).checkpoints for stage in run.recipe().stages]
        places = [stage for stage in reversed(stages) if stage.is_dir()] or places
    problems = []
    for place in places:
        for candidate in reversed(checkpoint_paths(place)):
            finding = examine(candidate)
            if finding.ok:
                return candidate
            problems.append(str(finding))
    raise UserError("\n".join([f"no checkpoint in {path} is whole:", *problems]))
