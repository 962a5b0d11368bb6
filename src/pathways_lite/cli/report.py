"""`pathways-lite report`: write a run's HTML report and loss curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.paths import local_path


def report(
    run: Annotated[
        Path, typer.Argument(parser=local_path, help="a run directory; the run may be in progress or interrupted")
    ],
) -> None:
    """Write report.html, loss.png and loss.svg into RUN. Training also writes them at the end of every stage.

    Example: `pathways-lite report runs/demo`
    """
    from pathways_lite.tracking.report import write_pages

    for path in write_pages(run):
        typer.echo(path)
