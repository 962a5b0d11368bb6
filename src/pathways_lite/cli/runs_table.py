"""`pathways-lite runs table`: runs as a table that laws are fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def table(
    paths: Annotated[list[Path], typer.Argument(help="run directories, or folders of them")],
    out: Annotated[Path, typer.Option(help="a .parquet or .csv file")] = Path("runs.csv"),
) -> None:
    """Write one row per held-out evaluation: N, D, C, batch, learning rate, schedule, lineage, losses.

    Example: `pathways-lite runs table runs --out runs.parquet`
    """
    from pathways_lite.scaling.runs_table import runs_table
    from pathways_lite.scaling.table import write_table

    rows = runs_table(paths)
    write_table(rows, out)
    typer.echo(f"{out}: {len(rows['run'])} rows, {len(rows)} columns")
