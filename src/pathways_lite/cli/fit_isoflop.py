"""`pathways-lite fit isoflop`: compute-optimal sizes from runs at several budgets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.fit_table import (
    Columns,
    DecimalMark,
    DropMissing,
    RowChoice,
    Sheet,
    TablePath,
    Where,
    output_path,
    read_rows,
    single_numbers,
)
from pathways_lite.paths import local_path


def isoflop(
    table: TablePath,
    columns: Columns = None,
    at: Annotated[
        str | None, typer.Option(help="budget to extrapolate to, as in C=1e24; default: ten times the largest")
    ] = None,
    akima: Annotated[bool, typer.Option("--akima", help="a spline (Porian et al.) instead of parabolas")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="runs whose C differs by this fraction share a budget")] = 0.1,
    bootstraps: Annotated[int, typer.Option(min=0, help="number of redrawn losses for the intervals")] = 1000,
    seed: Annotated[int, typer.Option(help="random seed of the redrawn losses")] = 0,
    where: Where = None,
    drop_missing: DropMissing = False,
    decimal: DecimalMark = None,
    sheet: Sheet = None,
    out: Annotated[
        Path | None, typer.Option(parser=local_path, help="file of the result; default: isoflop.json beside the table")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the compute-optimal size by budget (Chinchilla's approach 2), and extrapolate it.

    Beside it stand approach 1 where sizes recur, the law of all runs (approach 3), variable projection, and how wrong
    the parabolas would be on these sizes without noise. Writes JSON, a page and a figure. Columns: C, N, L, and D if C
    is not 6ND.

    Examples:

    - `pathways-lite fit isoflop runs.csv C=flops N=params L=loss`

    - `pathways-lite fit isoflop runs.csv --where 'dataset == "comma"' --at C=1e24`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.errors import UserError
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.isoflop_analysis import analyze_isoflops

    target = None if at is None else single_numbers([at if "=" in at else f"C={at}"])
    if target is not None and set(target) != {"C"}:
        raise UserError(f"--at {at} is not a budget; give e.g. --at C=1e24")
    rows = read_rows(
        table, columns, ("C", "N", "D", "L"), choice=RowChoice(where or (), drop_missing, decimal, sheet=sheet)
    )
    analysis = analyze_isoflops(
        rows.table, at=None if target is None else target["C"], akima=akima, tolerance=tolerance,
        bootstraps=bootstraps, seed=seed,
    )  # fmt: skip
    from pathways_lite.scaling.isoflop_report import ESTIMATE_HEADER, estimate_rows, sentences, write_isoflop_report

    path = out or output_path(table, "isoflop.json")
    with lock_file(path):
        files = write_isoflop_report(analysis, path, rows.origin)
    if as_json:
        print_json({
            "C": analysis.C, "estimates": [asdict(e) for e in analysis.estimates], "bias": analysis.bias,
            "noise": analysis.noise, "notes": [*rows.left_out, *analysis.notes], "files": files,
        })  # fmt: skip
        return
    budgets = Table("C (FLOPs)", "runs", "best N", "low", "high", "L")
    for p in analysis.profiles:
        size = p.N.texts(".4g") if p.N.value == p.N.value else ("at the edge", "", "")
        budgets.add_row(f"{p.C:.4g}", str(len(p.sizes)), *size, f"{p.L:.4f}")
    console = Console()
    console.print(budgets)
    console.print(f"At C = {analysis.C:.4g}:")
    grid = Table(*ESTIMATE_HEADER)
    for row in estimate_rows(analysis):
        grid.add_row(*row)
    console.print(grid)
    for line in (*rows.left_out, *sentences(analysis), *files):
        typer.echo(line)
