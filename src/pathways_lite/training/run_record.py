"""What a run directory keeps about the processes that train in it, and that a refused start leaves nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from pathways_lite.checkpoint_names import checkpoint_steps
from pathways_lite.distributed.stopping import Stop
from pathways_lite.errors import LostRunError, UserError, explain_system_error
from pathways_lite.provenance import Provenance, gather_provenance
from pathways_lite.recipe import Recipe
from pathways_lite.run_directory import RunDirectory
from pathways_lite.run_history import RunHistory
from pathways_lite.signals import Interrupted
from pathways_lite.tracking.log import LOG, read_log
from pathways_lite.training.stage import stage_timeline


def current_provenance(source: Path | None = None) -> Provenance:
    """Gather the provenance of this process; `source`: the recipe's file or directory (default: working directory)."""
    device = jax.devices()[0]
    devices = {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
        "processes": jax.process_count(),
    }
    return gather_provenance(source or Path.cwd(), devices)


@contextlib.contextmanager
def record_process(
    run: RunDirectory,
    recipe: Recipe,
    provenance: Mapping[str, Any],
    fence: Callable[[], None],
    stop: Stop,
) -> Iterator[None]:
    """Record in the run's history that training starts, and how it ends; only the primary process may call it."""
    history = RunHistory(run.path, fence)
    history.add_start(provenance)
    try:
        yield
    except Interrupted:
        history.add_end(stop.exit_status, *position(run, recipe))
        raise
    except LostRunError:  # the directory is another process's now
        raise
    except Exception as error:
        explained = explain_system_error(error)
        reason = str(explained) if explained else f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError, UserError):  # the disk may be full, which the error says
            history.add_end(explained.status if explained else 1, *position(run, recipe), reason.strip())
        raise
    history.add_end(0, *position(run, recipe))


def position(run: RunDirectory, recipe: Recipe) -> tuple[str, int]:
    """Return the first stage that is not finished (or the last one) and the step of its newest checkpoint, 0 if none.

    That is where the same command continues.
    """
    names = [stage.name for stage in recipe.stages]
    name = next((name for name in names if not run.stage(name).is_finished), names[-1])
    return name, max(checkpoint_steps(run.stage(name).checkpoints), default=0)


def describe_stop(run: RunDirectory, recipe: Recipe) -> str:
    """Say after a signal which step is saved, and how to continue."""
    name, step = position(run, recipe)
    total = stage_timeline(next(stage for stage in recipe.stages if stage.name == name)).total_steps
    if not step:
        return (
            f"Stopped before a step of stage {name!r} was saved ({run.path}). The same command starts that stage again."
        )
    return (
        f"Stopped at step {step:,} of {total:,} of stage {name!r} ({run.path}). The same command continues from there."
    )


def describe_finished(run: RunDirectory) -> str:
    """Say that nothing is left to train, and where the results are."""
    page = f"its page: {run.report}" if has_current_page(run) else f"`pathways-lite report {run.path}` writes its page"
    longer = f"to train longer: pathways-lite train {run.path} --extend '10 %'"
    return f"{run.path} is finished: nothing is left to train; {page}; {longer}"


def has_current_page(run: RunDirectory) -> bool:
    """Return whether the run has a page that was drawn after its last stage was finished."""
    try:
        drawn = run.report.stat().st_mtime_ns
    except OSError:
        return False
    return all(summary.stat().st_mtime_ns <= drawn for summary in run.path.glob("*/summary.json"))


# ---- refused starts ----


@contextlib.contextmanager
def removed_if_refused(path: Path, first_made: Path | None) -> Iterator[None]:
    """Remove the run directory `path` where the run is refused before anything of it was trained.

    `first_made`: the highest directory that was made for it (see `missing_directory`); None where it was there before,
    and then nothing is removed. Enter it with the run locked.
    """
    try:
        yield
    except LostRunError:
        raise
    except UserError:
        if first_made is not None and not _has_begun(path):
            shutil.rmtree(path, ignore_errors=True)
            for parent in path.parents:
                if not parent.is_relative_to(first_made):
                    break
                with contextlib.suppress(OSError):  # another run has been made in it
                    parent.rmdir()
        raise


def missing_directory(path: Path) -> Path | None:
    """Return the highest directory of `path` that does not exist, None if all of them do."""
    return next((folder for folder in [*reversed(path.parents), path] if not folder.exists()), None)


def _has_begun(path: Path) -> bool:
    """Return whether anything was trained: a log has a step, or a checkpoint is there."""
    return any(stage_has_begun(stage) for stage in path.glob("*/"))


def stage_has_begun(stage: Path) -> bool:
    """Return whether anything of the stage in a directory was trained: its log has a step, or a checkpoint is there.

    A link to the stage of another run counts, trained or not.
    """
    if stage.is_symlink() or any((stage / "checkpoints").glob("step_*")):
        return True
    return any(row["kind"] == "train" for row in read_log(stage / LOG))  # last, as a log may be long
