"""`pathways-lite fsck`: verify checkpoints against their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.console import escape_controls
from pathways_lite.paths import local_path


def fsck(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory")],
    as_json: AsJson = False,
) -> None:
    """Read every checkpoint below PATH and compare it with its digests, bit by bit.

    The exit status is 0 if all are intact and 1 if one is damaged. Training itself falls back to the newest intact
    checkpoint; this command says what is wrong with the others.

    Example: `pathways-lite fsck runs/demo`
    """
    from dataclasses import asdict

    from pathways_lite.checkpoints import fsck as verify_all

    findings = verify_all(path)
    damaged = sum(not finding.ok for finding in findings)
    if as_json:
        checkpoints = [{"ok": finding.ok, **asdict(finding)} for finding in findings]
        print_json({"intact": len(findings) - damaged, "damaged": damaged, "checkpoints": checkpoints})
    else:
        for finding in findings:
            typer.echo(escape_controls(str(finding)))
        typer.echo(f"{len(findings) - damaged} intact, {damaged} damaged")
    raise typer.Exit(1 if damaged else 0)
