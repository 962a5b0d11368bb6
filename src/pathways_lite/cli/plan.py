"""`pathways-lite plan`: plan the training of a recipe on hardware that you do not have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.overrides import Overrides
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from rich.console import RenderableType


def plan(
    recipe: Annotated[str, typer.Argument(help="a Python file with a function recipe(), or a resolved recipe.json")],
    overrides: Overrides = None,
    topology: Annotated[
        str, typer.Option(help="v4:AxBxC, v5p:AxBxC, v5e:AxB, v6e:AxB, or gpu:[SERVERSx]NxKIND")
    ] = "v5p:4x4x4",
    slices: Annotated[int, typer.Option(min=1, help="number of slices, joined by the data-center network")] = 1,
    stage: Annotated[str | None, typer.Option(help="the stage to plan; default: the first")] = None,
    rules: Annotated[
        bool,
        typer.Option("--rules", help="only show the sharding rules and every parameter's sharding, without compiling"),
    ] = False,
    search: Annotated[bool, typer.Option("--search", help="try meshes, remat policies and micro-batches")] = False,
    tries: Annotated[
        int, typer.Option(min=1, help="with --search: number of layouts to compile, the most promising first")
    ] = 12,
    jobs: Annotated[
        int, typer.Option(min=1, help="with --search: concurrent compilations, of up to 16 GB of memory each")
    ] = 1,
    picture: Annotated[
        Path | None, typer.Option(parser=local_path, help="draw the use of time and memory, as PNG or SVG")
    ] = None,
    estimate_kernels: Annotated[
        bool,
        typer.Option(
            help="estimate attention kernels by the static profile (minutes, once per chip), or by a share of peak"
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Compile a recipe's real train step for a machine that you need not have, and estimate its cost.

    Shows memory, time, collectives, MFU, days and chip-hours, each with its source. For TPUs install the extra `tpu`;
    no TPU is needed. GPUs get an analytic estimate. No corpus is read. Takes minutes the first time, then it is cached.

    Examples:

    - `pathways-lite plan configs/palm_8b.py --topology v5p:4x4x4`

    - `pathways-lite plan configs/palm_540b.py --topology v4:12x16x16 --slices 2 --picture palm.png`

    - `pathways-lite plan configs/palm_8b.py --topology v5p:4x4x4 --search`
    """
    from pathways_lite.planner import chips, plan_stage
    from pathways_lite.recipe import load_recipe
    from pathways_lite.training.notes import schedule_notes
    from pathways_lite.training.stage import StageSpec

    plan_stage.use_cpu()
    machine = chips.parse_machine(topology, slices)
    is_gpu = isinstance(machine, chips.GpuCluster)
    if rules and search:
        raise UserError("--rules and --search exclude each other; give only one")
    if as_json and (rules or (search and is_gpu)):
        raise UserError(f"--json does not work with --{'rules' if rules else 'search on GPUs'}; leave it out")
    if picture is not None:
        if rules or search or is_gpu:
            raise UserError("--picture draws one compiled plan; it does not work with --rules, --search or GPUs")
        _check_picture(picture)
    loaded = plan_stage.resolve_budgets(load_recipe(recipe, overrides or ()))
    index = plan_stage.find_stage(loaded, stage)
    if not as_json:
        typer.echo(plan_stage.describe_data(loaded, index))
        for note in schedule_notes(StageSpec(loaded, index)):
            typer.echo(f"note: {loaded.stages[index].name}: {note}")
    if rules:
        _print_tables(plan_stage.show_rules(loaded, index, machine))
    elif isinstance(machine, chips.GpuCluster):
        from pathways_lite.planner.search import analytic_plan, search_analytically

        if search:
            _print_tables(search_analytically(loaded, index, machine))
            return
        values, tables = analytic_plan(loaded, index, machine)
        _print_tables(tables, values if as_json else None)
    elif search:
        from pathways_lite.planner.search import search_plans

        arguments = [recipe, *(overrides or []), "--topology", topology, "--slices", str(slices)]
        arguments += [] if stage is None else ["--stage", stage]
        arguments += [] if estimate_kernels else ["--no-estimate-kernels"]
        search_plans(arguments, loaded, index, machine, tries=tries, jobs=jobs, as_json=as_json)
    else:
        from pathways_lite.planner.report import report, save_picture

        made = plan_stage.make_plan(loaded, index, machine, estimate_kernels=estimate_kernels)
        _print_tables(report(made), made.to_json() if as_json else None)
        if picture is not None:
            save_picture(made, picture)


def _check_picture(path: Path) -> None:
    """Raise UserError if `path` cannot be written, before minutes of compilation."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise UserError(f"--picture writes PNG or SVG; {path} must end in .png or .svg")
    if not path.parent.is_dir():
        raise UserError(f"--picture {path}: there is no directory {path.parent}")


def _print_tables(tables: RenderableType, values: Mapping[str, Any] | None = None) -> None:
    """Print the tables, or if values are given only these, as one JSON object."""
    from pathways_lite.console import Console

    if values is not None:
        print_json(values)
        return
    Console().print(tables)
