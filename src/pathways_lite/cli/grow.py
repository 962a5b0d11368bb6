"""`pathways-lite grow`: grow a checkpoint of a small model into one of a larger model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pathways_lite.cli.argument_order import is_run, require_order
from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.console import print_line
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.data.tokenizers import Tokenizer
    from pathways_lite.methods.growth import GrowthPlan
    from pathways_lite.recipe import Grow, Model
    from pathways_lite.training.load import TrainedModel


def grow(
    source: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="a run, stage or checkpoint directory")],
    out: Annotated[str | None, typer.Argument(help="directory of the new checkpoint")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Argument(help="model.FIELD=value of the larger model, or start.FIELD=value, e.g. start.noise=0.1"),
    ] = None,
    operator: Annotated[str, typer.Option(help="kind of the growth operator, or the operator as JSON")] = "stack",
    factor: Annotated[
        int | None, typer.Option(min=1, help="multiply the number of layers; for an operator that widens, the widths")
    ] = None,
    add_tokens: Annotated[
        int | None, typer.Option(min=1, help="with --operator vocabulary: number of ids to add after the model's")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="with --operator vocabulary: the model's tokenizer with more tokens after its own"),
    ] = None,
    pad_to: Annotated[
        int, typer.Option(min=1, help="with --operator vocabulary: round the number of ids up to a multiple of this")
    ] = 1,
    dry_run: Annotated[bool, typer.Option(help="print the source of every block and axis, and stop")] = False,
    advise: Annotated[
        bool, typer.Option(help="advise when to grow, and by how much, for N=parameters D=tokens")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Grow a checkpoint without training it; a stage then starts from it by `Restore(path=OUT)`.

    Arrays are grown and written block by block, in a fraction of the model's memory. Operators that need training
    (random, learned) and the growth of optimizer state require a stage's `start=Grow(...)`: docs/growth.md.

    Examples:

    - `pathways-lite grow runs/base runs/grown --operator stack --factor 4`

    - `pathways-lite grow runs/base runs/wide --operator direct model.d_model=512 model.d_ff=2048 --dry-run`

    - `pathways-lite grow runs/base runs/part --operator '{"kind": "blocks", "order": "12-34*5"}' model.n_layers=12`

    - `pathways-lite grow runs/llama runs/larger --operator vocabulary --add-tokens 40 --pad-to 64`

    - `pathways-lite grow --advise N=7e9 D=2e12`
    """
    if advise:
        _print_advice([source, *([out] if out else []), *(changes or [])], as_json)
        return
    if out is None:
        raise UserError("no OUT given; write pathways-lite grow CHECKPOINT OUT --operator stack --factor 4")
    require_order(source, out, "a run or checkpoint", is_run)
    from pathways_lite.conversion.grow_and_merge import grow_offline, plan_offline_growth
    from pathways_lite.methods.growth import plan_growth
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.training.load import load_model

    base = load_model(source, examined=False)
    start, target = _resolve_target(base.stage.model, operator, factor, changes or [])
    extended = None if tokenizer is None else _extended_tokenizer(base, tokenizer)
    if (add_tokens, extended, pad_to) != (None, None, 1):
        target = _with_more_ids(start, target, add_tokens, extended, pad_to)
    if target == base.stage.model:
        _refuse_same_size(start, target, extended)
    if dry_run:
        _print_plan(plan_growth(start, base.stage.model, target), as_json)
        return
    plan_offline_growth(base, start, target)
    directory = local_path(out)
    with lock_directory(directory):
        path = grow_offline(base, start, target, directory, report=print_line, tokenizer=extended)
    if as_json:
        print_json({"checkpoint": path})
        return
    grown = {name: value for name, value in dict(target).items() if value != getattr(base.stage.model, name)}
    fields = ", ".join(f"{name}={value!r}" for name, value in grown.items())
    typer.echo(
        f'{path}\nTo train from it: Stage(start=Restore(path="{out}"), model=MODEL, ...), where MODEL is that of '
        f"{source} with {fields}: its stage.model.model_copy(update=dict({fields}))"
    )


def _extended_tokenizer(base: TrainedModel, path: str) -> Tokenizer:
    """Load a tokenizer. Raises UserError where it is not that of `base` with more tokens."""
    from pathways_lite.data.reserved_tokens import require_extension
    from pathways_lite.data.tokenizer_files import load_tokenizer

    extended = load_tokenizer(path)
    require_extension(base.tokenizer(), extended)
    return extended


def _with_more_ids(start: Grow, model: Model, add: int | None, extended: Tokenizer | None, pad_to: int) -> Model:
    """Return the model with the ids that the options ask for."""
    if start.operator.kind != "vocabulary":
        raise UserError("--add-tokens, --tokenizer and --pad-to add ids; they go with --operator vocabulary")
    size = model.vocab_size if extended is None else max(model.vocab_size, extended.vocab_size)
    size += add or 0
    return model.model_copy(update={"vocab_size": -(-size // pad_to) * pad_to})


def _refuse_same_size(start: Grow, model: Model, extended: Tokenizer | None) -> NoReturn:
    """Raise UserError, as nothing grows."""
    if extended is not None:
        raise UserError(
            f"the model has vocab_size={model.vocab_size}, so that all {extended.vocab_size} tokens of the extended "
            "tokenizer have a row already; build a corpus with it, and train"
        )
    example = "--add-tokens 40" if start.operator.kind == "vocabulary" else "--factor 4"
    raise UserError(f"the larger model equals the base; give {example}, or its sizes, e.g. model.n_layers=24")


def _resolve_target(model: Model, operator: str, factor: int | None, changes: list[str]) -> tuple[Grow, Model]:
    """Return the start and the larger model that the command line describes."""
    from pathways_lite import recipe

    class Request(recipe.Frozen):
        start: recipe.Grow = recipe.Grow()
        model: recipe.Model

    request = recipe.apply_overrides(Request(model=model), [f"start.operator={operator}"])
    multiple = factor or 1
    deeper: dict[str, Any] = {"n_layers": multiple * model.n_layers}
    wider: dict[str, Any] = {name: multiple * getattr(model, name) for name in ("d_model", "n_heads", "d_ff")}
    if model.n_kv_heads > 1:  # multi-query attention is kept
        wider["n_kv_heads"] = multiple * model.n_kv_heads
    sizes = wider if request.start.operator.kind == "direct" else deeper
    if request.start.operator.kind == "vocabulary":
        if factor is not None:
            raise UserError("--operator vocabulary adds ids, not layers; give --add-tokens 40 instead of --factor")
        sizes = {}
    given = {change.partition("=")[0] for change in changes}
    # Blocks keep the windows that they were trained with; until it is known where they go, all have one of them.
    moves = model.window is not None and "model.window" not in given
    if moves:
        sizes["window"] = (next(filter(None, model.window or ()), None),)
    request = request.model_copy(update={"model": recipe.Model.model_validate({**dict(model), **sizes})})
    request = recipe.apply_overrides(request, changes)
    target = request.model
    if moves:
        target = target.model_copy(update={"window": _windows_kept(request.start, model, target)})
    if model.embedding_scale == math.sqrt(model.d_model) and "model.embedding_scale" not in given:
        target = target.model_copy(update={"embedding_scale": math.sqrt(target.d_model)})  # Gemma's, which follows
    return request.start, target


def _windows_kept(start: Grow, model: Model, target: Model) -> tuple[int | None, ...] | None:
    """Return the larger model's windows with which every block has that of the block that it copies."""
    from pathways_lite.methods.growth import plan_growth, shortest_pattern, windows_of_layers

    windows = windows_of_layers(model)
    return shortest_pattern([windows[block] for block in plan_growth(start, model, target).depth.blocks])


def _print_plan(plan: GrowthPlan, as_json: bool) -> None:
    """Print the source of every block, then of every width."""
    from pathways_lite.console import Console, Table
    from pathways_lite.methods.growth import connection_rate, describe_width, is_function_preserving
    from pathways_lite.models.accounting import parameter_count
    from pathways_lite.tracking.formatting import si

    console = Console()
    small, large = parameter_count(plan.source), parameter_count(plan.target)
    if as_json:
        blocks = [
            {"block": block, "from": source + 1, "as": plan.depth.treatment.value if fresh else "is"}
            for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True), start=1)
        ]
        facts = {"parameters": {"small": small, "large": large}, "preserves_function": is_function_preserving(plan)}
        rate = connection_rate(plan.depth.blocks)
        print_json({**facts, "blocks": blocks, "connection_rate": rate, "widths": list(describe_width(plan))})
        return
    function = "the same function" if is_function_preserving(plan) else "another function"
    console.print(f"{si(small)} → {si(large)} parameters; {function} at the start")
    table = Table("block", "from block", "as", box=None)
    for block, (source, fresh) in enumerate(zip(plan.depth.blocks, plan.depth.fresh, strict=True), start=1):
        table.add_row(str(block), str(source + 1), plan.depth.treatment.value if fresh else "is")
    console.print(table)
    console.print(f"connection rate {connection_rate(plan.depth.blocks):.1%}")
    for line in describe_width(plan):
        console.print(line)


def _print_advice(arguments: list[str], as_json: bool) -> None:
    """Print the guidelines' numbers, and the cost of both models."""
    from pathways_lite.cli.common import echo_warnings
    from pathways_lite.methods.growth import advise
    from pathways_lite.tracking.formatting import si

    try:
        numbers = {name.strip().upper(): float(value) for name, value in (item.split("=") for item in arguments)}
        parameters, tokens = numbers["N"], numbers["D"]
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--advise needs N=parameters D=tokens, e.g. N=7e9 D=2e12, not {' '.join(arguments)!r}"
        ) from error
    if not (parameters > 0 and tokens > 0):
        raise UserError(f"N={parameters:g} and D={tokens:g} must be positive")
    with echo_warnings():
        advice = advise(parameters, tokens)
    target_flops = advice.target_flops
    if as_json:
        base = {"parameters": advice.base_parameters, "tokens": advice.timing, "flops": advice.base_flops}
        fitted = {"factor": advice.fitted_factor, "tokens": advice.fitted_timing}
        target = {"parameters": parameters, "tokens": tokens, "flops": target_flops}
        print_json({"base": base, "factor": advice.factor, "fitted": fitted, "target": target})
        return
    clipped = f" (a fifth of D; the fit says {si(advice.fitted_timing)})" if advice.is_clipped else ""
    typer.echo(
        f"base    {si(advice.base_parameters)} parameters on d = {_tokens(advice.timing)}{clipped}: "
        f"{si(advice.base_flops, 'FLOPs')}\n"
        f"grow    g = {advice.factor} (the fit says {advice.fitted_factor:.2g}; 2 to 4 are good)\n"
        f"target  {si(parameters)} parameters on D = {_tokens(tokens)}: {si(target_flops, 'FLOPs')}; "
        f"the base adds {advice.base_flops / target_flops:.2%}"
    )


def _tokens(count: float) -> str:
    """Format a number of tokens with four digits: the guideline's published values have as many."""
    prefix, factor = next(((p, f) for p, f in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)) if count >= f), ("", 1))
    return f"{count / factor:,.4g} {prefix}".rstrip() + " tokens"
