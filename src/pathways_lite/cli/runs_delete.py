"""`pathways-lite runs delete` and `runs prune`: delete runs, and checkpoints that are not needed any more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.runs.deletion import Plan

Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", parser=local_path, help="directories of runs or studies")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="delete without asking")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="list what would be deleted, and stop")]
Others = Annotated[
    list[Path] | None,
    typer.Option(
        "--used-by",
        metavar="DIRECTORY",
        parser=local_path,
        help="search this directory too for runs that need what would be deleted; the folder of each RUN and runs/ are "
        "always searched",
    ),
]


def delete(
    runs: Runs, yes: Yes = False, dry_run: DryRun = False, used_by: Others = None, as_json: AsJson = False
) -> None:
    """Delete runs, studies, and checkpoints of grow, merge and convert, with all that is in their directories.

    Refused, with the reason, where one is being written to, or where the recipe of another run names one of its
    checkpoints, a study has it as a node, or a stage of another run is a link to it.

    Examples:

    - `pathways-lite runs delete runs/old --dry-run`

    - `pathways-lite runs delete runs/old runs/my_study --yes`
    """
    from pathways_lite.runs.deletion import plan_deletion

    _carry_out(plan_deletion(runs, used_by or ()), yes=yes, dry_run=dry_run, as_json=as_json)


def prune(
    runs: Runs,
    keep: Annotated[
        list[str], typer.Option(metavar="RULE", help='"newest 3", "every 1000 steps" or "best 1"; may be repeated')
    ],
    yes: Yes = False,
    dry_run: DryRun = False,
    used_by: Others = None,
    as_json: AsJson = False,
) -> None:
    """Delete the checkpoints of finished or stopped runs that no rule keeps; logs, results and pages stay.

    `newest 3` keeps the last three of every stage, `every 1000` those at multiples of 1000 steps, `best 1` the one with
    the lowest held-out loss (of those evaluated at their step). The newest one and those that other runs need stay.

    Examples:

    - `pathways-lite runs prune runs/demo --keep "newest 2" --dry-run`

    - `pathways-lite runs prune runs/* --keep "newest 1" --keep "best 1" --keep "every 10000 steps" --yes`
    """
    from pathways_lite.runs.deletion import plan_pruning
    from pathways_lite.runs.retention import parse_rule

    rules = [parse_rule(text) for text in keep]
    _carry_out(plan_pruning(runs, rules, used_by or ()), yes=yes, dry_run=dry_run, as_json=as_json)


def _carry_out(plan: Plan, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """List the plan, ask, and delete. Raises UserError where nobody can be asked."""
    from pathways_lite.errors import UserError
    from pathways_lite.runs.deletion import carry_out
    from pathways_lite.tracking.formatting import si

    count = len(plan.deletions)
    total = f"{count} director{'y' if count == 1 else 'ies'}, {si(plan.nbytes, 'B')}"
    if as_json and not (yes or dry_run):
        raise UserError("--json asks no question: add --yes to delete, or --dry-run to see what would be deleted")
    if not as_json:
        _print_plan(plan)
    if plan.deletions and not dry_run:
        if not yes and not _confirm(f"Delete {total}? [y/N] "):
            typer.echo("nothing was deleted")
            raise typer.Exit(1)
        carry_out(plan)
    if as_json:
        rows = [{"path": one.path, "what": one.what, "bytes": one.nbytes} for one in plan.deletions]
        kept = [{"path": path, "reason": reason} for path, reason in plan.protected]
        print_json({"deleted": rows, "bytes": plan.nbytes, "protected": kept, "dry_run": dry_run})
    elif not plan.deletions:
        typer.echo("nothing to delete")
    else:
        typer.echo(f"{total}: {'would be ' * dry_run}deleted")


def _print_plan(plan: Plan) -> None:
    from pathways_lite.console import Console, Table
    from pathways_lite.tracking.formatting import si

    console = Console()
    if plan.deletions:
        table = Table("to delete", "what", "size")
        for one in plan.deletions:
            table.add_row(str(one.path), one.what, si(one.nbytes, "B"))
        console.print(table)
    for path, reason in plan.protected:
        console.print(f"kept: {path}: {reason}", soft_wrap=True)


def _confirm(question: str) -> bool:
    from pathways_lite.errors import UserError

    try:
        sys.stderr.write(question)
        sys.stderr.flush()
        answer = sys.stdin.readline()
    except OSError:
        answer = ""
    if not answer:  # no terminal and no pipe with an answer
        raise UserError("nothing was deleted: there is nobody to ask; add --yes to delete without asking")
    return answer.strip().lower() in ("y", "yes")
