"""`pathways-lite tasks`: make problems with exact verifiers, list the families, check problem files and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pathways_lite.cli.argument_order import require_order
from pathways_lite.cli.common import AsJson, count_progress, print_json
from pathways_lite.console import escape_controls
from pathways_lite.errors import UserError
from pathways_lite.paths import local_path

app = typer.Typer(
    no_args_is_help=True,
    help="Problems with exact verifiers: training texts and test problems, made from a seed.",
)


@app.command("make")
def make(
    family: Annotated[str, typer.Argument(help="one of `tasks list`")],
    out: Annotated[Path, typer.Argument(parser=local_path, help="directory to write")],
    documents: Annotated[int, typer.Option(min=0, help="number of training texts")] = 60_000,
    problems: Annotated[int, typer.Option(min=1, help="number of test problems")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same bytes on every machine")] = 0,
    shots: Annotated[int, typer.Option(min=0, help="solved training problems before each prompt")] = 0,
    source: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="JSON lines that the problems are made of: GSM8K's for gsm8k, documents for cloze and continuation",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write OUT/documents.jsonl to train on, OUT/problems.jsonl to be asked, and a manifest with digests.

    Variants of a problem are all in the texts or all in the problems, whatever the seeds.

    Examples:

    - `pathways-lite tasks make chain tasks/chain --documents 60000 --problems 256`

    - `pathways-lite data build corpora/chain tasks/chain/documents.jsonl --tokenizer bytes`

    - `pathways-lite tasks make gsm8k tasks/gsm8k --source train.jsonl --shots 5`

    - `pathways-lite tasks make cloze tasks/cloze --source texts.jsonl`
    """
    from pathways_lite.output_lock import lock_directory
    from pathways_lite.tasks import FAMILIES, find_family
    from pathways_lite.tasks.make import DOCUMENTS
    from pathways_lite.tasks.make import make as make_problems
    from pathways_lite.tasks.problems import PROBLEMS

    require_order(family, out, "a family of problems", lambda name: str(name) in FAMILIES)
    chosen = find_family(family)
    if source is not None and not chosen.needs_source:
        raise UserError(f"--source {source}: {family} is made from its seed; leave --source out")
    with lock_directory(out), count_progress(f"writing {family}", documents, "documents") as advance:
        manifest = make_problems(
            chosen, out, documents=documents, problems=problems, seed=seed, shots=shots, source=source, done=advance
        )
    if as_json:
        print_json({"directory": out, **manifest})
        return
    for name, what in ((DOCUMENTS, "training texts"), (PROBLEMS, "test problems")):
        facts = manifest["files"][name]
        typer.echo(f"{out / name}: {facts['lines']:,} {what}, sha256 {facts['sha256'][:12]}")


@app.command("list")
def list_families(as_json: AsJson = False) -> None:
    """List the families, each with a problem and its solution."""
    from pathways_lite.tasks.examples import family_examples

    examples = family_examples()
    if as_json:
        print_json(examples)
        return
    for number, each in enumerate(examples):
        typer.echo("\n" * (number > 0) + f"{each['family']}: {each['summary']}")
        for line in (each["prompt"] + each["solution"]).splitlines():
            typer.echo(f"    {line}")


@app.command("check")
def check(
    problems: Annotated[Path, typer.Argument(parser=local_path, help="problem file, or a directory of `tasks make`")],
    samples: Annotated[
        Path | None, typer.Argument(parser=local_path, help="directory of `sample`, whose texts are verified")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that answers verify, ids are unique, no group is in the training texts, and files are as they were made.

    The exit status is 0 if all is well and 1 if not. With SAMPLES, print how many are right.

    Examples:

    - `pathways-lite tasks check tasks/chain`

    - `pathways-lite tasks check tasks/chain/problems.jsonl samples/chain`
    """
    from dataclasses import asdict

    from pathways_lite.tasks import problems_digest, read_problems
    from pathways_lite.tasks.check import check_problems, check_samples
    from pathways_lite.tasks.problems import problem_file

    file = problem_file(problems)
    findings = check_problems(file)
    counts = {} if samples is None else check_samples(read_problems(file), problems_digest(file), samples)
    if as_json:
        verdicts = {domain: asdict(count) for domain, count in counts.items()}
        print_json({"ok": not findings.faults, **asdict(findings), "samples": verdicts})
        raise typer.Exit(1 if findings.faults else 0)
    for fault in findings.faults:
        typer.echo(escape_controls(fault, one_line=True))
    typer.echo(
        f"{file}: {findings.problems:,} problems in {findings.groups:,} groups, {findings.verified:,} solutions verify"
    )
    if findings.documents is not None:
        typer.echo(f"{findings.documents:,} training texts beside them")
    for domain, count in counts.items():
        typer.echo(
            f"{domain}: {count.correct:,} of {count.samples:,} samples of {count.problems:,} problems are right, "
            f"{count.unparsed:,} have no answer"
        )
    raise typer.Exit(1 if findings.faults else 0)
