"""The directory of a study: its nodes and their states.

OUT/
    report.html, results.csv, figures/  the report
    study.json             the arms of every node (see `index`)
    nodes/HASH/            the run directory of one node; earlier stages are links to their own nodes
        output.txt         the output of its processes
        failure.json       how the last process ended, if it failed
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
from pathways_lite.run_lock import find_holder
from pathways_lite.studies.study import Node, node_chain

State = Literal["done", "running", "failed", "stopped", "ready", "waiting", "held up"]
"""held up: waiting for a node that has failed or is held up itself."""

_TAIL_LINES = 30  # lines


@dataclass(frozen=True)
class Failure:
    """How a node's process ended."""

    status: int
    ended: float  # seconds since the epoch
    tail: str  # the end of its output

    @property
    def reason(self) -> str:
        """The reason in a few words; the last error or line of output if the process ended by itself."""
        if self.status < 0:
            return f"killed by signal {-self.status}"
        lines = [line for line in self.tail.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return f"exit status {self.status}" + (f": {(errors or lines)[-1].strip()}" if lines else "")


@dataclass(frozen=True)
class StudyStore:
    """The nodes of a study below one directory."""

    path: Path
    nodes: Mapping[str, Node]

    def run_directory(self, identity: str) -> RunDirectory:
        """The node's run directory."""
        return RunDirectory(self.path / "nodes" / identity)

    def claim_directory(self, identity: str) -> Path:
        """The directory that a runner locks while it trains the node."""
        return self.path / "claims" / identity

    def output_path(self, identity: str) -> Path:
        """The file with the output of all of the node's processes."""
        return self.run_directory(identity).path / "output.txt"

    def stage_directory(self, identity: str) -> StageDirectory:
        """The directory of the node's own stage."""
        run = self.run_directory(identity)
        return run.stage((_read_recipe(run, identity) or self.nodes[identity].recipe).stages[-1].name)

    def prepare(self, identity: str) -> RunDirectory:
        """Write the node's recipe, link the earlier stages (trained or not), and return the run directory."""
        *ancestors, node = node_chain(self.nodes, identity)
        run = self.run_directory(identity)
        run.path.mkdir(parents=True, exist_ok=True)
        # Names are not part of an identity: directories keep the names that they were created with.
        earlier_recipe = _read_recipe(run, identity) or node.recipe
        pairs = zip(node.recipe.stages, earlier_recipe.stages, strict=True)
        stages = tuple(stage.model_copy(update={"name": earlier.name}) for stage, earlier in pairs)
        write_recipe(node.recipe.model_copy(update={"stages": stages}), run.recipe_path)
        for stage, ancestor in zip(stages, ancestors, strict=False):
            run.stage(stage.name).link_to(self.stage_directory(ancestor.identity))
        return run

    # ---- states ----

    def states(self) -> dict[str, State]:
        """Return the current state of every node by its files and locks."""
        states: dict[str, State] = {}
        for identity, node in self.nodes.items():  # parents come first
            parent = states[node.parent] if node.parent else "done"
            states[identity] = self._own_state(identity, parent)
        return states

    def _own_state(self, identity: str, parent: State) -> State:
        if self.stage_directory(identity).is_finished:
            return "done"
        if find_holder(self.run_directory(identity).path) is not None:
            return "running"
        if parent in ("failed", "held up"):
            return "held up"
        if parent != "done":
            return "waiting"
        if self.failure(identity) is not None:
            return "failed"
        return "stopped" if self.stage_directory(identity).path.exists() else "ready"

    def finished_runs(self) -> list[Path]:
        """Return the run directories of finished runs: of nodes that are done and the last stage of a recipe."""
        states = self.states()
        return [
            self.run_directory(identity).path
            for identity, node in self.nodes.items()
            if node.is_last and states[identity] == "done"
        ]

    def failure(self, identity: str) -> Failure | None:
        """Return how the node's last process failed; None if it did not, or has not run."""
        content = _read_json(self.run_directory(identity).path / "failure.json")
        try:
            return Failure(**content) if content else None
        except TypeError:  # written by something else
            return None

    def record_failure(self, identity: str, status: int) -> Failure:
        """Record that the node's process failed with this exit status."""
        failure = Failure(status, time.time(), read_tail(self.output_path(identity)))
        write_json(self.run_directory(identity).path / "failure.json", vars(failure))
        return failure

    def clear_failure(self, identity: str) -> None:
        """Remove the record of the last failure."""
        (self.run_directory(identity).path / "failure.json").unlink(missing_ok=True)


def read_tail(path: Path, lines: int = _TAIL_LINES) -> str:
    """Return the last lines of a text file; empty if it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _read_recipe(run: RunDirectory, identity: str) -> Recipe | None:
    """Read the recipe in the directory; None if it is not the node's."""
    try:
        recipe = run.recipe()
    except UserError:
        return None
    return recipe if stage_identity(recipe, len(recipe.stages) - 1) == identity else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or one that a power cut has emptied
        return None
