"""A whole run: its stages one after the other, in one directory, from wherever it is."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.distributed import coordination
from pathways_lite.distributed.monitor import FailureMonitor, Watchdog
from pathways_lite.distributed.stopping import Stop
from pathways_lite.errors import UserError
from pathways_lite.ledger import Timeline
from pathways_lite.recipe import Recipe, Stage, identity_differences, stage_identity, write_recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_lock import RunLock
from pathways_lite.signals import StopSignals
from pathways_lite.tracking.formatting import si
from pathways_lite.tracking.log import RunLog, SilentLog
from pathways_lite.tracking.peak import machine_peak
from pathways_lite.tracking.progress import Progress
from pathways_lite.tracking.run_data import NOT_COMPARABLE
from pathways_lite.tracking.trackers import open_trackers
from pathways_lite.training.compile import Interrupted, StepCompiler
from pathways_lite.training.final_evaluation import summarize
from pathways_lite.training.initialize import initialize_stage, restore_latest
from pathways_lite.training.loop import Trainer, TrainerServices
from pathways_lite.training.metrics import MetricWriter, Timer
from pathways_lite.training.references import resolve_recipe, with_learned_weights
from pathways_lite.training.setup import Setup


@dataclass(frozen=True)
class RunContext:
    """What a run has around it, the same for all of its stages."""

    run: RunDirectory
    trackers: Sequence[str]
    console: Console
    stop: Stop
    watchdog: Watchdog


def train_run(
    recipe: Recipe,
    path: Path,
    *,
    trackers: Sequence[str] = (),
    console: Console | None = None,
    hang_timeout: float | None = None,
) -> int:
    """Train all stages of `recipe` in the run directory `path`, going on from what it holds.

    With many processes (`hosts.start`) all of them call this; the first alone locks the directory, writes logs and
    shows progress. `hang_timeout` is how many seconds may pass without a step, see `Watchdog`.

    Returns the process's exit status: 0 when everything is trained, 128 + n after signal n (the state is saved).
    Raises UserError for whatever its user can correct.
    """
    with contextlib.ExitStack() as stack:
        if not coordination.is_primary():
            console = Console(file=stack.enter_context(open(os.devnull, "w")))  # noqa: PTH123
        console = console or Console(stderr=True)
        recipe = resolve_recipe(recipe)
        run = RunDirectory(path)
        coordination.run_on_primary(lambda: _claim(stack, run, recipe, console))
        signals = stack.enter_context(StopSignals())
        stop = Stop(lambda: signals.requested)
        stack.enter_context(FailureMonitor(stop))
        watchdog = stack.enter_context(Watchdog(path, hang_timeout))
        surroundings = RunContext(run, trackers if coordination.is_primary() else (), console, stop, watchdog)
        try:
            for index in range(len(recipe.stages)):
                recipe = with_learned_weights(recipe, index, run)
                train_stage(Setup(recipe, index), surroundings)
        except Interrupted:
            console.print(f"Stopped. The same command goes on from here ({path}).", highlight=False)
        return stop.exit_status


def train_stage(setup: Setup, around: RunContext) -> None:
    """Train one stage to its end, unless it is there already. Raises Interrupted after a signal."""
    if coordination.run_on_primary(lambda: _is_trained(setup, around.run)):
        return
    with contextlib.ExitStack() as stack:
        with around.watchdog.pause("preparing"):
            trainer = _prepare(stack, setup, around)
        try:
            trainer.train()
        except Interrupted:
            trainer.metric_writer.happened("interrupt", trainer.step, trainer.timer.seconds)
            raise
        phase = "comparing with compressors, writing samples"
        with trainer.progress.phase(phase), around.watchdog.pause(phase):
            params = setup.evaluated_params(trainer.state.opt_state, trainer.state.params, trainer.step)
            peak = machine_peak(setup.stage.model.dtype)
            summary = summarize(setup, params, trainer.metric_writer.last_evaluation, peak_flops=peak)
            coordination.run_on_primary(lambda: _conclude(setup.stage, summary, around))


def _is_trained(setup: Setup, run: RunDirectory) -> bool:
    """Whether nothing is left to do. Raises UserError for a stage that another run has to train and has not."""
    directory = run.stage(setup.stage.name)
    if directory.link_target is None:
        return directory.finished
    found = (directory.summary or {}).get("identity")
    if found == setup.identity:
        return True
    what = "is not finished" if found is None else f"has the identity {found}, not {setup.identity}"
    raise UserError(
        f"stage {setup.stage.name!r} is a link to the run {directory.link_target}, which {what}; train that run first, "
        "or remove the link to train the stage here"
    )


def _conclude(stage: Stage, summary: dict[str, Any], around: RunContext) -> None:
    """What is left of a finished stage, for programs and for people."""
    around.run.stage(stage.name).write_summary(summary)
    _draw(around.run)
    _print_summary(stage, summary, around.run, around.console)


def _prepare(stack: contextlib.ExitStack, setup: Setup, around: RunContext) -> Trainer:
    """The stage's trainer, at its newest whole checkpoint or its start; `stack` closes what it works with."""
    run, timeline = around.run, setup.timeline
    directory = run.stage(setup.stage.name)
    checkpoints = stack.enter_context(CheckpointManager(directory.checkpoints, keep=checkpoints_to_keep(setup.stage)))
    steps, tokens = timeline.total_steps, timeline.tokens_before(timeline.total_steps)
    title = f"{setup.recipe.name}/{setup.stage.name}"
    progress = stack.enter_context(Progress(title, total_steps=steps, total_tokens=tokens, console=around.console))
    compiler = StepCompiler(setup)
    if (begin := coordination.run_on_primary(lambda: checkpoints.newest) or 0) < steps:
        compiler.start(timeline.sequences_at(begin))
    if len(setup.store.domains) > 1 and setup.stage.data.mixture is not None:
        progress.note(_epochs(setup))
    with progress.phase("preparing"):
        saved = restore_latest(setup, checkpoints, report=progress.note)
        position = saved or initialize_stage(setup, run, around.stop.should_stop)
    timer = Timer(position.seconds)
    log: RunLog | SilentLog = SilentLog()
    if coordination.is_primary():
        log = stack.enter_context(RunLog(directory.path))
    log.truncate_after(saved.step if saved else -1)
    sinks = open_trackers(around.trackers, directory.path, run=setup.recipe.name, step=position.step)
    for sink in sinks:
        stack.callback(sink.close)
    metric_writer = MetricWriter(setup, position, log, sinks, progress)
    if saved:
        checkpoints.delete_after(saved.step)
        progress.note(f"resuming {directory.path} at step {saved.step:,} of {steps:,}")
        metric_writer.happened("resume", saved.step, saved.seconds)
    return Trainer(
        setup,
        run,
        position,
        TrainerServices(compiler, checkpoints, metric_writer, progress, timer, around.stop, around.watchdog),
    )


def _draw(run: RunDirectory) -> None:
    """The run's page and pictures. Matplotlib takes seconds to import, which the first step need not wait for."""
    from pathways_lite.tracking.report import write_pages

    write_pages(run.path)


def _print_summary(stage: Stage, summary: dict[str, Any], run: RunDirectory, console: Console) -> None:
    """Held-out results beside xz, one sample, and where the page is."""
    table = Table("held out", "bits per byte", "xz -9", "loss per token", title=f"stage {stage.name}")
    for name, result in summary["domains"].items():
        xz = summary["compressors"][name]["xz -9"]
        table.add_row(name, f"{result['bits_per_byte']:.4f}", f"{xz:.4f}", f"{result['loss']:.4f}")
    console.print(table)
    if "denoisers" in summary:
        table = Table("denoiser", "held-out loss", "tokens", title=f"stage {stage.name}", caption=NOT_COMPARABLE)
        for name, result in summary["denoisers"].items():
            table.add_row(name, f"{result['loss']:.4f}", f"{result['tokens']:,}")
        console.print(table)
    for sample in summary["samples"][:1]:
        text = Text.assemble("sample: ", (sample["prompt"], "dim"), sample["text"])
        console.print(text)
    console.print(f"report: {run.report}", highlight=False)


def checkpoints_to_keep(stage: Stage) -> int:
    """As many as the recipe asks for, and enough to reach back behind a spike where the guard may rewind."""
    if stage.guard.policy != "rewind":
        return stage.saving.keep
    # The spike is seen one step late, and the checkpoint wanted may lie up to one saving interval further back.
    return max(stage.saving.keep, 2 + math.ceil((stage.guard.rewind_steps + 1) / stage.saving.every))


def _claim(stack: contextlib.ExitStack, run: RunDirectory, recipe: Recipe, console: Console) -> None:
    """Make `run` this process's and this recipe's. Raises UserError where it is in use or holds another's stages."""
    run.path.mkdir(parents=True, exist_ok=True)
    stack.enter_context(RunLock(run.path, note=console.print))
    if run.recipe_path.is_file():
        old = run.recipe()
        for index in range(min(len(recipe.stages), len(old.stages))):
            begun = run.stage(old.stages[index].name).path.exists()
            if begun and stage_identity(old, index) != stage_identity(recipe, index):
                differences = "\n".join(identity_differences(old, recipe, index))
                raise UserError(
                    f"{run.path} was begun with another recipe; choose another directory with --out, or undo:\n"
                    f"{differences}"
                )
    write_recipe(recipe, run.recipe_path)


def _sparse(timeline: Timeline) -> str:
    """What zeros would save of a stage's FLOPs, if it has any."""
    if not timeline.phases:
        return ""
    active = si(timeline.active_parameters_at(timeline.total_steps), "parameters")
    return f" ({si(timeline.sparse_flops_before(timeline.total_steps))} without zeros; {active} in the end)"


def describe(recipe: Recipe) -> str:
    """What training `recipe` would be: sizes, tokens, epochs and FLOPs of every stage, one line each."""
    lines = []
    recipe = resolve_recipe(recipe)
    for index, stage in enumerate(recipe.stages):
        setup = Setup(recipe, index)
        timeline = setup.timeline
        total = timeline.total_steps
        tokens = timeline.tokens_before(total)
        lines.append(
            f"{stage.name}: {si(timeline.active_parameters, 'parameters')}, {total:,} steps, {si(tokens, 'tokens')} "
            f"({_epochs(setup)}), {si(timeline.flops_before(total), 'FLOPs')}{_sparse(timeline)}, "
            f"starts with {stage.start.kind}, identity {stage_identity(recipe, index)}"
        )
    return "\n".join(lines)


def _epochs(setup: Setup) -> str:
    """How often the data is read, of a mixture domain by domain."""
    if (mixture := setup.stage.data.mixture) is not None and mixture.unknown:
        return f"how often each domain is read, stage {mixture.unknown[0]!r} has yet to learn"
    found = {name: f"{times:.{0 if times >= 100 else 2}f}" for name, times in setup.epochs.items()}
    if mixture is None:
        return f"{next(iter(found.values()))} epochs"
    return ", ".join(f"{name} will be seen {times} times" for name, times in found.items())
