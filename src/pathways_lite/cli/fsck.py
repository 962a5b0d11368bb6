"""`pathways-lite fsck`: verify checkpoints, or a corpus, against their digests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.console import escape_controls
from pathways_lite.paths import local_path


def fsck(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory, or a corpus")],
    as_json: AsJson = False,
) -> None:
    """Read every checkpoint below PATH and compare it with its digests, bit by bit.

    The exit status is 0 if all are intact and 1 if one is damaged. Training itself falls back to the newest intact
    checkpoint; this command says what is wrong with the others. A corpus is verified as by `data fsck`.

    Example: `pathways-lite fsck runs/demo`
    """
    from dataclasses import asdict

    from pathways_lite.data.fsck import is_store

    if is_store(path):
        fsck_corpus(str(path), as_json=as_json)
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


def fsck_corpus(address: str, *, as_json: bool) -> NoReturn:
    """Verify a token store, print what is damaged, and exit with status 0 if nothing is, else 1."""
    from pathways_lite.data.fsck import fsck as verify_store
    from pathways_lite.data.store import SPLITS, open_store

    store = open_store(address)
    tokens = sum(store.tokens(domain, split) for domain in store.domains for split in SPLITS)
    with count_progress(f"verifying {address}", tokens, "tokens") as advance:
        problems = verify_store(address, done=advance)
    if as_json:
        print_json(
            {
                "intact": not problems,
                "problems": problems,
                "has_digests": None if problems else store.pieces is not None,
            }
        )
        raise typer.Exit(1 if problems else 0)
    for problem in problems:
        typer.echo(escape_controls(problem))
    if problems:
        typer.echo(f"{address}: {len(problems)} damaged")
        raise typer.Exit(1)
    typer.echo(f"{address} is intact: {sum(map(store.tokens, store.domains)):,} training tokens as fingerprinted")
    if store.pieces is None:
        typer.echo(
            "It was built before corpora had digests of their files, so only this command notices all damage; "
            "building it again adds them and changes nothing else."
        )
    raise typer.Exit(0)
