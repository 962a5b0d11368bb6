"""Find run directories, those of studies included, and what is left of interrupted deletions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.checkpoint_names import checkpoint_steps
from pathways_lite.run_directory import NODES, read_study_index, study_node

RECIPE = "recipe.json"
DELETED = ".deleted-"
"""Prefix of the name of a directory that is being deleted; it is no run any more."""


@dataclass(frozen=True)
class FoundRun:
    """A run directory; of a node of a study, also what the study's index says about it."""

    path: Path
    study: Path | None = None
    arms: tuple[str, ...] = ()  # that contain the node; empty where the study has no index

    @property
    def arm(self) -> str:
        """The arm for people: `palm`, `palm, llama` where two share the node, or how many do."""
        return ", ".join(self.arms) if len(self.arms) <= 2 else f"{len(self.arms)} arms"


def find_runs(path: Path) -> list[FoundRun]:
    """Return the runs at or directly below `path`, and those of studies there; a study's together, the newest last."""
    if (path / RECIPE).is_file():
        return [_found(path)]
    groups: dict[Path, list[Path]] = {}
    for pattern in (f"*/{RECIPE}", f"{NODES}/*/{RECIPE}", f"*/{NODES}/*/{RECIPE}"):
        for recipe in path.glob(pattern):
            run = recipe.parent
            if not any(part.startswith(".") for part in run.relative_to(path).parts):
                groups.setdefault(study_of(run) or run, []).append(run)
    ordered = sorted(groups.values(), key=lambda runs: max(map(_time, runs)))
    return [_found(run) for runs in ordered for run in sorted(runs, key=lambda run: (_time(run), run.name))]


def find_outputs(path: Path) -> list[Path]:
    """Return the checkpoints of grow, merge and convert at or directly below `path`, the newest last."""
    if not path.is_dir():
        return []
    places = [path] if is_output(path) else [place for place in path.iterdir() if not place.name.startswith(".")]
    return sorted((place for place in places if is_output(place)), key=lambda place: (place.stat().st_mtime, place))


def is_output(path: Path) -> bool:
    """Return whether a directory is what grow, merge or convert wrote: a checkpoint, and no run or stage."""
    in_run = path.name == "checkpoints" or any((folder / RECIPE).is_file() for folder in (path, path.absolute().parent))
    return path.is_dir() and not in_run and bool(checkpoint_steps(path))


def study_of(run: Path) -> Path | None:
    """Return the directory of the study that a run is a node of; None for any other run."""
    folder = Path(os.path.abspath(run)).parent  # noqa: PTH100 (links stay)
    return run.parent.parent if folder.name == NODES and run.parent.name == NODES else None


def is_study(path: Path) -> bool:
    """Return whether a directory is that of a study: it has nodes, or an index of them."""
    return any((path / NODES).glob(f"*/{RECIPE}")) or bool(read_study_index(path))


def leftovers(path: Path) -> list[Path]:
    """Return what interrupted deletions left in a directory and in the studies there."""
    found: set[Path] = set()
    for pattern in (f"{DELETED}*", f"*/{DELETED}*", f"{NODES}/{DELETED}*", f"*/{NODES}/{DELETED}*"):
        found |= {one for one in path.glob(pattern) if one.is_dir() and not one.is_symlink()}
    return sorted(found)


def directory_bytes(path: Path) -> int:
    """Return the bytes of all files in a directory; links are not followed, files that vanish meanwhile not counted."""
    return sum(_file_sizes(path))


def _file_sizes(path: Path) -> Iterator[int]:
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _file_sizes(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue


def _found(run: Path) -> FoundRun:
    arms = study_node(run).get("arms", [])
    return FoundRun(run, study_of(run), tuple(map(str, arms)) if isinstance(arms, list) else ())


def _time(run: Path) -> float:
    try:
        return (run / RECIPE).stat().st_mtime
    except OSError:
        return 0.0
