"""Train a recipe from Python, as `pathways-lite train` does."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pathways_lite.compilation_cache import enable_compilation_cache
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError
from pathways_lite.library.trained import Trained, load
from pathways_lite.paths import local_path
from pathways_lite.recipe import Recipe, apply_overrides, load_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.training.run import RunOptions, train_run

__all__ = ["train"]


def train(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    track: Sequence[str] = ("tensorboard",),
    samples: bool = True,
    page: bool = True,
) -> Trained:
    """Train all stages of a recipe, or what is left of them, and return the model of the last one.

    Args:
      recipe: a recipe; a Python file with a function `recipe()`, or its JSON; or a run directory, to continue that run.
      out: the run directory; None: runs/NAME of the recipe.
      overrides: changes such as "stages.base.batch_size=32".
      track: where rows are logged too: "tensorboard", "wandb".
      samples, page: generate text, and draw the run's page, at the end of every stage.

    Raises UserError for what you can correct. Ctrl-C saves a checkpoint and raises KeyboardInterrupt; another signal
    saves one and raises SystemExit. The same call continues, bit for bit as if there had been no interruption.
    """
    begin = Beginning.of(recipe, out, overrides)
    status = train_run(begin.recipe, begin.path, **begin.options(track, samples=samples, page=page))
    if status:
        raise interruption(status)
    return load(begin.path / begin.recipe.stages[-1].name)


class Beginning(NamedTuple):
    """What is trained, and where."""

    recipe: Recipe
    path: Path
    source: Path | None  # the recipe's file, or the directory beside which a run is

    @classmethod
    def of(cls, recipe: Recipe | str | Path, out: str | Path | None, overrides: Sequence[str]) -> Beginning:
        """Read a recipe as the arguments of `train` say. Raises UserError where they do not go together."""
        given = None if out is None else local_path(out)
        if isinstance(recipe, Recipe):
            recipe = apply_overrides(recipe, overrides)
            return cls(recipe, given or Path("runs") / recipe.name, None)
        path = local_path(recipe)
        if not path.is_dir():
            recipe = load_recipe(path, overrides)
            return cls(recipe, given or Path("runs") / recipe.name, path)
        if given not in (None, path):
            raise UserError(f"a run continues in its own directory, {path}; leave out {given}")
        return cls(apply_overrides(RunDirectory(path).recipe(), overrides), path, path.parent)

    def options(self, track: Sequence[str], *, samples: bool, page: bool) -> RunOptions:
        """Return the options of `training.run`, once compiled programs are kept between processes."""
        if coordination.process_count() == 1:  # processes that compile and others that do not would wait for each other
            enable_compilation_cache()
        trackers = (track,) if isinstance(track, str) else tuple(track)
        return RunOptions(trackers=trackers, source=self.source, samples=samples, page=page)


def interruption(status: int) -> BaseException:
    """Return what is raised after a signal, given the exit status of the command line."""
    return KeyboardInterrupt() if status == 128 + signal.SIGINT else SystemExit(status)
