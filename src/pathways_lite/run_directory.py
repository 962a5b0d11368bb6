"""Layout of a run directory. The only module that knows the file names.

runs/NAME/
    recipe.json            the resolved recipe
    history.jsonl          who started training here, with what, and how it ended (see `run_history`)
    report.html, loss.png  for people
    STAGE/                 one folder per stage
        checkpoints/       one folder per saved step
        log.jsonl          reproducible rows; a resumed run's file is byte-identical
        timings.jsonl      wall-clock rows
        ledger.json        the accounts of the stage and of the chain so far
        summary.json       final evaluation, samples, environment; written when the stage is finished
        tokens.html        held-out text, each token colored by its loss
        tensorboard/       event files

A stage's folder may be a link to the folder of the same stage in another run, where it is trained once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.checkpoint_names import checkpoint_steps
from pathways_lite.errors import UserError, similar_path
from pathways_lite.json_values import restore_floats, to_json_types
from pathways_lite.recipe import Recipe, read_recipe

STUDY_INDEX, NODES = "study.json", "nodes"
"""In the directory of a study: the file that names its nodes, and the folder with the runs of all."""


def write_json(path: Path, content: Any) -> None:
    """Write standard JSON atomically: a reader sees the old file or the new one, never half of one."""
    try:
        write_text_atomically(path, json.dumps(to_json_types(content), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free some space, or write elsewhere") from error


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is no file, or it is damaged (empty after a power cut)."""
    try:
        content = restore_floats(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content else None


def study_facts(study: Path) -> dict[str, Any]:
    """Return what the index of a study says (see `studies.index`); {} without an index (of an earlier version)."""
    return _read_object(study / STUDY_INDEX) or {}


def study_hint(path: Path) -> str:
    """Say what to type where a study's directory is named in the place of a run; "" for any other directory."""
    nodes = sorted((path / NODES).glob("*/recipe.json"))
    if (path / "recipe.json").is_file() or not (nodes or read_study_index(path)):
        return ""
    name = study_facts(path).get("study", path.name)
    runs = f", and a run of it is e.g. {nodes[0].parent}" if nodes else ""
    return (
        f"{path} is the directory of the study {name!r}: `pathways-lite study report {path}` compares its arms, "
        f"`pathways-lite runs {path}` lists its runs{runs}"
    )


def read_study_index(study: Path) -> dict[str, dict[str, Any]]:
    """Return the nodes by identity as the index of a study has them; {} without an index (of an earlier version)."""
    nodes = study_facts(study).get("nodes")
    return {key: node for key, node in nodes.items() if isinstance(node, dict)} if isinstance(nodes, dict) else {}


def study_node(run: Path) -> dict[str, Any]:
    """Return what the index of a study says of a run that is one of its nodes; {} for any other run."""
    run = run.absolute()
    return read_study_index(run.parent.parent).get(run.name, {}) if run.parent.name == NODES else {}


def node_label(run: Path) -> str | None:
    """Return what a study calls a run that is one of its nodes, e.g. `palm/0 trunk`; None for any other run.

    The study's index says it; the directory's own name is a hash.
    """
    label = study_node(run).get("label")
    return label if isinstance(label, str) and label else None


@dataclass(frozen=True)
class StageDirectory:
    """The folder of one stage."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def is_finished(self) -> bool:
        """True if the stage is trained to its end: its summary is there and can be read."""
        return self.summary is not None

    @property
    def link_target(self) -> Path | None:
        """The run that trains the stage, if the folder is a link to another run; else None."""
        return self.path.resolve().parent if self.path.is_symlink() else None

    def link_to(self, other: StageDirectory) -> None:
        """Link this folder to `other`. The link is relative, so that both can be moved together."""
        target = os.path.relpath(other.path.absolute(), self.path.parent.absolute())
        if not (self.path.is_symlink() and str(self.path.readlink()) == target):
            self.path.unlink(missing_ok=True)
            self.path.symlink_to(target, target_is_directory=True)

    @property
    def ledger(self) -> dict[str, Any] | None:
        """`{"stage": ..., "total": ...}` as `Ledger.to_json` wrote them; None before the first save."""
        return _read_object(self.path / "ledger.json")

    def write_ledger(self, content: dict[str, Any]) -> None:
        write_json(self.path / "ledger.json", content)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results of a finished stage; None before it is finished, or where the file is damaged."""
        return _read_object(self.summary_path)

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    def write_summary(self, content: dict[str, Any]) -> None:
        write_json(self.summary_path, content)


@dataclass(frozen=True)
class RunDirectory:
    """The folder of one run."""

    path: Path

    @property
    def recipe_path(self) -> Path:
        return self.path / "recipe.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def recipe(self) -> Recipe:
        """Return the resolved recipe. Raises UserError if this is not a run directory."""
        if not self.recipe_path.is_file() and checkpoint_steps(self.path):
            raise UserError(
                f"{self.path} holds a checkpoint of grow, merge or convert, and is no run; to train from it, "
                f'write a stage with start=Restore(path="{self.path}")'
            )
        if not self.recipe_path.is_file():
            raise UserError(
                study_hint(self.path)
                or f"{self.path} is not a run directory: it has no recipe.json; `pathways-lite runs` lists runs"
                f"{similar_path(self.path)}"
            )
        return read_recipe(self.recipe_path)

    def stage(self, name: str) -> StageDirectory:
        return StageDirectory(self.path / name)
