"""`pathways-lite fsck`: verify checkpoints, or a corpus, against their digests."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pathways_lite.paths import local_path

_SECONDS_BETWEEN_LINES = 5.0


def fsck(
    path: Annotated[Path, typer.Argument(parser=local_path, help="a run, stage or checkpoint directory, or a corpus")],
) -> None:
    """Read every checkpoint below PATH and compare it with its digests, bit by bit.

    The exit status is 0 if all are intact and 1 if one is damaged. Training itself falls back to the newest intact
    checkpoint; this command says what is wrong with the others. A corpus is verified as by `data fsck`.

    Example: `pathways-lite fsck runs/demo`
    """
    from pathways_lite.data.fsck import is_store

    if is_store(path):
        fsck_corpus(str(path))
    from pathways_lite.checkpoints import fsck as verify_all

    findings = verify_all(path)
    for finding in findings:
        typer.echo(str(finding))
    damaged = sum(not finding.ok for finding in findings)
    typer.echo(f"{len(findings) - damaged} intact, {damaged} damaged")
    raise typer.Exit(1 if damaged else 0)


def fsck_corpus(address: str) -> NoReturn:
    """Verify a token store, print what is damaged, and exit with status 0 if nothing is, else 1."""
    from pathways_lite.console import print_line
    from pathways_lite.data.fsck import fsck as verify_store
    from pathways_lite.data.store import open_store

    verified, last = 0, time.monotonic()

    def show(tokens: int) -> None:
        nonlocal verified, last
        verified += tokens
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print_line(f"{address}: {verified:,} tokens verified")

    problems = verify_store(address, done=show)
    for problem in problems:
        typer.echo(problem)
    if problems:
        typer.echo(f"{address}: {len(problems)} damaged")
        raise typer.Exit(1)
    store = open_store(address)
    typer.echo(f"{address} is intact: {sum(map(store.tokens, store.domains)):,} training tokens as fingerprinted")
    if store.pieces is None:
        typer.echo(
            "It was built before corpora had digests of their files, so only this command notices all damage; "
            "building it again adds them and changes nothing else."
        )
    raise typer.Exit(0)
