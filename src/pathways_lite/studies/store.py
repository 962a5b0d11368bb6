"""Where a study keeps its nodes, and what state each is in.

OUT/
    report.html, figures/  for people
    nodes/HASH/            the run directory of one node: the stages before it are links to their own nodes
        output.txt         what its processes have said
        failure.json       how the last one ended, where it failed
    claims/HASH/           held by the runner that trains the node
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pathways_lite.errors import UserError
from pathways_lite.recipe import Recipe, stage_identity, write_recipe
from pathways_lite.run_directory import RunDirectory, StageDirectory, write_json
from pathways_lite.run_lock import holder
from pathways_lite.studies.study import Node, node_chain

State = Literal["done", "running", "failed", "stopped", "ready", "waiting", "held up"]
"""held up: waiting for a node that has failed, or for one that is held up itself."""

_TAIL_LINES = 30  # lines


@dataclass(frozen=True)
class Failure:
    """How a node's process ended."""

    status: int
    ended: float  # seconds since the epoch
    tail: str  # the end of what it said

    @property
    def reason(self) -> str:
        """In a few words: its last line, where it ended by itself."""
        if self.status < 0:
            return f"killed by signal {-self.status}"
        said = [line for line in self.tail.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("error: ")]
        return f"exit status {self.status}" + (f": {(errors or said)[-1].strip()}" if said else "")


@dataclass(frozen=True)
class StudyStore:
    """The nodes of a study below one directory."""

    path: Path
    nodes: Mapping[str, Node]

    def run(self, identity: str) -> RunDirectory:
        """The node's run directory."""
        return RunDirectory(self.path / "nodes" / identity)

    def claim(self, identity: str) -> Path:
        """The directory that a runner locks while it trains the node."""
        return self.path / "claims" / identity

    def output(self, identity: str) -> Path:
        """The file of all that the node's processes said."""
        return self.run(identity).path / "output.txt"

    def stage(self, identity: str) -> StageDirectory:
        """The folder of the node's own stage."""
        run = self.run(identity)
        return run.stage((_read_recipe(run, identity) or self.nodes[identity].recipe).stages[-1].name)

    def prepare(self, identity: str) -> RunDirectory:
        """Write the node's recipe and link the stages before it, which need not be trained yet."""
        *before, node = node_chain(self.nodes, identity)
        run = self.run(identity)
        run.path.mkdir(parents=True, exist_ok=True)
        # Names are no part of an identity: what the folders were called first, they stay.
        known = _read_recipe(run, identity) or node.recipe
        named = zip(node.recipe.stages, known.stages, strict=True)
        stages = tuple(stage.model_copy(update={"name": old.name}) for stage, old in named)
        write_recipe(node.recipe.model_copy(update={"stages": stages}), run.recipe_path)
        for stage, ancestor in zip(stages, before, strict=False):
            run.stage(stage.name).link_to(self.stage(ancestor.identity))
        return run

    # ---- states ----

    def states(self) -> dict[str, State]:
        """The state of every node, as its files and locks say now."""
        states: dict[str, State] = {}
        for identity, node in self.nodes.items():  # parents come first
            parent = states[node.parent] if node.parent else "done"
            states[identity] = self._own_state(identity, parent)
        return states

    def _own_state(self, identity: str, parent: State) -> State:
        if self.stage(identity).finished:
            return "done"
        if holder(self.run(identity).path) is not None:
            return "running"
        if parent in ("failed", "held up"):
            return "held up"
        if parent != "done":
            return "waiting"
        if self.failure(identity) is not None:
            return "failed"
        return "stopped" if self.stage(identity).path.exists() else "ready"

    def failure(self, identity: str) -> Failure | None:
        """How the node's last process failed; None where it did not, or has not run."""
        found = _read_json(self.run(identity).path / "failure.json")
        return Failure(**found) if found else None

    def record_failure(self, identity: str, status: int) -> Failure:
        failure = Failure(status, time.time(), read_tail(self.output(identity)))
        write_json(self.run(identity).path / "failure.json", vars(failure))
        return failure

    def clear_failure(self, identity: str) -> None:
        (self.run(identity).path / "failure.json").unlink(missing_ok=True)


def read_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """The last lines of a text file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _read_recipe(run: RunDirectory, identity: str) -> Recipe | None:
    """The recipe in the directory, if it is the node's."""
    try:
        recipe = run.recipe()
    except UserError:
        return None
    return recipe if stage_identity(recipe, len(recipe.stages) - 1) == identity else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
