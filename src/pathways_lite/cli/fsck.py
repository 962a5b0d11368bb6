"""`pathways-lite fsck`: verify checkpoints against their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.paths import local_path


def fsck(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
) -> None:
    """Read every checkpoint below PATH and compare it with its digests, bit by bit.

    The exit status is 0 if all are intact and 1 if one is damaged. Training itself falls back to the newest intact
    checkpoint; this command says what is wrong with the others.

    Example: `pathways-lite fsck runs/demo`
    """
    from pathways_lite.checkpoints import fsck as verify_all

    findings = verify_all(path)
    for finding in findings:
        typer.echo(str(finding))
    damaged = sum(not finding.ok for finding in findings)
    typer.echo(f"{len(findings) - damaged} intact, {damaged} damaged")
    raise typer.Exit(1 if damaged else 0)
