"""`pathways-lite merge`: the average of several checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.training.load import TrainedModel


def merge(
    out: Annotated[Path, typer.Argument(help="directory of the new checkpoint")],
    checkpoints: Annotated[list[str], typer.Argument(help="run, stage or checkpoint directories of one model")],
    weights: Annotated[str | None, typer.Option(help="of each, with commas; default: all the same")] = None,
    last: Annotated[int, typer.Option(min=1, help="newest checkpoints of each, instead of one")] = 1,
    decay: Annotated[float, typer.Option(help="weight of a checkpoint relative to the next newer one's")] = 1.0,
    greedy: Annotated[bool, typer.Option(help="leave out what makes the held-out loss of the soup worse")] = False,
) -> None:
    """Average the parameters of checkpoints of one model; a stage then starts from it by `Restore(path=OUT)`.

    Arrays are read, averaged in float32 and written piece by piece. In a recipe the same is `start=Merge(of=(...))`.

    Examples:

    - `pathways-lite merge runs/soup runs/seed_0 runs/seed_1 runs/seed_2 --greedy`

    - `pathways-lite merge runs/averaged runs/base --last 5`

    - `pathways-lite merge runs/mixed runs/code runs/text --weights 1,3`
    """
    from pathways_lite.recipe import Ingredient, Merge
    from pathways_lite.training.init_merging import resolve_merge
    from pathways_lite.training.load import load_model
    from pathways_lite.training.offline import merge_offline

    relative = _weights(weights, len(checkpoints))
    if sum(relative) <= 0 or not 0 < decay <= 1:
        raise UserError(f"--weights {weights} --decay {decay}: weights need a sum above 0, the decay is in (0, 1]")
    named = tuple(Ingredient(path=path, weight=w) for path, w in zip(checkpoints, relative, strict=True))
    resolved = resolve_merge(Merge(checkpoints=named, last=last, decay=decay), "merged").checkpoints
    found = [load_model(one.path, examined=False) for one in resolved]
    shares = [one.weight for one in resolved]
    if greedy:
        if len(set(shares)) > 1:
            raise UserError("a greedy soup averages uniformly; leave out --weights and --decay")
        found = _greedy(found)
        shares = [1.0] * len(found)
    for one, share in zip(found, shares, strict=True):
        typer.echo(f"{share / sum(shares):.3f} of {one.path}", err=True)
    path = merge_offline(found, shares, out, report=lambda line: typer.echo(line, err=True))
    typer.echo(f'{path}\nTo go on from it: Stage(start=Restore(path="{out}"), model=..., ...)')


def _weights(text: str | None, count: int) -> list[float]:
    if text is None:
        return [1.0] * count
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--weights {text!r} are no numbers; write e.g. 1,3") from error
    if len(weights) != count:
        raise UserError(f"--weights {text!r} are {len(weights)}, but there are {count} checkpoints")
    return weights


def _greedy(found: Sequence[TrainedModel]) -> list[TrainedModel]:
    """Those whose uniform average has the lowest held-out loss, found one after the other."""
    from pathways_lite.methods.merging import greedy_soup
    from pathways_lite.training.init_merging import merge_params

    components = found[0].components

    def loss(chosen: Sequence[TrainedModel]) -> float:
        results = components.evaluator.evaluate(merge_params(components, chosen, [1.0] * len(chosen)))
        mean = sum(result.nll for result in results.values()) / sum(result.tokens for result in results.values())
        typer.echo(f"held-out loss {mean:.4f}: {', '.join(str(one.path) for one in chosen)}", err=True)
        return mean

    return greedy_soup(found, loss)
