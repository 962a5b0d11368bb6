"""`pathways-lite runs table`: write a table of runs, to fit laws to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.errors import counted
from pathways_lite.paths import local_path


def table(
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=local_path, help="run directories, directories of them, or of a study; a checkpoint of `convert`"
        ),
    ],
    out: Annotated[Path, typer.Option(parser=local_path, help="a .parquet or .csv file")] = Path("runs.csv"),
    final: Annotated[
        bool, typer.Option("--final", help="write only the last evaluation of every finished run")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one row per held-out evaluation: N, D, C, batch, learning rate, schedule, lineage, losses.

    Nodes of studies are not among the runs of a directory: name a study itself.

    A loss in the middle of a schedule is not the final loss of a shorter one: for laws of N and D use `--final`.

    Example: `pathways-lite runs table runs --out runs.parquet`
    """
    from pathways_lite.output_lock import lock_file
    from pathways_lite.scaling.runs_table import left_out_studies, runs_table
    from pathways_lite.scaling.table import write_table

    rows = runs_table(paths, final=final)
    command = " ".join(["pathways-lite runs table", *map(str, paths)])
    note = left_out_studies(paths, f"name studies too to have them, as in {command}")
    with lock_file(out):
        write_table(rows, out)
    if as_json:
        left_out = {"left_out": note} if note else {}
        print_json({"table": out, "rows": len(rows["run"]), "columns": list(rows), **left_out})
        return
    typer.echo(f"{out}: {counted(len(rows['run']), 'row')}, {counted(len(rows), 'column')}")
    if note:
        typer.echo(note)
