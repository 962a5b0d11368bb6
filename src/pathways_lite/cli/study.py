"""`pathways-lite study`: plan, run, watch and report a study of many runs."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathways_lite.cli.common import AsJson, print_json
from pathways_lite.cli.recipe_corpora import require_corpora
from pathways_lite.cli.study_common import Jobs, Out, Overrides, Samples, StudyPath, make_plan, named_study
from pathways_lite.cli.study_law import Factors, LawName, Methods
from pathways_lite.cli.study_tables import (
    cost_note,
    mesh_note,
    node_table,
    plan_rows,
    plan_summary,
    run_ending,
    study_header,
)
from pathways_lite.paths import local_path

if TYPE_CHECKING:
    from pathways_lite.studies.executor import Executor

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Answer one question with many runs: plan, run, watch and report a study.\n\n"
    "A study is a Python file with a function `study()` that returns named arms, each a recipe per seed "
    "(`configs/studies/palm_against_llama.py` is one; see docs/studies.md). An arm is one answer to the question, e.g. "
    "a learning rate. A node is a stage to train; stages that recipes share are one node.\n\n"
    "Example: `pathways-lite study plan configs/studies/palm_against_llama.py`, then `run`, then `report`.",
)


@app.command()
def plan(
    study: StudyPath,
    overrides: Overrides = None,
    out: Out = None,
    jobs: Jobs = 1,
    samples: Samples = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be trained, what is done already, its cost and its approximate time. Trains nothing.

    Times are those of whole processes: importing, compiling, training, evaluating, saving. They come from nodes of the
    same shape that this study or an earlier run on this machine has trained; otherwise a few steps are taken now, in a
    process of their own that takes about as long as a node without its training. What is said after `speed` is which.

    Example: `pathways-lite study plan configs/studies/palm_against_llama.py --jobs 2`
    """
    from pathways_lite.console import Console
    from pathways_lite.studies.probe import SpeedProbe
    from pathways_lite.training.estimate import busy_note

    busy = busy_note()  # asked before this command makes it so
    named = named_study(study, overrides, out)
    require_corpora(named.file, named.corpora_to_read())
    study_plan = make_plan(named, SpeedProbe(jobs, samples=samples), trains=True)
    if as_json:
        print_json(
            {"study": study_plan.study.name, "nodes": plan_rows(study_plan), "jobs": jobs}
            | ({"note": note} if (note := cost_note(study_plan)) else {})
        )
        return
    console = Console()
    console.print(study_header(study_plan.study))
    console.print(node_table(study_plan))
    console.print(plan_summary(study_plan, jobs, startup=time.process_time()))  # `study run` starts like this command
    is_left = any(planned.flops_left for planned in study_plan.nodes.values())
    for note in filter(None, (cost_note(study_plan), mesh_note(study_plan), busy if is_left else "")):
        console.print(note)
    more = ["--jobs", str(jobs)] if jobs > 1 else []
    command = named.command("run", *more) if is_left else named.command("report")
    console.print(f"to {'train' if is_left else 'compare the arms'}: {command}", soft_wrap=True)


@app.command()
def run(
    study: StudyPath,
    overrides: Overrides = None,
    out: Out = None,
    jobs: Jobs = 1,
    executor: Annotated[str, typer.Option(help="local, or slurm (the extra `slurm`)")] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="option for sbatch, e.g. partition=gpu, timeout_min=600"),
    ] = None,
    samples: Samples = False,
) -> None:
    """Train all nodes that are not done. The same command continues after an interruption; two at once share the work.

    On Ctrl-C or SIGTERM every node saves a checkpoint and ends. A node that fails stops only the nodes that start from
    it; failures are listed at the end with the last lines of their logs, and the exit status is 1.

    With `--executor slurm` each node is a job; the study's directory must be on a file system that all machines share.

    Examples:

    - `pathways-lite study run configs/studies/palm_against_llama.py --jobs 2`

    - `pathways-lite study run STUDY --executor slurm --jobs 20 --slurm partition=gpu --slurm gpus_per_node=8`
    """
    from pathways_lite.console import Console
    from pathways_lite.studies.index import write_study_index
    from pathways_lite.studies.probe import KnownSpeeds
    from pathways_lite.studies.progress import StudyProgress
    from pathways_lite.studies.runner import Runner, report_failures

    local = executor == "local"  # a job's machine is not this one
    named, begin = named_study(study, overrides, out), time.monotonic()
    require_corpora(named.file, named.corpora_to_read(), build=True)
    study_plan = make_plan(named, KnownSpeeds(jobs, samples=samples) if local else None, trains=True)
    study_executor = _make_executor(executor, study_plan.store.path, jobs, slurm or [], samples=samples)
    write_study_index(study_plan.study, study_plan.store, named.file, named.overrides)
    console = Console(stderr=True)
    console.print(plan_summary(study_plan, jobs))
    for note in filter(None, (cost_note(study_plan), mesh_note(study_plan) if local else "")):
        console.print(note)
    steps = {identity: planned.timeline.total_steps for identity, planned in study_plan.nodes.items()}
    outcome = Runner(study_plan.store, study_executor, StudyProgress(steps, console)).run()
    report_failures(study_plan.store, outcome, lambda line: console.print(line))
    for line in run_ending(study_plan.store, outcome, time.monotonic() - begin):
        console.print(line, soft_wrap=True)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)
    console.print(f"to compare the arms: {named.command('report')}", soft_wrap=True)


@app.command()
def status(study: StudyPath, overrides: Overrides = None, out: Out = None, as_json: AsJson = False) -> None:
    """Show the progress of every node, from its files and locks.

    States: `done`; `running` (a process holds its lock); `stopped` and `ready` (the next run trains it); `failed`;
    `waiting` for its parent; `held up` by a parent that failed.

    Example: `pathways-lite study status configs/studies/palm_against_llama.py`
    """
    from pathways_lite.console import Console, Table
    from pathways_lite.ledger import Timeline
    from pathways_lite.studies.plan import resolve_study, study_store
    from pathways_lite.studies.progress import read_progress
    from pathways_lite.training.stage import stage_timeline

    named = named_study(study, overrides, out)
    store = study_store(resolve_study(named.study, named.out), named.out)
    rows: list[dict[str, Any]] = []
    for identity, state in store.states().items():
        timeline: Timeline = stage_timeline(store.nodes[identity].stage)
        node_progress, failure = read_progress(store, identity), store.failure(identity)
        rows.append(
            {
                "node": store.nodes[identity].label,
                "identity": identity,
                "state": state,
                "step": node_progress.step,
                "total_steps": timeline.total_steps,
                "loss": node_progress.loss if node_progress.step else None,
                "failure": None if failure is None else failure.reason,
            }
        )
    if as_json:
        print_json({"study": named.study.name, "nodes": rows})
        return
    table = Table("node", "identity", "state", "step", "loss")
    for row in rows:
        loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
        table.add_row(row["node"], row["identity"], row["state"], f"{row['step']:,}/{row['total_steps']:,}", loss)
    console = Console()
    console.print(table)
    for row in rows:
        if row["failure"] is not None:
            console.print(f"{row['node']} ({row['identity']}): {row['failure']}")


@app.command()
def evaluate(
    study: StudyPath,
    overrides: Overrides = None,
    out: Out = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="held-out tokens per domain; default: the recipes'")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate the final checkpoint of every finished recipe on held-out text, document by document.

    Each result is in the node's directory, as `evaluation.json`; nodes that have one of as many tokens are left out.
    The report then has the differences at the end with errors over seeds and over documents. Of a study with a
    `criterion` or `measures`, infilling is evaluated too, and the report says whether the criterion is met.

    Example: `pathways-lite study evaluate configs/ablations/ul2r_doses.py --tokens 300000`
    """
    from pathways_lite.console import print_line
    from pathways_lite.output_lock import lock_file
    from pathways_lite.studies.measures import criterion_sentences, evaluate_study, read_measures
    from pathways_lite.studies.plan import resolve_study, study_store

    named = named_study(study, overrides, out)
    resolved = resolve_study(named.study, named.out)
    store = study_store(resolved, named.out)
    store.path.mkdir(parents=True, exist_ok=True)
    with lock_file(store.path / "evaluate"):
        count = evaluate_study(store, tokens, lambda line: print_line(line), infilling=bool(resolved.measured))
    sentences = criterion_sentences(resolved, read_measures(resolved, store))
    if as_json:
        print_json({"study": resolved.name, "evaluated": count, "verdicts": sentences})
        return
    for sentence in sentences:
        print_line(sentence)


@app.command()
def report(
    study: StudyPath,
    overrides: Overrides = None,
    out: Out = None,
    baseline: Annotated[str | None, typer.Option(help="arm to compare with; default: the study's baseline")] = None,
    law: LawName = None,
    methods: Methods = None,
    factor: Factors = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY", parser=local_path, help="also write NAME.json there, with final losses by document"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the results, and write report.html, results.csv and figures (PNG and SVG) into the study's directory.

    The study may still be running. `--law` says what each arm is worth in compute, with an interval and a test of a
    changed exponent: one law is fitted to all arms, with a factor per arm. Arms of several sizes or budgets, named like
    muon_s and muon_l, are one method with `--methods '(.+)_'`.

    Examples:

    - `pathways-lite study report configs/studies/palm_against_llama.py --baseline palm`

    - `pathways-lite study report STUDY --law auto --methods '(.+)_[sml]$'`

    - `pathways-lite study report STUDY --results docs/results/data`
    """
    from pathways_lite.cli.fit_arms import efficiency_facts
    from pathways_lite.cli.study_law import efficiency_section, fit_study_law
    from pathways_lite.console import print_line
    from pathways_lite.output_lock import lock_file
    from pathways_lite.studies.final_losses import final_sentences, gather_results, write_results
    from pathways_lite.studies.measures import criterion_sentences
    from pathways_lite.studies.report import gather_findings, verdict, write_report

    named = named_study(study, overrides, out)
    study_plan = make_plan(named)
    if baseline is not None:
        study_plan = replace(study_plan, study=study_plan.study.with_baseline(baseline))
    findings = gather_findings(study_plan, named.arguments, [] if baseline is None else ["--baseline", baseline])
    efficiency = None if law is None else fit_study_law(study_plan, law, methods, factor or ())
    compared = findings.results
    sentences = [verdict(c, compared.arms) for c in compared.comparisons] if compared is not None else []
    final = gather_results(study_plan, named.arguments[0], findings.measured)
    sentences += final_sentences(final)
    sentences += criterion_sentences(study_plan.study, findings.measured)
    study_plan.store.path.mkdir(parents=True, exist_ok=True)
    with lock_file(study_plan.store.path / "report.html"):
        files = write_report(findings, "" if efficiency is None else efficiency_section(efficiency))
    if results is not None:
        files.append(results / f"{study_plan.study.name}.json")
        write_results(files[-1], final)
    if as_json:
        facts = {} if efficiency is None else {"law": efficiency_facts(efficiency)}
        print_json({"study": study_plan.study.name, "verdicts": sentences, **facts, "files": files})
        return
    for sentence in (*sentences, *(efficiency.sentences() if efficiency is not None else ())):
        print_line(sentence)
    for path in files:
        typer.echo(path)


@app.command()
def export(
    study: StudyPath,
    overrides: Overrides = None,
    out: Out = None,
    jobset: Annotated[bool, typer.Option("--jobset", help="print Kubernetes JobSets instead of commands")] = False,
    template: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            help="YAML of a JobSet that runs one recipe on your cluster; default: tools/launch/jobset.yaml, or the "
            "template of this package",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the nodes that are not done as commands, parents first, or as JobSets for `kubectl apply -f -`.

    Each command is the `pathways-lite train` of one node, for any scheduler. `--out` must be a path that the machines
    can read; the nodes' recipes are written there now.

    Examples:

    - `pathways-lite study export STUDY --out /shared/runs/mine`

    - `pathways-lite study export STUDY --out /shared/runs/mine --jobset | kubectl apply -f -`
    """
    import shlex

    from pathways_lite.console import print_line
    from pathways_lite.studies.executor import train_arguments
    from pathways_lite.studies.index import write_study_index
    from pathways_lite.studies.jobset import TEMPLATE, make_jobsets, to_yaml
    from pathways_lite.studies.plan import resolve_study, study_store

    named = named_study(study, overrides, out)
    loaded, store = named.study, study_store(resolve_study(named.study), named.out)
    if jobset:
        if template is None:
            own = Path("tools/launch/jobset.yaml")
            template = own if own.is_file() else TEMPLATE
            print_line(f"template {template}: where it holds words in CAPITALS, copy it, fill them in, give --template")
        jobsets = to_yaml(make_jobsets(store, loaded.name, template))
        write_study_index(loaded, store, named.file, named.overrides)
        typer.echo(jobsets, nl=False)
        return
    commands = {
        identity: ["pathways-lite", *train_arguments(store.prepare(identity))]
        for identity, state in store.states().items()
        if state != "done"
    }
    write_study_index(loaded, store, named.file, named.overrides)
    if as_json:
        parents = {identity: store.nodes[identity].parent for identity in commands}
        print_json({"nodes": [{"identity": i, "parent": parents[i], "command": c} for i, c in commands.items()]})
        return
    for command in commands.values():
        typer.echo(shlex.join(command))


def _make_executor(name: str, out: Path, jobs: int, slurm: list[str], *, samples: bool) -> Executor:
    from pathways_lite.errors import UserError

    if name == "local":
        from pathways_lite.studies.executor import LocalExecutor

        return LocalExecutor(jobs, samples=samples)
    if name == "slurm":
        from pathways_lite.studies.slurm import SlurmExecutor

        parameters = dict(option.split("=", 1) for option in slurm if "=" in option)
        if len(parameters) < len(slurm):
            raise UserError(f"--slurm takes NAME=VALUE, each name once, not {', '.join(slurm)}")
        return SlurmExecutor(out.absolute() / "slurm", jobs, parameters, samples=samples)
    raise UserError(
        f"unknown --executor {name}; use local or slurm, or for Kubernetes `pathways-lite study export --jobset`"
    )
