"""`pathways-lite study`: many experiments as one question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pathways_lite.studies.executor import Executor
    from pathways_lite.studies.plan import StudyPlan
    from pathways_lite.studies.study import Study

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Many experiments as one question: plan, run, watch and report.\n\n"
    "A study is a Python file with a function `study()` that returns named arms, each a recipe per seed "
    "(`configs/studies/palm_against_llama.py` is one; docs/studies.md explains it). Stages that recipes share are "
    "trained once.\n\n"
    "Example: `pathways-lite study plan configs/studies/palm_against_llama.py`, then `run`, then `report`.",
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="a Python file with a function study()")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help='path=value, for every recipe, e.g. stages.base.budget="20 steps"')
]
Out = Annotated[Path | None, typer.Option(help="directory of the study; by default runs/NAME of the study")]
Jobs = Annotated[int, typer.Option(min=1, help="nodes at a time; on CPUs each gets its own share of the cores")]


@app.command()
def plan(study: StudyFile, overrides: Overrides = None, out: Out = None, jobs: Jobs = 1) -> None:
    """Say what would be trained, what of it exists, what it costs and about how long it takes. Trains nothing.

    Times come from the throughput of nodes that this study has trained already; before the first one, from an assumed
    share of the machine's peak. The last line says which.

    Example: `pathways-lite study plan configs/studies/palm_against_llama.py --jobs 2`
    """
    from rich.console import Console

    made = _plan(study, overrides, out, jobs)
    console = Console()
    console.print(_header(made.study), highlight=False)
    console.print(_table(made))
    console.print(_totals(made, jobs), highlight=False)


@app.command()
def run(
    study: StudyFile,
    overrides: Overrides = None,
    out: Out = None,
    jobs: Jobs = 1,
    executor: Annotated[str, typer.Option(help="local, or slurm (the extra `slurm`)")] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="for sbatch, e.g. partition=gpu, timeout_min=600")
    ] = None,
) -> None:
    """Train what is missing. The same command goes on after any interruption; two of them share the work.

    Ctrl-C or SIGTERM: every node saves and ends. A node that fails is told at the end, with its log's last lines, and
    stops only what starts from it; the exit status is 1 then.

    With `--executor slurm` each node is a job; the study's directory must be on a file system that all machines share.

    Examples:

    - `pathways-lite study run configs/studies/palm_against_llama.py --jobs 2`

    - `pathways-lite study run STUDY --executor slurm --jobs 20 --slurm partition=gpu --slurm gpus_per_node=8`
    """
    from rich.console import Console

    from pathways_lite.studies.progress import StudyProgress
    from pathways_lite.studies.runner import Runner, report_failures

    made = _plan(study, overrides, out, jobs)
    chosen = _executor(executor, made.store.path, jobs, slurm or [])
    console = Console(stderr=True)
    console.print(_totals(made, jobs), highlight=False)
    steps = {identity: planned.timeline.total_steps for identity, planned in made.nodes.items()}
    outcome = Runner(made.store, chosen, StudyProgress(steps, console)).run()
    report_failures(made.store, outcome, lambda line: console.print(line, markup=False, highlight=False))
    if outcome.exit_status:
        console.print("The same command goes on from here.", highlight=False)
        raise typer.Exit(outcome.exit_status)


@app.command()
def status(study: StudyFile, overrides: Overrides = None, out: Out = None) -> None:
    """How far every node is, as its files and locks say now.

    States: `done`; `running` (a process holds it); `stopped` and `ready` (the next run trains it); `failed`;
    `waiting` for its parent; `held up` by a parent that failed.

    Example: `pathways-lite study status configs/studies/palm_against_llama.py`
    """
    from rich.console import Console
    from rich.table import Table

    from pathways_lite.ledger import Timeline
    from pathways_lite.studies.plan import resolve_study, study_store
    from pathways_lite.studies.progress import read_progress
    from pathways_lite.training.stage import stage_timeline

    loaded, out = _load(study, overrides, out)
    store = study_store(resolve_study(loaded), out)
    table = Table("node", "identity", "state", "step", "loss")
    for identity, state in store.states().items():
        timeline: Timeline = stage_timeline(store.nodes[identity].stage)
        at = read_progress(store, identity)
        loss = f"{at.loss:.4f}" if at.step else ""
        table.add_row(store.nodes[identity].label, identity, state, f"{at.step:,}/{timeline.total_steps:,}", loss)
    console = Console()
    console.print(table)
    for identity in store.nodes:
        failure = store.failure(identity)
        if failure is not None:
            console.print(
                f"{store.nodes[identity].label} ({identity}): {failure.reason}", markup=False, highlight=False
            )


@app.command()
def report(
    study: StudyFile,
    overrides: Overrides = None,
    out: Out = None,
    baseline: Annotated[str | None, typer.Option(help="compare with this arm; by default the study's baseline")] = None,
) -> None:
    """Say what came out, and write report.html, results.csv and figures (PNG and SVG) into the study's directory.

    The study may be going on.

    Example: `pathways-lite study report configs/studies/palm_against_llama.py --baseline palm`
    """
    from pathways_lite.studies.report import gather_findings, verdict_sentence, write_report

    given = {"--out": out, "--baseline": baseline}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    made = _plan(study, overrides, out, jobs=1)
    if baseline is not None:
        made = replace(made, study=made.study.with_baseline(baseline))
    findings = gather_findings(made, [str(study), *(overrides or ()), *options])
    for comparison in findings.results.comparisons if findings.results is not None else ():
        typer.echo(verdict_sentence(comparison), err=True)
    for path in write_report(findings):
        typer.echo(path)


@app.command()
def export(
    study: StudyFile,
    overrides: Overrides = None,
    out: Out = None,
    jobset: Annotated[bool, typer.Option("--jobset", help="Kubernetes JobSets instead of commands")] = False,
    template: Annotated[Path, typer.Option(help="a JobSet that runs one recipe on your cluster")] = Path(
        "tools/launch/jobset.yaml"
    ),
) -> None:
    """Print what is missing as commands, one per node and parents first; or as JobSets for `kubectl apply -f -`.

    Each is one `pathways-lite train` of one node, for any engine. `--out` has to be where the machines find it; the
    nodes' recipes are written there now.

    Examples:

    - `pathways-lite study export STUDY --out /shared/runs/mine`

    - `pathways-lite study export STUDY --out /shared/runs/mine --jobset | kubectl apply -f -`
    """
    import shlex

    from pathways_lite.studies.executor import train_arguments
    from pathways_lite.studies.jobset import make_jobsets, to_yaml
    from pathways_lite.studies.plan import resolve_study, study_store

    loaded, out = _load(study, overrides, out)
    store = study_store(resolve_study(loaded), out)
    if jobset:
        typer.echo(to_yaml(make_jobsets(store, loaded.name, template)), nl=False)
        return
    for identity, state in store.states().items():
        if state != "done":
            typer.echo(shlex.join(["pathways-lite", *train_arguments(store.prepare(identity))]))


def _executor(name: str, out: Path, jobs: int, slurm: list[str]) -> Executor:
    from pathways_lite.errors import UserError

    if name == "local":
        from pathways_lite.studies.executor import LocalExecutor

        return LocalExecutor(jobs)
    if name == "slurm":
        from pathways_lite.studies.slurm import SlurmExecutor

        parameters = dict(option.split("=", 1) for option in slurm if "=" in option)
        if len(parameters) < len(slurm):
            raise UserError(f"--slurm takes NAME=VALUE, each name once, not {', '.join(slurm)}")
        return SlurmExecutor(out.absolute() / "slurm", jobs, parameters)
    raise UserError(
        f"--executor {name}: there are local and slurm; for Kubernetes, `pathways-lite study export --jobset`"
    )


def _load(study: Path, overrides: list[str] | None, out: Path | None) -> tuple[Study, Path]:
    from pathways_lite.studies.study import load_study

    loaded = load_study(study, overrides or ())
    return loaded, out or Path("runs") / loaded.name


def _plan(study: Path, overrides: list[str] | None, out: Path | None, jobs: int) -> StudyPlan:
    from pathways_lite.studies.plan import plan_study, resolve_study

    def machine_flops(dtype: str) -> float:
        from pathways_lite.tracking.peak import machine_peak

        return machine_peak(dtype) / jobs

    loaded, out = _load(study, overrides, out)
    return plan_study(resolve_study(loaded), out, machine_flops)


def _header(study: Study) -> str:
    arms = ", ".join(f"{name} ({len(recipes)})" for name, recipes in study.arms.items())
    return f"[bold]{study.name}[/]: {study.question}\narms: {arms}; baseline: {study.baseline}; {study.metric.name}"


def _table(made: StudyPlan) -> Any:
    from rich.table import Column, Table

    from pathways_lite.tracking.formatting import duration, si

    # `merge` and `evaluate` are given nodes by their identity: it stays whole in a narrow terminal.
    whole = (Column("node", no_wrap=True), Column("identity", no_wrap=True))
    table = Table(*whole, "after", "steps", "parameters", "FLOPs", "state", "time left", box=None, pad_edge=False)
    for identity, planned in made.nodes.items():
        timeline = planned.timeline
        left = duration(planned.seconds_left) if planned.flops_left else ""
        table.add_row(
            planned.node.label,
            identity,
            planned.node.parent or "",
            f"{timeline.total_steps:,}",
            si(timeline.active_parameters),
            si(planned.flops),
            planned.state,
            left,
        )
    return table


def _totals(made: StudyPlan, jobs: int) -> str:
    from pathways_lite.studies.study import node_chain
    from pathways_lite.tracking.formatting import duration, si

    nodes = made.nodes
    total, left = (sum(getattr(planned, name) for planned in nodes.values()) for name in ("flops", "flops_left"))
    apart = sum(
        nodes[ancestor.identity].flops * len(planned.node.is_last)
        for identity, planned in nodes.items()
        for ancestor in node_chain(made.store.nodes, identity)
    )
    saved = f"; sharing saves {si(apart - total, 'FLOPs')} of {si(apart, 'FLOPs')}" if apart > total else ""
    done = sum(planned.state == "done" for planned in nodes.values())
    paces = ", ".join(sorted({planned.speed_source for planned in nodes.values() if planned.flops_left}))
    time = f"about {duration(made.seconds_left(jobs))} with --jobs {jobs}, speed {paces}"
    if not left:
        time = "nothing is left to train"
    return f"{len(nodes)} nodes, {done} done; {si(left, 'FLOPs')} of {si(total, 'FLOPs')} left{saved}; {time}"
