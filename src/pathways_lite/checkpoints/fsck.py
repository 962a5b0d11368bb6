"""Are the checkpoints of a run what was written?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pathways_lite.checkpoints.checkpoint import DamagedError, step_of, verify_arrays
from pathways_lite.errors import UserError


@dataclass(frozen=True)
class Finding:
    """What one checkpoint is like. Its text is one line, or one more for every problem."""

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


def verify_checkpoint(path: Path) -> Finding:
    """Read all of one checkpoint and compare it with its digests. Processes share the work, and must all ask."""
    try:
        manifest = verify_arrays(path)
    except DamagedError as error:
        return Finding(path, error.problems)
    return Finding(path, arrays=len(manifest.arrays), nbytes=manifest.nbytes)


def checkpoint_paths(directory: Path | str) -> list[Path]:
    """The checkpoint `directory` itself, or all below a stage's or a run's directory, the newest last.

    Steps ascend within a stage; stages follow each other as they were written. Raises UserError when there is none.
    """
    directory = Path(directory)
    if step_of(directory) is not None and directory.is_dir():
        return [directory]
    found = [path for path in directory.rglob("step_*") if step_of(path) is not None]
    if not found:
        raise UserError(f"there is no checkpoint in {directory}; expected a run, a stage or a checkpoint directory")
    written = {
        parent: max(path.stat().st_mtime_ns for path in found if path.parent == parent)
        for parent in {path.parent for path in found}
    }
    return sorted(found, key=lambda path: (written[path.parent], path.parent, step_of(path)))


def fsck(directory: Path | str) -> list[Finding]:
    """Examine every checkpoint of a run, a stage, or one checkpoint. Raises UserError when there is none."""
    return [verify_checkpoint(path) for path in checkpoint_paths(directory)]
