"""Delete runs and checkpoints: what would go is planned first, and what is half deleted never looks whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
from pathways_lite.errors import UserError, counted, similar_path
from pathways_lite.run_lock import InUseError, RunLock, find_holder
from pathways_lite.runs.find import (
    DELETED,
    RECIPE,
    directory_bytes,
    find_runs,
    is_output,
    is_study,
    leftovers,
    study_of,
)
from pathways_lite.runs.references import References
from pathways_lite.runs.retention import Rule

_TEMPORARY = ".tmp-"  # prefix of what a killed save or deletion of a checkpoint leaves


@dataclass(frozen=True)
class Deletion:
    """A directory to delete."""

    path: Path
    nbytes: int
    what: str  # "run", "study of 4 runs", "checkpoint", "left of an interrupted deletion"


@dataclass
class Plan:
    """What would be deleted, and what would be kept although a rule does not keep it."""

    deletions: list[Deletion] = field(default_factory=list)
    protected: list[tuple[Path, str]] = field(default_factory=list)  # with the reason
    runs: list[Path] = field(default_factory=list)  # that must not be written to meanwhile

    @property
    def nbytes(self) -> int:
        """Bytes that are freed."""
        return sum(deletion.nbytes for deletion in self.deletions)


# ---- plans ----


def plan_deletion(paths: Sequence[Path], others: Sequence[Path]) -> Plan:
    """Plan to delete runs and studies. `others`: directories of the runs that may refer to them.

    Raises UserError where one is no run, is being written to, or is needed by a run that stays.
    """
    plan, paths = Plan(), _outermost(paths)
    for path in paths:
        if path.name.startswith(DELETED) and path.is_dir() and not path.is_symlink():
            continue  # it is among the leftovers
        plan.runs += _runs_of(path)
        what = f"study of {counted(len(_runs_of(path)), 'run')}" if not (path / RECIPE).is_file() else "run"
        if is_output(path):
            what = "checkpoint of grow, merge or convert"
        plan.deletions.append(Deletion(path, directory_bytes(path), what))
    references = References(_places(paths, others), leaving=[deletion.path for deletion in plan.deletions])
    for run in plan.runs:
        plan.protected += [(run, reason) for reason in references.to_run(run)]
    if plan.protected:
        lines = "\n".join(f"{path}: {reason}" for path, reason in plan.protected)
        raise UserError(
            f"nothing was deleted, as other runs need what would go:\n{lines}\nname them too to delete both"
        )
    for parent in dict.fromkeys(path.absolute().parent for path in paths):
        plan.deletions += [
            _leftover(path)
            for path in leftovers(parent)
            if not any(deletion.path.absolute() in path.absolute().parents for deletion in plan.deletions)
        ]
    return plan


def plan_pruning(paths: Sequence[Path], rules: Sequence[Rule], others: Sequence[Path]) -> Plan:
    """Plan to delete the checkpoints of runs and studies that no rule keeps.

    The newest one of a stage is always kept: training continues from it, and later stages start from it.
    Raises UserError where a path is no run, or a run is being written to.
    """
    plan, paths = Plan(), _outermost(paths)
    for path in paths:
        plan.runs += _runs_of(path)
    references = References(_places(paths, others))
    for run in plan.runs:
        for stage in sorted(one for one in run.iterdir() if one.is_dir() and not one.is_symlink()):
            plan.deletions += [_leftover(path) for path in sorted((stage / "checkpoints").glob(f"{_TEMPORARY}*"))]
            steps = checkpoint_steps(stage / "checkpoints")
            if not steps:
                continue
            kept = {steps[-1]}.union(*(rule.kept(steps, stage) for rule in rules))
            needed = references.to_checkpoints(stage) if kept < set(steps) else {}
            for step in sorted(set(steps) - kept):
                checkpoint = stage / "checkpoints" / checkpoint_name(step)
                if step in needed:
                    plan.protected.append((checkpoint, needed[step][0]))
                else:
                    plan.deletions.append(Deletion(checkpoint, directory_bytes(checkpoint), "checkpoint"))
    return plan


def _leftover(path: Path) -> Deletion:
    return Deletion(path, directory_bytes(path), "left of an interrupted deletion")


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Return the paths once each, without those inside of others; `.` gets its name."""
    named = {path.absolute(): path for path in (path if path.name else path.resolve() for path in paths)}
    return [path for place, path in named.items() if not named.keys() & set(place.parents)]


def _runs_of(path: Path) -> list[Path]:
    """Return the run, or all runs of the study. Raises UserError for anything else, and where one is written to."""
    if path.is_symlink():
        raise UserError(f"{path} is a link to {path.resolve()}; name that, and remove the link yourself")
    if not path.exists():
        raise UserError(f"{path} does not exist; `pathways-lite runs` lists runs{similar_path(path)}")
    if is_output(path):
        if holder := find_holder(path):
            raise UserError(f"nothing was deleted: {path} is being written to ({holder}); wait for it, or end it")
        return [path]
    if not (path / RECIPE).is_file() and not is_study(path):
        hint = f"; name its runs: {path}/..." if find_runs(path) else "; `pathways-lite runs` lists runs"
        raise UserError(f"{path} is neither a run (it has no {RECIPE}) nor a study{hint}")
    runs = [run.path for run in find_runs(path)]
    for run in runs:
        for holder in filter(None, map(find_holder, (run, *_claims(run)))):
            raise UserError(f"nothing was deleted: {run} is being written to ({holder}); wait for it, or end it")
    return runs


def _claims(run: Path) -> list[Path]:
    """Return the directory that the runner of a study holds while it trains a node, if `run` is one."""
    study = study_of(run)
    return [] if study is None else [claim for claim in [study / "claims" / run.name] if claim.is_dir()]


def _places(paths: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """Return where runs that may refer to others are: beside them, in `runs`, and wherever the user says."""
    beside = [(study_of(path) or path).absolute().parent for path in paths]
    return [place for place in dict.fromkeys([*beside, Path("runs").absolute(), *others]) if place.is_dir()]


# ---- carrying them out ----


def carry_out(plan: Plan) -> None:
    """Delete what was planned, with all runs locked. Raises UserError where one is being written to by now.

    A directory is renamed before it is deleted, so that after a kill in between its name is free and what is left is
    no run and no checkpoint any more.
    """
    with _locked(plan.runs):
        for deletion in plan.deletions:
            _delete(deletion)


def _delete(deletion: Deletion) -> None:
    path = deletion.path
    if deletion.what == "checkpoint":
        from pathways_lite.checkpoints.checkpoint import discard

        discard(path)
        return
    if not path.name.startswith((DELETED, _TEMPORARY)):
        target = path.with_name(f"{DELETED}{path.name}-{os.getpid()}")
        path.rename(target)
        path = target
    shutil.rmtree(path)


@contextlib.contextmanager
def _locked(runs: Sequence[Path]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            for run in runs:
                for directory in (run, *_claims(run)):
                    stack.enter_context(RunLock(directory, note=lambda line: None))
        except InUseError as error:
            raise UserError(f"nothing was deleted: {error}") from error
        yield
