"""Claim a run directory for a recipe: lock it, refuse another recipe than it began with, write the recipe down."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, identity_differences, write_recipe
from pathways_lite.recipe.fields import value_text
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_lock import RunLock
from pathways_lite.training.begun import is_another_recipe, is_enlarged
from pathways_lite.training.load import final_step
from pathways_lite.training.run_record import removed_if_refused


def claim_run(
    stack: contextlib.ExitStack, lock: RunLock, run: RunDirectory, recipe: Recipe, first_made: Path | None
) -> None:
    """Lock `run` and write the recipe. Raises UserError where it is in use or holds another recipe's stages."""
    stack.enter_context(lock)
    stack.enter_context(removed_if_refused(run.path, first_made))
    if run.recipe_path.is_file():
        old = run.recipe()
        for index in range(min(len(recipe.stages), len(old.stages))):
            if is_enlarged(old, recipe, index, run):
                run.stage(old.stages[index].name).summary_path.unlink(missing_ok=True)  # it is not finished anymore
            elif is_another_recipe(old, recipe, index, run):
                _refuse_other_plugins(old, recipe, index, run)
                differences = "\n".join(identity_differences(old, recipe, index))
                raise UserError(
                    f"{run.path} was begun with another recipe; choose another directory with --out, delete this one "
                    f"with `pathways-lite runs delete {run.path}`, or undo these changes:\n"
                    f"{differences}{_suggest_stage(old, recipe, index, run.path)}"
                )
        recipe = _with_later_stages(recipe, old, run)
    write_recipe(recipe, run.recipe_path)


def _refuse_other_plugins(old: Recipe, new: Recipe, index: int, run: RunDirectory) -> None:
    """Raise UserError where nothing but the versions of plugins separates a stage from what the run began with."""
    differences = identity_differences(old, new, index)
    if all(line.partition(":")[0].endswith(".plugin") for line in differences):
        raise UserError(
            f"{run.path} was begun with another version of a plugin: {'; '.join(differences)}; install that one, or "
            "train with this one in another directory (--out)"
        )


def _with_later_stages(recipe: Recipe, old: Recipe, run: RunDirectory) -> Recipe:
    """Keep the stages that a run was extended by where its first recipe, without them, is given again."""
    count = len(recipe.stages)
    names = [stage.name for stage in old.stages]
    begun = any(run.stage(name).path.exists() for name in names[count:])
    if not begun or names[:count] != [stage.name for stage in recipe.stages]:
        return recipe
    return recipe.copy_unchecked(stages=(*recipe.stages, *old.stages[count:]))


def _suggest_stage(old: Recipe, new: Recipe, index: int, path: Path) -> str:
    """Return the stage to append where a stage's budget is all that has changed, and has grown; otherwise ""."""
    before, after = old.stages[index], new.stages[index]
    names = {line.partition(":")[0] for line in identity_differences(old, new, index)}
    grown = before.budget.kind == after.budget.kind and after.budget.n > before.budget.n
    if not grown or names != {f"stages.{after.name}.budget.n"}:
        return ""
    more = after.budget.model_copy(update={"n": after.budget.n - before.budget.n})
    last = final_step(RunDirectory(path).stage(before.name), before)
    if index + 1 < len(old.stages):  # --extend would lengthen the last stage
        return (
            f"\nIts steps have followed the old budget, so stage {before.name!r} cannot grow. To train it further, "
            f"branch off its last step: pathways-lite train {path} --stage {before.name} --branch {last} --extend "
            f"'{value_text(more)}' --out OTHER; the stages after it are then to be added"
        )
    return (
        "\nIts steps have followed the old budget, so the stage cannot grow. To train further, append a stage, by "
        f"pathways-lite train {path} --extend '{value_text(more)}', or to the old recipe: stages=(*stages, "
        f"stages[{index}].model_copy(update={{'name': '{before.name}_more', 'start': Continue(optimizer='keep'), "
        f"'budget': {type(more).__name__}(n={more.n})}}))"
    )
