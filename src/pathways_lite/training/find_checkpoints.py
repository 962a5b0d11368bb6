"""Find the newest valid checkpoints at or below a directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pathways_lite.checkpoints import checkpoint_paths, verify_checkpoint
from pathways_lite.data.listing import is_token_store
from pathways_lite.distributed import coordination
from pathways_lite.errors import UserError, counted
from pathways_lite.paths import local_path
from pathways_lite.run_directory import RunDirectory, study_hint

_ATTEMPTS = 5  # to find checkpoints in the directory of a run that is training


def newest_checkpoints(
    path: str | Path, count: int, *, examined: bool = True, report: Callable[[str], None] | None = None
) -> list[Path]:
    """Find the newest `count` valid checkpoints of one stage, the newest first; of a run, of its last stage with any.

    All processes must call this; each verifies a part of the files. Raises UserError where there are fewer, and, where
    `report` is None, where a newer one is damaged; otherwise `report` is told so.
    """
    if not str(path):
        raise UserError("a checkpoint is needed: name a checkpoint, stage or run directory")
    for _ in range(_ATTEMPTS):
        valid: list[Path] = []
        problems: list[str] = []
        replaced = False  # by a run that is training, since they were listed
        for candidate in map(Path, coordination.run_on_primary(lambda: checkpoints_below(local_path(path)))):
            if valid and candidate.parent != valid[0].parent:
                break
            if not examined or (finding := verify_checkpoint(candidate, companions=False)).ok:
                valid.append(candidate)
                if len(valid) == count:
                    _tell_passed_over(problems, valid, report)
                    return valid
            elif coordination.run_on_primary(candidate.is_dir):
                problems.append(str(finding))
            else:
                replaced = True
        if not replaced:
            break
    summary = (
        f"{path} has {counted(len(valid), 'checkpoint')}, not {count}" if valid else f"no checkpoint in {path} is whole"
    )
    raise UserError("\n".join([f"{summary}:" if problems else summary, *problems]))


def _tell_passed_over(problems: Sequence[str], valid: Sequence[Path], report: Callable[[str], None] | None) -> None:
    """Report damaged checkpoints that are newer than some of the `valid` ones, or raise UserError."""
    if not problems:
        return
    damaged = "\n".join(problems)
    if report is None:
        names = ", ".join(map(str, valid))
        raise UserError(f"{damaged}\nOlder ones are whole: to use them all the same, name them ({names})")
    if coordination.is_primary():
        report(f"{damaged}\n{valid[-1]} is used instead")


def checkpoints_below(path: Path) -> list[str]:
    """List all checkpoints at or below `path`, the newest first. Raises UserError where there is none."""
    if is_token_store(path):
        raise UserError(
            f"{path} is a corpus, not a run or a checkpoint; a corpus is shown by: pathways-lite data inspect {path}"
        )
    if hint := study_hint(path):
        raise UserError(hint)
    run = RunDirectory(path)
    directories = [path]
    if run.recipe_path.is_file():
        stages = [run.stage(stage.name).checkpoints for stage in run.recipe().stages]
        directories = [stage for stage in reversed(stages) if stage.is_dir()] or directories
    return [str(candidate) for directory in directories for candidate in reversed(checkpoint_paths(directory))]
