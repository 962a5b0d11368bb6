"""`pathways-lite fsck`: are checkpoints what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def fsck(
    path: Annotated[Path, typer.Argument(help="a run, stage or checkpoint directory")],
) -> None:
    """Read every checkpoint below PATH and compare it with its digests, bit by bit.

    Exit status 0 where all are whole, 1 where one is damaged. Training falls back to the newest whole one by itself;
    this verb says what is wrong with the others.

    Example: `pathways-lite fsck runs/demo`
    """
    from pathways_lite.checkpoints import fsck as examine_all

    findings = examine_all(path)
    for finding in findings:
        typer.echo(str(finding))
    damaged = sum(not finding.ok for finding in findings)
    typer.echo(f"{len(findings) - damaged} whole, {damaged} damaged")
    raise typer.Exit(1 if damaged else 0)
