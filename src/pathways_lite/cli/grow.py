"""`pathways-lite grow`: a larger model's checkpoint of a small one's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from pathways_lite.methods.growth import GrowthPlan
    from pathways_lite.recipe import Grow, Model


def grow(
    source: Annotated[str, typer.Argument(metavar="SRC_CHECKPOINT", help="a run, stage or checkpoint directory")],
    out: Annotated[str | None, typer.Argument(help="directory of the new checkpoint")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="model.FIELD=value of the larger model, start.FIELD=value, e.g. start.noise=0.1"),
    ] = None,
    operator: Annotated[str, typer.Option(help="an operator's kind, or all of it as JSON")] = "stack",
    factor: Annotated[
        int | None, typer.Option(min=1, help="times as many layers; of an operator that widens, times as wide")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="print where everything comes from, and stop")] = False,
    advise: Annotated[bool, typer.Option(help="when to grow, and by how much: give N=parameters D=tokens")] = False,
) -> None:
    """Grow a checkpoint without training it; a stage then starts from it by `Restore(path=OUT)`.

    Arrays are made and written block by block, in a fraction of the memory that the model takes. Operators that need
    training (random, learned), and what becomes of the optimizer, are for a stage's `start=Grow(...)`: docs/growth.md.

    Examples:

    - `pathways-lite grow runs/base runs/grown --operator stack --factor 4`

    - `pathways-lite grow runs/base runs/wide --operator direct model.d_model=512 model.d_ff=2048 --dry-run`

    - `pathways-lite grow runs/base runs/part --operator '{"kind": "blocks", "order": "12-34*5"}' model.n_layers=12`

    - `pathways-lite grow --advise N=7e9 D=2e12`
    """
    if advise:
        _advise([source, *([out] if out else []), *(changes or [])])
        return
    if out is None:
        raise UserError("where to? pathways-lite grow SRC_CHECKPOINT OUT --operator stack --factor 4")
    from pathways_lite.methods.growth import plan_growth
    from pathways_lite.training.load import load_model
    from pathways_lite.training.offline import grow_offline, plan_offline_growth

    found = load_model(source, examined=False)
    start, target = _wanted(found.stage.model, operator, factor, changes or [])
    if target == found.stage.model:
        raise UserError("nothing grows; give --factor 4, or the larger model's sizes, e.g. model.n_layers=24")
    if dry_run:
        _show(plan_growth(start, found.stage.model, target))
        return
    plan_offline_growth(found, start, target)
    path = grow_offline(found, start, target, Path(out), report=lambda line: typer.echo(line, err=True))
    typer.echo(f'{path}\nTo go on from it: Stage(start=Restore(path="{out}"), model=..., ...)')


def _wanted(model: Model, operator: str, factor: int | None, changes: list[str]) -> tuple[Grow, Model]:
    """The start and the larger model that the command line describes."""
    from pathways_lite import recipe

    class Wanted(recipe.Frozen):
        start: recipe.Grow = recipe.Grow()
        model: recipe.Model

    wanted = recipe.apply_overrides(Wanted(model=model), [f"start.operator={operator}"])
    times = factor or 1
    deeper = {"n_layers": times * model.n_layers}
    wider = {name: times * getattr(model, name) for name in ("d_model", "n_heads", "d_ff")}
    if model.n_kv_heads > 1:  # multi-query attention stays it
        wider["n_kv_heads"] = times * model.n_kv_heads
    sizes = wider if wanted.start.operator.kind == "direct" else deeper
    wanted = wanted.model_copy(update={"model": recipe.Model.model_validate({**dict(model), **sizes})})
    wanted = recipe.apply_overrides(wanted, changes)
    return wanted.start, wanted.model


def _show(plan: GrowthPlan) -> None:
    """Block by block, then width by width."""
    from rich.console import Console
    from rich.table import Table

    from pathways_lite.methods.growth import connection_rate, describe_width, is_function_preserving
    from pathways_lite.models.accounting import parameter_count
    from pathways_lite.tracking.formatting import si

    console = Console()
    small, large = parameter_count(plan.source), parameter_count(plan.target)
    kept = "the same function" if is_function_preserving(plan) else "another function"
    console.print(f"{si(small)} → {si(large)} parameters; {kept} at first", highlight=False)
    table = Table("block", "of block", "as", box=None)
    for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True), start=1):
        table.add_row(str(block), str(source + 1), plan.depth.treatment.value if fresh else "it is")
    console.print(table)
    console.print(f"connection rate {connection_rate(plan.depth.blocks):.1%}", highlight=False)
    for line in describe_width(plan):
        console.print(line, highlight=False)


def _advise(given: list[str]) -> None:
    """The guidelines' numbers, and the cost of both models."""
    from pathways_lite.cli.common import echo_warnings
    from pathways_lite.methods.growth import advise
    from pathways_lite.tracking.formatting import si

    try:
        numbers = {name.strip().upper(): float(value) for name, value in (item.split("=") for item in given)}
        parameters, tokens = numbers["N"], numbers["D"]
    except (ValueError, KeyError) as error:
        raise UserError(f"--advise needs N=parameters D=tokens, e.g. N=7e9 D=2e12, not {' '.join(given)!r}") from error
    if not (parameters > 0 and tokens > 0):
        raise UserError(f"N={parameters:g} and D={tokens:g} must be above 0")
    with echo_warnings():
        advice = advise(parameters, tokens)
    scratch = advice.target_flops
    typer.echo(
        f"base    {si(advice.base_parameters)} parameters on d = {advice.timing / 1e9:,.4g} G tokens: "
        f"{si(advice.base_flops, 'FLOPs')}\n"
        f"grow    g = {advice.factor} (the fit says {advice.fitted_factor:.2g}; 2 to 4 are good)\n"
        f"target  {si(parameters)} parameters on D = {tokens / 1e9:,.4g} G tokens: {si(scratch, 'FLOPs')}; "
        f"the base adds {advice.base_flops / scratch:.2%}"
    )
