"""`pathways-lite report`: a run as a page and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="a run directory; the run may be going on or interrupted")],
) -> None:
    """Write report.html, loss.png and loss.svg into RUN. Training does it at the end of every stage, too.

    Example: `pathways-lite report runs/demo`
    """
    from pathways_lite.tracking.report import write_pages

    for path in write_pages(run):
        typer.echo(path)
