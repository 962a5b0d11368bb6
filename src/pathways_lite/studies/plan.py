"""The plan of a study: its nodes, their states, their compute and an estimate of their time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.run_directory import RunDirectory
from pathways_lite.studies.store import State, StudyStore
from pathways_lite.studies.study import Node, Study, build_nodes
from pathways_lite.training.estimate import estimate_from
from pathways_lite.training.speed import Speed, combine, parse_speed, scaled, stage_shape
from pathways_lite.training.stage import StageSpec, stage_timeline

Probe = Callable[[Node], tuple[Speed, str] | None]
"""Returns the speed of a node on this machine and its source; None where it cannot be found out."""


@dataclass(frozen=True)
class PlannedNode:
    """One node with its cost."""

    node: Node
    state: State
    timeline: Timeline
    flops: int  # of the whole stage, learning to grow included
    flops_left: int  # after its newest checkpoint
    seconds_left: float  # of the node's process, what it does besides training included; NaN if unknown
    speed_source: str  # where the seconds come from


@dataclass(frozen=True)
class StudyPlan:
    """A resolved study, its store and its planned nodes."""

    study: Study
    store: StudyStore
    nodes: dict[str, PlannedNode]  # parents before children

    def seconds_left(self, jobs: int = 1) -> float:
        """Estimate the seconds until all is trained, `jobs` nodes at a time; no node starts before its parent ends.

        NaN if they are unknown.
        """
        if any(math.isnan(planned.seconds_left) for planned in self.nodes.values()):
            return math.nan
        slot_free_at, ends = [0.0] * jobs, dict[str, float]()
        for identity, planned in self.nodes.items():
            slot = slot_free_at.index(min(slot_free_at))
            start = max(slot_free_at[slot], ends.get(planned.node.parent or "", 0.0))
            ends[identity] = start + planned.seconds_left
            if planned.seconds_left:
                slot_free_at[slot] = ends[identity]
        return max(ends.values(), default=0.0)


def resolve_study(study: Study, out: Path | None = None) -> Study:
    """Record corpora and checkpoints of all recipes by content. Raises UserError if a recipe cannot run.

    `out`: the study's directory; a corpus that finished nodes there have read need not be there any more.
    """
    from pathways_lite.training.resolve import finished_stages, resolve_recipe

    nodes = sorted(path.parent for path in (out / "nodes").glob("*/recipe.json")) if out is not None else []
    finished = finished_stages(RunDirectory(path) for path in nodes)
    arms = {
        name: tuple(resolve_recipe(recipe, finished=finished) for recipe in recipes)
        for name, recipes in study.arms.items()
    }
    return study.model_copy(update={"arms": arms})


def study_store(study: Study, out: Path) -> StudyStore:
    """Return the store of a resolved study in the directory `out`."""
    return StudyStore(out, build_nodes(study.recipes))


def plan_study(study: Study, out: Path, probe: Probe | None = None) -> StudyPlan:
    """Plan a resolved study.

    `probe` is asked once for each shape of node that this study has not measured yet; None: such nodes have no time.
    """
    from pathways_lite.training.init_growth import ligo_ledger

    store = study_store(study, out)
    states = store.states()
    speeds = _Speeds(store, probe)
    planned = {}
    for identity, node in store.nodes.items():
        spec = StageSpec(node.recipe, len(node.recipe.stages) - 1)
        timeline, learning = spec.timeline, ligo_ledger(spec).flops
        steps, spent = timeline.flops_before(timeline.total_steps), _ledger(store, identity)
        left = 0 if states[identity] == "done" else steps - spent.flops + (0 if spent.flops else learning)
        seconds, source = speeds.seconds_left(node, spec, spent.steps, left) if left else (0.0, "")
        planned[identity] = PlannedNode(node, states[identity], timeline, steps + learning, left, seconds, source)
    return StudyPlan(study, store, planned)


class _Speeds:
    """The speeds of nodes, by shape: those that this study has measured, then those that the probe finds."""

    def __init__(self, store: StudyStore, probe: Probe | None) -> None:
        self._probe = probe
        self._found: dict[str, tuple[Speed, str]] = {}
        self._tried: set[str] = set()
        self._compiled: set[str] = set()  # programs that nodes before have compiled
        self._flops_per_token: dict[str, float] = {}
        measured: dict[str, list[Speed]] = {}
        for identity, node in store.nodes.items():
            shape = stage_shape(node.stage)
            self._flops_per_token[shape] = stage_timeline(node.stage).flops_per_token
            summary = store.stage_directory(identity).summary or {}
            if (speed := parse_speed(summary.get("speed")) or _ledger_speed(store, identity)) is not None:
                measured.setdefault(shape, []).append(speed)
        for shape, speeds in measured.items():
            self._found[shape] = combine(speeds), "measured in this study"

    def seconds_left(self, node: Node, spec: StageSpec, first_step: int, flops_left: int) -> tuple[float, str]:
        """Return the seconds that the node's process still takes, and where the estimate comes from."""
        if (found := self._speed(node)) is None:
            return math.nan, "unknown before a node of the study is done"
        speed, source = found
        # A learning rate is a constant of the program, but a seed is not: see docs/studies.md.
        program = json.dumps([stage_shape(node.stage), node.stage.optimizer.model_dump(mode="json")], sort_keys=True)
        estimate = estimate_from(spec, speed, source, first_step, cached=program in self._compiled).seconds.total
        self._compiled.add(program)
        timeline = spec.timeline
        steps = timeline.flops_before(timeline.total_steps) - timeline.flops_before(first_step)
        # What a start learns, e.g. how to grow, is not in the stage's steps.
        return estimate + max(0, flops_left - steps) / timeline.flops_per_token * speed.token, source

    def _speed(self, node: Node) -> tuple[Speed, str] | None:
        shape = stage_shape(node.stage)
        if shape not in self._found and shape not in self._tried and self._probe is not None:
            self._tried.add(shape)
            if (probed := self._probe(node)) is not None:
                self._found[shape] = probed
        if shape in self._found:
            return self._found[shape]
        if not self._found:
            return None
        # The shape whose tokens cost most like this one's; time in proportion to FLOPs.
        cost = self._flops_per_token[shape]
        nearest = min(self._found, key=lambda other: abs(math.log(self._flops_per_token[other] / cost)))
        return scaled(self._found[nearest][0], cost / self._flops_per_token[nearest]), "scaled from another shape"


def _ledger_speed(store: StudyStore, identity: str) -> Speed | None:
    """Return the speed of a node that is not done, or whose summary has none, from its ledger: all time is training."""
    ledger = _ledger(store, identity)
    if not (ledger.tokens and ledger.seconds.total):
        return None
    return Speed(ledger.seconds.total / ledger.tokens, None, None, 0.0, 0.0, None)


def _ledger(store: StudyStore, identity: str) -> Ledger:
    """Return what the node's stage had spent at its newest checkpoint."""
    ledgers: Mapping[str, dict] | None = store.stage_directory(identity).ledger
    return Ledger.from_json(ledgers["stage"]) if ledgers else Ledger()
