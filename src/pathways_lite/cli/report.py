"""`pathways-lite report`: write a run's HTML report and loss curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.paths import local_path


def report(
    run: Annotated[
        Path, typer.Argument(parser=local_path, help="a run directory; the run may be in progress or interrupted")
    ],
    as_json: AsJson = False,
) -> None:
    """Write report.html, loss.png and loss.svg into RUN. Training also writes them at the end of every stage.

    Example: `pathways-lite report runs/demo`
    """
    from pathways_lite.tracking.report import write_pages

    paths = write_pages(run)
    if as_json:
        print_json({"files": paths})
        return
    for path in paths:
        typer.echo(path)
