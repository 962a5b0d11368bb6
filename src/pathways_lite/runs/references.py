"""What refers to the checkpoints of a run: recipes of other runs, links of studies' nodes, and studies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.checkpoint_names import checkpoint_name, checkpoint_steps
from pathways_lite.run_directory import read_study_index
from pathways_lite.run_history import last_start, read_history
from pathways_lite.runs.find import RECIPE, FoundRun, find_runs, study_of


@dataclass(frozen=True)
class Reference:
    """A checkpoint that the recipe of a run names: to start from, to merge, or as a reference model."""

    run: Path
    places: tuple[Path, ...]  # absolute; where the path may have led when the run was started, and where it leads now
    digest: str | None  # of the checkpoint's arrays; None where the recipe is not resolved

    def __str__(self) -> str:
        return f"{self.run} needs it: its recipe names it"


def references_of(run: Path) -> list[Reference]:
    """Return the checkpoints that a run's recipe names by a path, also where this version cannot read the recipe."""
    try:
        recipe = json.loads((run / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    start = last_start(read_history(run)) or {}
    folders = [Path(str(start["directory"]))] if start.get("directory") else []
    folders += [Path.cwd()]
    references = []
    for node in _nodes_with_path(recipe):
        path = Path(node["path"]).expanduser()
        places = tuple(dict.fromkeys((folder / path).resolve() for folder in folders))
        digest = node.get("digest")
        references.append(Reference(run, places, digest if isinstance(digest, str) else None))
    return references


def _nodes_with_path(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects in a recipe that name a checkpoint: they have a path and a place for its digest."""
    if isinstance(node, list):
        for item in node:
            yield from _nodes_with_path(item)
    elif isinstance(node, dict):
        if isinstance(node.get("path"), str) and node["path"] and "digest" in node:
            yield node
        for value in node.values():
            yield from _nodes_with_path(value)


class References:
    """All references from the runs at or below `directories`, except from the runs `leaving`, which will be deleted."""

    def __init__(self, directories: Iterable[Path], leaving: Iterable[Path] = ()) -> None:
        gone = {path.resolve() for path in leaving}
        runs: dict[Path, FoundRun] = {}
        for directory in directories:
            for run in find_runs(directory):
                place = run.path.resolve()
                if place not in gone and not gone & set(place.parents):
                    runs.setdefault(place, run)
        self._runs = [run.path for run in runs.values()]
        self._references = [reference for run in self._runs for reference in references_of(run)]
        self._links: dict[Path, list[str]] = {}  # who has a link in place of a stage, by the stage's directory
        for run_path in self._runs:
            for link in filter(Path.is_symlink, run_path.iterdir()):
                reason = f"{run_path} needs it: its stage {link.name} is a link to it"
                self._links.setdefault(link.resolve(), []).append(reason)

    def to_run(self, run: Path) -> list[str]:
        """Return who needs anything of a run, or of a checkpoint made by grow or merge, a sentence each."""
        reasons = self._from_studies(run)
        reasons += [reason for step_reasons in self._to_steps(run).values() for reason in step_reasons]
        for stage in _stage_directories(run):
            reasons += [reason for step_reasons in self.to_checkpoints(stage).values() for reason in step_reasons]
            reasons += self._links.get(stage.resolve(), [])
        return list(dict.fromkeys(reasons))

    def to_checkpoints(self, stage: Path) -> dict[int, list[str]]:
        """Return who needs which checkpoint of a stage's directory, by step."""
        found = self._to_steps(stage / "checkpoints")
        links = self._links.get(stage.resolve(), [])
        for step in checkpoint_steps(stage / "checkpoints")[-1:] if links else ():
            found[step] = found.get(step, []) + links  # a stage after a link starts from the last checkpoint
        return found

    def _to_steps(self, directory: Path) -> dict[int, list[str]]:
        """Return the runs whose recipes name checkpoints of a directory, by step."""
        found: dict[int, list[str]] = {}
        steps = checkpoint_steps(directory)
        for step in steps if self._references else ():
            path = directory / checkpoint_name(step)
            digest = _digest(path)
            for reference in self._references:
                if reference.run.resolve() in path.resolve().parents:
                    continue
                known = reference.digest is not None and digest is not None
                if reference.digest == digest if known else _leads_to(reference, path):
                    found.setdefault(step, []).append(str(reference))
        return found

    def _from_studies(self, run: Path) -> list[str]:
        study = study_of(run)
        if study is None or run.resolve().name not in read_study_index(study):
            return []
        if not any(study.resolve() in other.resolve().parents for other in self._runs):
            return []  # the whole study is deleted
        return [f"the study {study} needs it; to delete the whole study, name {study}"]


def _leads_to(reference: Reference, checkpoint: Path) -> bool:
    """Return whether the reference's path is the checkpoint, or its stage or run."""
    place = checkpoint.resolve()
    return any(path == place or path in place.parents for path in reference.places)


def _digest(checkpoint: Path) -> str | None:
    """Return the digest of a checkpoint's arrays; None where its manifest is damaged."""
    from pathways_lite.checkpoints import DamagedError, read_manifest

    try:
        return read_manifest(checkpoint).digest
    except DamagedError:
        return None


def _stage_directories(run: Path) -> list[Path]:
    """Return the directories of the stages that the run trained itself."""
    return sorted(path for path in run.iterdir() if path.is_dir() and not path.is_symlink())
