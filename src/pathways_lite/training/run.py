"""Run or resume a recipe: train its stages in order, in one run directory, from the state that the directory holds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from rich.text import Text

from pathways_lite.checkpoints import CheckpointManager
from pathways_lite.console import Console, Table
from pathways_lite.data.notes import training_notes
from pathways_lite.distributed import coordination
from pathways_lite.distributed.agreement import require_same, require_shared_directory
from pathways_lite.distributed.monitor import FailureMonitor, Watchdog
from pathways_lite.distributed.stopping import TRAINED, UNPREPARED, Stop
from pathways_lite.evaluation.compressors import are_kept
from pathways_lite.paths import local_path
from pathways_lite.provenance import Provenance
from pathways_lite.recipe import Recipe, Stage
from pathways_lite.recipe.identity import flatten
from pathways_lite.run_directory import RunDirectory, node_label
from pathways_lite.run_lock import RunLock
from pathways_lite.signals import Interrupted, StopSignals
from pathways_lite.tracking.formatting import bits_per_byte, held_out_note
from pathways_lite.tracking.log import LOG, NullLog, RunLog
from pathways_lite.tracking.peak import machine_peak, seconds_of_peak
from pathways_lite.tracking.progress import Progress
from pathways_lite.tracking.run_data import NOT_COMPARABLE
from pathways_lite.tracking.token_page import PAGE_NAME, ScoredText
from pathways_lite.tracking.trackers import open_trackers
from pathways_lite.training.claim import claim_run
from pathways_lite.training.compile import StepCompiler
from pathways_lite.training.components import Components
from pathways_lite.training.data_position import describe_data_position
from pathways_lite.training.describe import describe_epochs
from pathways_lite.training.ending import PAGES, PhaseTimes, keep_ending
from pathways_lite.training.estimate import measure_stage
from pathways_lite.training.final_evaluation import summarize
from pathways_lite.training.hooks import TrainerHooks
from pathways_lite.training.initialize import initialize_stage, is_trained, restore_latest
from pathways_lite.training.loop import Trainer, TrainerServices
from pathways_lite.training.metrics import MetricWriter, Timer
from pathways_lite.training.notes import INHERITS_UNKNOWN, stage_notes
from pathways_lite.training.resolve import resolve_recipe, with_learned_weights
from pathways_lite.training.run_record import (
    current_provenance,
    describe_finished,
    describe_stop,
    has_current_page,
    missing_directory,
    record_process,
)
from pathways_lite.training.speed import keep_speed, parse_speed, startup_seconds
from pathways_lite.training.stage import StageSpec, describe_lengths
from pathways_lite.training.stage_mesh import mesh_note, require_mesh_here
from pathways_lite.training.token_losses import score_samples, write_samples_page
from pathways_lite.version import __version__


class RunOptions(TypedDict, total=False):
    """How a run is trained, besides its recipe."""

    trackers: Sequence[str]  # see `tracking.trackers`; none by default
    console: Console | None  # for what is said; None: standard error
    hang_timeout: float | None  # seconds that may pass without a step, see `Watchdog`
    hooks: TrainerHooks | None
    source: Path | None  # the recipe's file or directory, whose git commit is recorded; None: the working directory
    samples: bool  # generate text at the end of a stage (the default)
    page: bool  # draw the run's page and plots (the default)


@dataclass(frozen=True)
class RunContext:
    """What all stages of a run share."""

    run: RunDirectory
    recipe: Recipe  # resolved
    trackers: Sequence[str]
    console: Console
    stop: Stop
    watchdog: Watchdog
    hooks: TrainerHooks
    fence: Callable[[], None]  # raises LostRunError where another process writes to the run directory now
    provenance: Provenance
    samples: bool
    page: bool
    startup: float = 0.0  # seconds that this process took before training

    def note(self, line: str) -> None:
        """Print a line for the user."""
        self.console.print(line)

    def note_stop(self) -> None:
        """Say after a signal what is saved, and how to continue."""
        if coordination.is_primary():
            self.note(describe_stop(self.run, self.recipe))


# ---- training ----


def train_run(recipe: Recipe, path: Path, **options: Unpack[RunOptions]) -> int:
    """Train all stages of `recipe` in the run directory `path`, continuing from what it holds.

    With many processes (`coordination.initialize`) all of them call this; only the primary one locks the directory,
    writes logs and shows progress.

    Returns the process's exit status: 0 when everything is trained, 128 + n after signal n (the state is saved).
    Raises UserError for what the user can correct.
    """
    with open_run(recipe, path, **options) as context:
        try:
            with contextlib.ExitStack() as stack:
                for components in stages_to_train(context, stack):
                    with stage_trainer(components, context) as trainer:
                        trainer.train()
        except Interrupted:
            context.note_stop()
        return context.stop.exit_status


@contextlib.contextmanager
def open_run(recipe: Recipe, path: Path, **options: Unpack[RunOptions]) -> Iterator[RunContext]:
    """Resolve the recipe and claim its run directory, for `stages_to_train`; signals stop the run until it is closed.

    Raises UserError where the directory is in use or holds another recipe's stages.
    """
    hooks, startup = options.get("hooks") or TrainerHooks(), startup_seconds()
    console, hang_timeout = options.get("console"), options.get("hang_timeout")
    with contextlib.ExitStack() as stack:
        if not coordination.is_primary():
            console = Console(file=stack.enter_context(open(os.devnull, "w")))  # noqa: PTH123
        console = console or Console(stderr=True)
        signals = StopSignals(lambda: stop.consequence)
        stop = Stop(lambda: signals.requested or hooks.stop_requested())
        stack.enter_context(FailureMonitor(stop))
        require_same(_settings(recipe) | {"--hang-timeout": hang_timeout})
        run = RunDirectory(local_path(path))
        recipe = resolve_recipe(recipe, run)
        require_same(_settings(recipe))
        first_made = missing_directory(run.path)
        lock = RunLock(run.path, note=console.print, end_when_lost=True)
        coordination.run_on_primary(lambda: claim_run(stack, lock, run, recipe, first_made))
        require_shared_directory(run.path)
        stack.enter_context(signals)
        watchdog = stack.enter_context(Watchdog(run.path, hang_timeout))
        yield RunContext(
            run=run,
            recipe=recipe,
            trackers=options.get("trackers", ()) if coordination.is_primary() else (),
            console=console,
            stop=stop,
            watchdog=watchdog,
            hooks=hooks,
            fence=lock.require_held,
            provenance=current_provenance(options.get("source")),
            samples=options.get("samples", True),
            page=options.get("page", True),
            startup=startup,
        )


def stages_to_train(context: RunContext, stack: contextlib.ExitStack) -> Iterator[Components]:
    """Yield the stages that are not finished; the next one when the one before it is trained.

    `stack` records how the process ends: leave it with the exception that ends it.
    """
    recipe, run, recording = context.recipe, context.run, False
    for stage in recipe.stages:  # before the first one trains, for hours
        if not run.stage(stage.name).is_finished:
            require_mesh_here(stage)
    for index in range(len(recipe.stages)):
        if is_trained(StageSpec(recipe, index), run, context.note):
            continue
        if not recording and coordination.is_primary():
            stack.enter_context(record_process(run, recipe, context.provenance, context.fence, context.stop))
        recording = True
        recipe = with_learned_weights(recipe, index, run)
        yield Components(StageSpec(recipe, index))
    if not recording:
        context.note(describe_finished(run))


@contextlib.contextmanager
def stage_trainer(components: Components, context: RunContext) -> Iterator[Trainer]:
    """Give the trainer of a stage, at its newest valid checkpoint or its start; then write the stage's results.

    Nothing is written where the caller leaves with an exception. Raises Interrupted after a signal.
    """
    begin, peak_before = time.perf_counter(), seconds_of_peak()
    with contextlib.ExitStack() as stack:
        with context.watchdog.pause("preparing"), context.stop.instead(UNPREPARED):
            trainer = _prepare(stack, components, context)
        first_step, seconds_before = trainer.step, trainer.start.seconds
        try:
            yield trainer
        except Interrupted:
            trainer.metric_writer.happened("interrupt", trainer.step, trainer.timer.seconds)
            raise
        times, spec = PhaseTimes(trainer.progress.show_phase), components.spec
        kept = are_kept(components.evaluator.store, components.stage.evaluation.tokens)
        watched = context.watchdog.pause("summarizing")
        with trainer.progress.show_phase("summarizing"), watched, context.stop.instead(TRAINED):
            params = components.evaluated_params(trainer.state.opt_state, trainer.state.params, trainer.step)
            peak = machine_peak(components.stage.model.dtype)
            # Where an earlier process was stopped after the evaluation, process 0 alone has it, from the log.
            results = coordination.run_on_primary(lambda: trainer.metric_writer.last_evaluation)
            summary = summarize(
                components, params, trainer.step, results, peak_flops=peak, samples=context.samples, phase=times.measure
            )
            scored: list[ScoredText] = []
            if context.page:
                with times.measure(PAGES):
                    scored = score_samples(components.evaluator, params)
            # What other shapes take too is estimated by itself, and the peak is measured once on a machine.
            apart = math.fsum(times.seconds.values()) + seconds_of_peak() - peak_before
            wall, spent = time.perf_counter() - begin - apart, trainer.timer.seconds - seconds_before
            if speed := measure_stage(spec, first_step, trainer.step, spent, wall, context.startup):
                summary["speed"] = asdict(speed)
            summary["process_seconds"] = context.startup + time.perf_counter() - begin
            coordination.run_on_primary(lambda: _finish(spec, summary, scored, context, times))
            if coordination.is_primary():
                keep_ending(spec, times.seconds, kept=kept)
        if coordination.is_primary():
            _print_summary(components.stage, summary, context)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What all processes of a run must have in common: versions and the recipe, except for paths."""
    packages = ("jax", "jaxlib", "orbax-checkpoint")
    versions = {"pathways-lite": __version__} | {name: importlib.metadata.version(name) for name in packages}
    stages = {stage.name: _without_paths(stage.model_dump(mode="json")) for stage in recipe.stages}
    return versions | {"seed": recipe.seed} | flatten(stages, "stages")


def _without_paths(node: Any) -> Any:
    """Leave out paths, which may differ between hosts; a resolved recipe has digests of what is there."""
    if isinstance(node, list):
        return [_without_paths(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {name: _without_paths(value) for name, value in node.items() if name not in ("corpus", "path")}


def _prepare(stack: contextlib.ExitStack, components: Components, context: RunContext) -> Trainer:
    """Make the stage's trainer, at its newest valid checkpoint or its start; `stack` closes its services."""
    run, spec, timeline = context.run, components.spec, components.timeline
    directory = run.stage(spec.stage.name)
    checkpoints = stack.enter_context(
        CheckpointManager(directory.checkpoints, keep=checkpoints_to_keep(spec.stage), fence=context.fence)
    )
    steps, tokens = timeline.total_steps, timeline.tokens_before(timeline.total_steps)
    title = node_label(run.path) or f"{run.path.name or spec.recipe.name}/{spec.stage.name}"
    progress = stack.enter_context(Progress(title, total_steps=steps, total_tokens=tokens, console=context.console))
    compiler = StepCompiler(components)
    if (step := coordination.run_on_primary(lambda: checkpoints.newest) or 0) < steps:
        compiler.start(timeline.sequences_at(step), timeline.seq_len_at(step))
    for note in training_notes(spec.store, spec.stage.evaluation.tokens):
        progress.print_note(f"{spec.store.address}: {note}")
    if len(spec.store.domains) > 1 and spec.stage.data.mixture is not None:
        progress.print_note(describe_epochs(spec))
    if timeline.lengths:
        progress.print_note(describe_lengths(timeline))
    for note in filter(None, (*stage_notes(spec), mesh_note(spec.stage, components.layout.sizes))):
        progress.print_note(note)
    with progress.show_phase("preparing"):
        saved = restore_latest(components, checkpoints, report=progress.print_note)
        start = saved or initialize_stage(components, run, context.stop.should_stop)
    if start.inherited.cost_elsewhere == "unknown":
        progress.print_note(f"{spec.stage.name}: {INHERITS_UNKNOWN}")
    position = f"data continues at sequence {start.cursor.sequences_read_by(timeline, start.step):,}"
    if not saved:
        position = describe_data_position(spec, start.cursor.sequences_read)
    progress.print_note(f"{spec.stage.name}: {position}")
    timer = Timer(start.seconds)
    log: RunLog | NullLog = NullLog()
    if coordination.is_primary():
        log = stack.enter_context(RunLog(directory.path, fence=context.fence))
    log.truncate_after(saved.step if saved else -1)
    trackers = open_trackers(context.trackers, directory.path, run=spec.recipe.name, step=start.step)
    for tracker in trackers:
        stack.callback(tracker.close)
    metric_writer = MetricWriter(spec, start, log, trackers, progress)
    if saved:
        checkpoints.delete_after(saved.step)
        progress.print_note(f"resuming {directory.path} at step {saved.step:,} of {steps:,}")
        metric_writer.happened("resume", saved.step, saved.seconds)
        if not metric_writer.mark_lost_rows(saved):
            progress.print_note(
                f"{directory.path / LOG} has lost rows from before step {saved.step:,}: curves and comparisons of this "
                "run have a hole, which an event in the log now marks. To have the rows made again, remove the "
                "checkpoints after the last row and give the same command: training continues from the one before"
            )
    services = TrainerServices(
        compiler,
        checkpoints,
        metric_writer,
        progress,
        timer,
        context.stop,
        context.watchdog,
        context.hooks,
        context.provenance,
    )
    return Trainer(components, run, start, services)


def checkpoints_to_keep(stage: Stage) -> int:
    """Return how many checkpoints to keep: enough to reach back before a spike where the guard may rewind."""
    if stage.guard.policy != "rewind":
        return stage.saving.keep
    # The spike is seen one step late, and the checkpoint may be up to one saving interval before the target step.
    return max(stage.saving.keep, 2 + math.ceil((stage.guard.rewind_steps + 1) / stage.saving.every))


# ---- a finished stage ----


def _finish(
    spec: StageSpec, summary: dict[str, Any], scored: list[ScoredText], context: RunContext, times: PhaseTimes
) -> None:
    """Write the results of a finished stage."""
    context.fence()
    stage, directory = spec.stage, context.run.stage(spec.stage.name)
    if context.page:
        with times.measure(PAGES):
            write_samples_page(directory.path / PAGE_NAME, spec.recipe.name, stage.name, summary["step"], scored)
    directory.write_summary(summary)
    if (speed := parse_speed(summary.get("speed"))) is not None:
        keep_speed(stage, speed)
    if context.page:
        with times.measure(PAGES):
            draw_report(context.run)


def draw_report(run: RunDirectory) -> None:
    """Write the run's page and plots. Matplotlib takes seconds to import; the first step does not wait for it."""
    from pathways_lite.tracking.report import write_pages

    write_pages(run.path)


def _print_summary(stage: Stage, summary: dict[str, Any], context: RunContext) -> None:
    """Print held-out results beside xz, one sample, and the path of the report."""
    run, console = context.run, context.console
    domains = summary["domains"]
    table = Table("held out", "bits per byte", "xz -9", "loss per token", title=f"stage {stage.name}")
    table.caption = held_out_note(domains.values())
    for name, result in domains.items():
        xz = summary["compressors"][name]["xz -9"]
        table.add_row(name, bits_per_byte(result), f"{xz:.4f}", f"{result['loss']:.4f}")
    if domains:
        console.print(table)
    if "denoisers" in summary:
        headers = ("denoiser", "held-out loss", "of text", "of special tokens", "tokens")
        table = Table(*headers, title=f"stage {stage.name}", caption=NOT_COMPARABLE)
        for name, result in summary["denoisers"].items():
            losses = (result.get(key) for key in ("loss", "content_loss", "format_loss"))
            table.add_row(name, *("" if loss is None else f"{loss:.4f}" for loss in losses), f"{result['tokens']:,}")
        console.print(table)
    for sample in summary["samples"][:1]:
        text = Text.assemble(
            "sample (the prompt ends at │): ", (sample["prompt"], "dim"), ("│", "bold"), sample["text"]
        )
        console.print(text)
    if has_current_page(run):
        console.print(f"report: {run.report}")
    elif node_label(run.path) is None:  # a study has a report of its own
        console.print(f"results: {run.path}; to draw its page: pathways-lite report {run.path}")
