"""Check all checkpoints of a run for damage: the command `pathways-lite fsck`.

`checkpoint.py` describes the three layers of verification.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathways_lite.checkpoints.checkpoint import step_of, verify_content
from pathways_lite.checkpoints.manifest import FILE_NAME, DamagedError
from pathways_lite.errors import UserError, similar_path
from pathways_lite.paths import absolute_path, local_path


@dataclass(frozen=True)
class Finding:
    """The result for one checkpoint. Its text is one line, and one more for every problem."""

    path: Path
    problems: tuple[str, ...] = ()
    arrays: int = 0
    nbytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.ok:
            return f"ok       {self.path}  {self.arrays} arrays, {self.nbytes / 1e6:,.1f} MB"
        return "\n  ".join([f"damaged  {self.path}", *self.problems])


def verify_checkpoint(path: Path, *, companions: bool = True) -> Finding:
    """Read a whole checkpoint and compare it with its digests. The processes share the work; all must call it.

    `companions`: also the files beside the arrays, without which the arrays can be restored.
    """
    try:
        manifest = verify_content(path, companions=companions)
    except DamagedError as error:
        return Finding(path, error.problems)
    return Finding(path, arrays=len(manifest.arrays), nbytes=manifest.nbytes)


def checkpoint_paths(directory: Path | str) -> list[Path]:
    """Return the checkpoint `directory` itself, whatever its name, or all below a stage's or a run's, the newest last.

    Steps ascend within a stage; stages are in the order in which they were written. Raises UserError if there is none.
    """
    directory = local_path(directory)
    for checkpoint in (directory, Path(absolute_path(directory))):  # `.` and links have other names
        if checkpoint.is_dir() and (step_of(checkpoint) is not None or (checkpoint / FILE_NAME).is_file()):
            return [checkpoint]
    paths = [path for path in directory.rglob("step_*") if step_of(path) is not None]
    if not paths:
        if directory.suffix == ".py" and directory.is_file():
            command = "study run" if "def study(" in directory.read_text(errors="replace") else "train"
            raise UserError(
                f"{directory} is a Python file, and a run is wanted: give the directory of the run that `pathways-lite "
                f"{command} {directory}` makes, in runs/ by default"
            )
        expected = "expected a run, a stage or a checkpoint directory"
        raise UserError(f"there is no checkpoint in {directory}; {expected}{similar_path(directory)}")
    last_written = {
        stage: max(_time_written(path) for path in paths if path.parent == stage)
        for stage in {path.parent for path in paths}
    }
    return sorted(paths, key=lambda path: (last_written[path.parent], path.parent, step_of(path)))


def _time_written(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:  # the run that is training there has just deleted it
        return 0


def fsck(directory: Path | str) -> list[Finding]:
    """Verify one checkpoint, or every checkpoint of a stage or a run. Raises UserError if there is none."""
    return [verify_checkpoint(path) for path in checkpoint_paths(directory)]
