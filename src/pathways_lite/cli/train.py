"""`pathways-lite train`: train a recipe, or resume its training."""

from __future__ import annotations

import itertools
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pathways_lite.cli.common import print_json
from pathways_lite.cli.overrides import Overrides
from pathways_lite.cli.recipe_corpora import require_corpora
from pathways_lite.compilation_cache import enable_compilation_cache
from pathways_lite.cpu_cores import set_threads
from pathways_lite.errors import UserError
from pathways_lite.host_memory import keep_freed_memory, runs_on_cpu_only
from pathways_lite.paths import local_path
from pathways_lite.shipped_recipes import recipe_file
from pathways_lite.tracking.formatting import duration

if TYPE_CHECKING:
    from pathways_lite.recipe import Recipe


@dataclass(frozen=True)
class TrainOptions:
    """The options of `train_run`, named as its arguments."""

    trackers: tuple[str, ...]
    hang_timeout: float | None
    samples: bool
    page: bool
    source: Path


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="a Python file with a function recipe(), the name of one that comes with the package (see recipe "
            "list), its JSON, or a run directory"
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(parser=local_path, help="run directory; default: runs/NAME of the recipe")
    ] = None,
    track: Annotated[list[str] | None, typer.Option(help="also log to: tensorboard (default), wandb, none")] = None,
    extend: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="of a finished run: train its model longer, e.g. '10 %' or '500 steps'"),
    ] = None,
    branch: Annotated[
        int | None,
        typer.Option(metavar="STEP", min=0, help="of a run: continue from its checkpoint of this step as a new run"),
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="with --branch: of which stage; default: the one that has STEP")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="show what would be trained and its cost, and stop")] = False,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="address of process 0, for processes started by hand")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="number of processes")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="index of this process, from 0")] = None,
    hang_timeout: Annotated[
        float, typer.Option(min=0, help="seconds without a step after which the process ends with status 75; 0: never")
    ] = 600.0,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="threads that XLA computes with on CPUs; default: one per core that this process may use, by its "
            "affinity and its container's CPU limit. Their number changes the last digits of losses. The threads "
            "that read data are data.threads of the recipe",
        ),
    ] = None,
    samples: Annotated[bool, typer.Option(help="generate text at the end of every stage")] = True,
    page: Annotated[bool, typer.Option(help="draw the run's page and plots at the end of every stage")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="with --dry-run: print JSON instead of text")] = False,
) -> None:
    """Train a recipe's stages in order, continuing from the state of the run directory.

    After an interruption the same command continues, bit for bit as if there had been none. SIGINT, SIGTERM
    and a closed terminal (SIGHUP) save a checkpoint and exit; a second signal exits at once.

    A run directory in the place of the recipe continues that run, with changes of what does not change its result
    (mesh, place of the corpus). --extend appends a stage to it, and --branch makes a run that starts from one of its
    checkpoints; both keep the optimizer's state and hold the learning rate, unless overrides say otherwise.

    On many hosts run the same command on each. Slurm, Open MPI, GKE and TPU pods are detected; anywhere else give
    --coordinator, --processes and --process. The run directory must be on a file system that all hosts share.

    Of a recipe that comes with the package, a missing corpus of the text that comes with Python is built first.

    Examples:

    - `pathways-lite train demo`, or `pathways-lite train configs/demo.py`

    - `pathways-lite train configs/demo.py stages.base.optimizer=adamw stages.base.budget="1e6 tokens" --out runs/adamw`

    - `pathways-lite train configs/demo.py --dry-run` says how long it takes here, and how much memory

    - `pathways-lite train runs/demo --extend "10 %"`

    - `pathways-lite train runs/demo --branch 400 --out runs/lower stages.base.optimizer.learning_rate=1e-4`

    - `pathways-lite train configs/demo.py --coordinator host0:1234 --processes 2 --process 0`
    """
    set_threads(threads)
    if runs_on_cpu_only():
        keep_freed_memory()  # before the imports below load JAX
    loaded, out = _load(recipe, overrides or [], out, extend, branch, stage)
    source = _source(recipe_file(recipe))
    corpora = _corpora_to_read(loaded, out)
    if dry_run:
        require_corpora(source, corpora)
        _dry_run(loaded, out, samples=samples, page=page, as_json=as_json)
        return
    if as_json:
        raise UserError("--json prints what --dry-run shows; add --dry-run, or leave out --json")
    from pathways_lite.distributed import coordination

    coordination.initialize(coordinator, processes, process)
    trackers = [] if track == ["none"] else track or ["tensorboard"]
    if coordination.process_count() == 1:
        require_corpora(source, corpora, build=True)
        enable_compilation_cache()  # processes that compile and others that do not would wait for each other
    options = TrainOptions(tuple(trackers), hang_timeout or None, samples, page, source)
    status = _train(loaded, out, options)
    if status:
        _exit_now(status)


def _corpora_to_read(recipe: Recipe, out: Path) -> list[str]:
    """Return the corpora that a new run needs; none for a run that is there, which may have read them already."""
    from pathways_lite.run_directory import RunDirectory

    return [] if RunDirectory(out).recipe_path.exists() else [stage.data.corpus for stage in recipe.stages]


def _source(path: Path) -> Path:
    """Return the file of the recipe, or the directory beside which a run is."""
    return path if path.is_file() else path.parent


def _dry_run(recipe: Recipe, out: Path, *, samples: bool, page: bool, as_json: bool) -> None:
    """Print what would be trained in `out`, and the time and memory that it would take here."""
    from pathways_lite.run_directory import RunDirectory
    from pathways_lite.training.begun import first_other_stage, stage_states
    from pathways_lite.training.describe import describe, describe_stages
    from pathways_lite.training.estimate import busy_note, estimate_recipe
    from pathways_lite.training.resolve import resolve_recipe
    from pathways_lite.training.stage_mesh import mesh_note, mesh_problem, require_mesh_here

    enable_compilation_cache()
    run = RunDirectory(out)
    resolved = resolve_recipe(recipe, run)
    states = stage_states(resolved, run)
    left = [not state.finished for state in states]
    problems = [mesh_problem(stage) if is_left else "" for stage, is_left in zip(resolved.stages, left, strict=True)]
    if as_json:
        estimates = estimate_recipe(resolved, calibrate=True, states=states, samples=samples, pages=page)
        rows = zip(describe_stages(resolved, states), estimates, problems, strict=True)
        print_json(
            [{**row, "estimate": estimate.to_json(), "problem": problem or None} for row, estimate, problem in rows]
        )
        return
    typer.echo(describe(resolved, states))
    typer.echo(f"run directory: {out}{'' if out.exists() else ', which is made'}")
    if (other := first_other_stage(resolved, run)) is not None:
        name = run.recipe().stages[other].name
        typer.echo(f"note: {out} was begun with another recipe of stage {name!r}; training needs another --out")
    for problem in filter(None, problems):
        typer.echo(f"note: does not train here: {problem}")
    if any(problems):  # a time would be of another mesh
        typer.echo("`pathways-lite plan` plans it for machines that are not here")
        return
    for stage in itertools.compress(resolved.stages, left):
        if note := mesh_note(stage, require_mesh_here(stage)):
            typer.echo(f"note: {stage.name}: {note}")
    estimates = estimate_recipe(resolved, calibrate=True, states=states, samples=samples, pages=page)
    for stage, estimate, state in zip(resolved.stages, estimates, states, strict=True):
        if not state.finished:
            typer.echo(f"{stage.name}: {'what is left: ' if state.step else ''}{estimate.sentence()}")
    if not any(left):
        typer.echo(f"nothing is left to train; to train longer: pathways-lite train {out} --extend '10 %'")
        return
    if len(estimates) > 1:
        what = "all that is left" if any(state.step for state in states) else "all stages"
        typer.echo(f"{what}: about {duration(sum(estimate.seconds.total for estimate in estimates))} here")
    if busy := busy_note():
        typer.echo(f"note: {busy}")


def _load(
    recipe: str, overrides: list[str], out: Path | None, extend: str | None, branch: int | None, stage: str | None
) -> tuple[Recipe, Path]:
    """Return the recipe to train and its run directory. Raises UserError where the options do not go together."""
    from pathways_lite.recipe import apply_overrides, load_recipe
    from pathways_lite.run_directory import RunDirectory

    path = local_path(recipe)
    if not path.is_dir():
        for option, value in (("--extend", extend), ("--branch", branch), ("--stage", stage)):
            if value is not None:
                raise UserError(f"{option} goes on from a run; name its directory instead of {recipe}")
        loaded = load_recipe(recipe, overrides)
        return loaded, out or Path("runs") / loaded.name
    run = RunDirectory(path)
    if branch is not None:
        from pathways_lite.training.going_on import branched

        if out is not None and out.resolve() == path.resolve():
            raise UserError(f"--branch makes a new run, and {out} is the run that it leaves; name a new directory")
        loaded = branched(run, branch, stage, extend, overrides)
        return loaded, out or path.parent / loaded.name
    if stage is not None:
        raise UserError("--stage names the stage of --branch; add --branch STEP, or leave out --stage")
    if out is not None and out != path:
        raise UserError(f"a run goes on in its own directory, {path}; leave out --out, or branch off by --branch STEP")
    if extend is None:
        return apply_overrides(run.recipe(), overrides), path
    from pathways_lite.training.going_on import extended

    return extended(run, extend, overrides), path


def _train(recipe: Recipe, out: Path, options: TrainOptions) -> int:
    """Train, print any error, and return the exit status."""
    import traceback

    from pathways_lite.cli.common import print_error
    from pathways_lite.distributed import coordination
    from pathways_lite.distributed.monitor import announce_failure
    from pathways_lite.errors import UserError, explain_system_error
    from pathways_lite.training.run import train_run

    who = f"process {coordination.process_index()}: " if coordination.process_count() > 1 else ""
    try:
        status = train_run(recipe, out, **asdict(options))
        coordination.shutdown()
        return status
    except UserError as error:
        if announce_failure(str(error), error.status):
            print_error(error if coordination.is_primary() else UserError(f"{who}{error}"))
        return error.status
    except Exception as error:
        if coordination.process_count() == 1:
            raise
        if (explained := explain_system_error(error)) is not None:
            if announce_failure(str(explained), explained.status):
                print_error(UserError(f"{who}{explained}"))
            return explained.status
        message = f"{type(error).__name__}: {error}"
        if announce_failure(message, 1):
            traceback.print_exc()
            print_error(
                UserError(f"{who}{message.splitlines()[0]}. If another process has died, start all processes again.")
            )
        return 1


def _exit_now(status: int) -> None:
    """Exit without the interpreter's shutdown, which a compiling thread or a dead process could block or crash."""
    import sys

    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
