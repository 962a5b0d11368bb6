"""`pathways-lite merge`: average several checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.argument_order import is_run, require_order
from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.console import print_line
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.training.load import TrainedModel


def merge(
    out: Annotated[Path, typer.Argument(parser=local_path, help="directory of the new checkpoint")],
    checkpoints: Annotated[list[str], typer.Argument(help="run, stage or checkpoint directories of one model")],
    weights: Annotated[
        str | None, typer.Option(help="weight of each, separated by commas; default: equal weights")
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="number of newest checkpoints to average of each")] = 1,
    decay: Annotated[float, typer.Option(help="weight of a checkpoint relative to the next newer one")] = 1.0,
    greedy: Annotated[
        bool, typer.Option(help="add a checkpoint only if it does not worsen the held-out loss (greedy soup)")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Average the parameters of checkpoints of one model; a stage then starts from it by `Restore(path=OUT)`.

    Arrays are read, averaged in float32 and written in chunks. In a recipe: `start=Merge(checkpoints=(...))`.

    Examples:

    - `pathways-lite merge runs/soup runs/seed_0 runs/seed_1 runs/seed_2 --greedy`

    - `pathways-lite merge runs/averaged runs/base --last 5`

    - `pathways-lite merge runs/mixed runs/code runs/text --weights 1,3`
    """
    from pathways_lite.checkpoints import require_absent
    from pathways_lite.conversion.grow_and_merge import merge_offline
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.recipe import Ingredient, Merge
    from pathways_lite.training.init_merging import require_same_model, resolve_merge
    from pathways_lite.training.load import load_model

    require_order(checkpoints[-1], out, "a run or checkpoint", is_run)
    relative_weights = _parse_weights(weights, len(checkpoints))
    if sum(relative_weights) <= 0 or not 0 < decay <= 1:
        raise UserError(
            f"--weights {weights} --decay {decay}: weights must have a positive sum, and the decay must be in (0, 1]"
        )
    ingredients = tuple(Ingredient(path=path, weight=w) for path, w in zip(checkpoints, relative_weights, strict=True))
    require_absent(out)  # before minutes of a greedy soup
    with lock_directory(out):
        resolved = resolve_merge(Merge(checkpoints=ingredients, last=last, decay=decay), "merged").checkpoints
        models = [load_model(ingredient.path, examined=False) for ingredient in resolved]
        for model in models:
            require_same_model(model, models[0].stage.model)
        model_weights = [ingredient.weight for ingredient in resolved]
        for line in _unrelated(models):
            print_line(line)
        if greedy:
            if len(set(model_weights)) > 1:
                raise UserError("a greedy soup averages uniformly; leave out --weights and --decay")
            given, models = len(models), _greedy_soup(models)
            if len(models) == 1 < given:
                print_line("adding any other checkpoint worsened the held-out loss: the result is this one alone")
            model_weights = [1.0] * len(models)
        for model, weight in zip(models, model_weights, strict=True):
            print_line(f"{weight / sum(model_weights):.3f} of {model.path}")
        path = merge_offline(models, model_weights, out, report=print_line)
    if as_json:
        shares = [
            {"checkpoint": model.path, "weight": weight / sum(model_weights)}
            for model, weight in zip(models, model_weights, strict=True)
        ]
        print_json({"checkpoint": path, "merged": shares})
        return
    typer.echo(
        f'{path}\nTo train from it: Stage(start=Restore(path="{out}"), model=MODEL, ...), where MODEL is that of the '
        "stages that were merged"
    )


def _parse_weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0] * count
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError as error:
        raise UserError(f"--weights {text!r} is not a list of numbers; write e.g. 1,3") from error
    if len(weights) != count:
        raise UserError(
            f"--weights {text!r} has {len(weights)} weights for {count} checkpoints; give one weight for each"
        )
    return weights


def _unrelated(models: Sequence[TrainedModel]) -> Iterator[str]:
    """Yield a warning where the checkpoints' parameters do not come from one initialization."""
    from pathways_lite.recipe import Scratch, stage_identity

    recipes = [model.spec.recipe for model in models]
    if not all(isinstance(recipe.stages[0].start, Scratch) for recipe in recipes):
        return
    seeds = sorted({recipe.seed for recipe in recipes})
    if len(seeds) > 1 and len({stage_identity(recipe, 0) for recipe in recipes}) > 1:
        yield (
            f"warning: the checkpoints were initialized by different seeds ({', '.join(map(str, seeds))}); the average "
            "of models without a common start is usually much worse than each. Merge checkpoints of one run, or runs "
            "that continue one checkpoint; `pathways-lite evaluate` says how good the result is"
        )


def _greedy_soup(models: Sequence[TrainedModel]) -> list[TrainedModel]:
    """Return the models of a greedy soup: each is added only if it does not worsen the held-out loss."""
    from pathways_lite.methods.merging import greedy_soup
    from pathways_lite.training.init_merging import merge_params

    components = models[0].components

    def held_out_loss(subset: Sequence[TrainedModel]) -> float:
        results = components.evaluator.evaluate(merge_params(components, subset, [1.0] * len(subset)))
        mean = sum(result.nll for result in results.values()) / sum(result.tokens for result in results.values())
        print_line(f"held-out loss {mean:.4f}: {', '.join(str(model.path) for model in subset)}")
        return mean

    return greedy_soup(models, held_out_loss)
