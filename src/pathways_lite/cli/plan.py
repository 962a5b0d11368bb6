"""`pathways-lite plan`: what training a recipe would take on a machine that is elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.errors import UserError

if TYPE_CHECKING:
    from rich.console import RenderableType


def plan(
    recipe: Annotated[str, typer.Argument(help="a Python file with a function recipe(), or a resolved recipe.json")],
    overrides: Annotated[list[str] | None, typer.Argument(help="path=value, e.g. stages.base.mesh.tensor=4")] = None,
    topology: Annotated[
        str, typer.Option(help="v4:AxBxC, v5p:AxBxC, v5e:AxB, v6e:AxB, or gpu:[SERVERSx]NxKIND")
    ] = "v5p:4x4x4",
    slices: Annotated[int, typer.Option(min=1, help="how many such slices, joined by the data-center network")] = 1,
    stage: Annotated[str | None, typer.Option(help="which stage; by default the first")] = None,
    rules: Annotated[bool, typer.Option("--rules", help="only show what lies where, without compiling")] = False,
    search: Annotated[bool, typer.Option("--search", help="try meshes, remat policies and micro-batches")] = False,
    tries: Annotated[int, typer.Option(min=1, help="with --search: how many to compile, the likeliest first")] = 12,
    jobs: Annotated[int, typer.Option(min=1, help="with --search: compilations at once, of up to 16 GB each")] = 1,
    picture: Annotated[Path | None, typer.Option(help="draw where time and memory go, as PNG or SVG")] = None,
    estimate_kernels: Annotated[
        bool, typer.Option(help="attention kernels by the static profile (minutes, once per chip), else by a share")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Compile a recipe's real train step for a machine that need not exist here, and say what it would take.

    Memory, time, collectives, MFU, days and chip-hours, each with where the number comes from. TPUs need the extra
    `tpu`, but no TPU; GPUs get an analytic estimate. The corpus need not be here. Minutes the first time, then kept.

    Examples:

    - `pathways-lite plan configs/palm_8b.py --topology v5p:4x4x4`

    - `pathways-lite plan configs/palm_540b.py --topology v4:12x16x16 --slices 2 --picture palm.png`

    - `pathways-lite plan configs/palm_8b.py --topology v5p:4x4x4 --search`
    """
    from pathways_lite.planner import chips, plan_stage
    from pathways_lite.recipe import load_recipe

    plan_stage.use_cpu()
    machine = chips.parse_machine(topology, slices)
    is_gpu = isinstance(machine, chips.GpuCluster)
    if rules and search:
        raise UserError("--rules and --search are two questions; ask one")
    if as_json and (rules or (search and is_gpu)):
        raise UserError(f"--json does not go with --{'rules' if rules else 'search on GPUs'}; leave it out")
    if picture is not None:
        if rules or search or is_gpu:
            raise UserError("--picture draws one compiled plan; leave out --rules, --search and GPUs")
        _check_picture(picture)
    loaded = load_recipe(recipe, overrides or ())
    index = plan_stage.find_stage(loaded, stage)
    if rules:
        from pathways_lite.planner.plan_stage import show_rules

        _show(show_rules(loaded, index, machine))
    elif isinstance(machine, chips.GpuCluster):
        from pathways_lite.planner.search import analytic_plan, search_analytically

        if search:
            _show(search_analytically(loaded, index, machine))
            return
        values, tables = analytic_plan(loaded, index, machine)
        _show(tables, values if as_json else None)
    elif search:
        from pathways_lite.planner.search import search_plans

        arguments = [recipe, *(overrides or []), "--topology", topology, "--slices", str(slices)]
        arguments += [] if stage is None else ["--stage", stage]
        arguments += [] if estimate_kernels else ["--no-estimate-kernels"]
        search_plans(arguments, loaded, index, machine, tries=tries, jobs=jobs, as_json=as_json)
    else:
        from pathways_lite.planner.report import report

        found = plan_stage.make_plan(loaded, index, machine, estimate_kernels=estimate_kernels)
        _show(report(found), found.to_json() if as_json else None)
        if picture is not None:
            from pathways_lite.planner.report import save_picture

            save_picture(found, picture)


def _check_picture(path: Path) -> None:
    """Before minutes go by."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"--picture writes PNG or SVG, by the ending; {path} ends otherwise")
    if not path.parent.is_dir():
        raise UserError(f"--picture {path}: there is no folder {path.parent}")


def _show(tables: RenderableType, values: Mapping[str, Any] | None = None) -> None:
    """The tables, or where values are given these alone as one JSON object."""
    from rich.console import Console

    if values is not None:
        typer.echo(json.dumps(values))
        return
    console = Console(soft_wrap=True)
    console = console if console.is_terminal else Console(soft_wrap=True, width=140)
    console.print(tables)
