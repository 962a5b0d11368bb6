"""The plan of a study: its nodes, their states, their compute and an estimate of their time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.run_directory import RunDirectory
from pathways_lite.studies.store import State, StudyStore
from pathways_lite.studies.study import Node, Study, build_nodes
from pathways_lite.tracking.peak import PEAK_SECONDS
from pathways_lite.training.ending import EstimatedEnding, with_ending
from pathways_lite.training.estimate import estimate_from
from pathways_lite.training.speed import Speed, combine, parse_speed, scaled, stage_program, stage_shape
from pathways_lite.training.stage import StageSpec, stage_timeline


@dataclass(frozen=True)
class Surroundings:
    """What the process of a node takes beside what its speed says, and what it will find."""

    process: float = 0.0  # seconds of its start and end
    ending: EstimatedEnding = field(default_factory=lambda: EstimatedEnding(0.0, 0.0, 0.0))
    is_compiled: bool = False  # the compilation cache has its programs
    missing_peaks: int = 0  # processes that have yet to measure the machine's peak


class Probe(Protocol):
    """Knows how long things take on the machine that trains the nodes."""

    def speeds(self, nodes: Sequence[Node]) -> Mapping[str, tuple[Speed, str]]:
        """Return the speeds of nodes of different shapes and their sources, by shape, of those that are known."""

    def surroundings(self, spec: StageSpec) -> Surroundings:
        """Return what is known of a node's process."""


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
    program: str = ""  # digest of what is compiled
    compiling: float = 0.0  # seconds more where the program is not in the compilation cache, as `seconds_left` has it


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
        slot_free_at, ends, compiled_at = [0.0] * jobs, dict[str, float](), dict[str, float]()
        for identity, planned in self.nodes.items():
            slot = slot_free_at.index(min(slot_free_at))
            start = max(slot_free_at[slot], ends.get(planned.node.parent or "", 0.0))
            # Nodes of one program that start together compile it both.
            compiling = planned.compiling if start < compiled_at.get(planned.program, 0.0) else 0.0
            ends[identity] = start + planned.seconds_left + compiling
            if planned.seconds_left and not planned.compiling:
                compiled_at.setdefault(planned.program, ends[identity])
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

    `probe` is asked for the shapes of nodes that this study has not measured yet; None: such nodes have no time.
    """
    from pathways_lite.training.init_growth import ligo_ledger

    store = study_store(study, out)
    states = store.states()
    speeds = _Speeds(store, probe, [node for identity, node in store.nodes.items() if states[identity] != "done"])
    planned = {}
    for identity, node in store.nodes.items():
        spec = StageSpec(node.recipe, len(node.recipe.stages) - 1)
        timeline, learning = spec.timeline, ligo_ledger(spec).flops
        steps, spent = timeline.flops_before(timeline.total_steps), _ledger(store, identity)
        left = 0 if states[identity] == "done" else steps - spent.flops + (0 if spent.flops else learning)
        if left:
            seconds, compiling, source = speeds.seconds_left(node, spec, spent.steps, left)
        else:
            seconds, compiling, source = 0.0, 0.0, ""
        cost, program = steps + learning, stage_program(node.stage)
        planned[identity] = PlannedNode(
            node, states[identity], timeline, cost, left, seconds, source, program, compiling
        )
    return StudyPlan(study, store, planned)


class _Speeds:
    """The speeds of nodes, by shape: those that this study has measured, then those that the probe finds.

    What happens once, however many nodes there are, is counted for the first of them.
    """

    def __init__(self, store: StudyStore, probe: Probe | None, left: Sequence[Node]) -> None:
        self._probe = probe
        self._found: dict[str, tuple[Speed, str]] = {}
        self._compiled: set[str] = set()  # programs that nodes before have compiled
        self._compressed: set[tuple[str, int]] = set()  # corpora and held-out tokens that nodes before have compressed
        self._peaks: Counter[str] = Counter()  # processes before that have measured the peak, by dtype
        self._flops_per_token: dict[str, float] = {}
        measured: dict[str, list[Speed]] = {}
        for identity, node in store.nodes.items():
            shape = stage_shape(node.stage)
            self._flops_per_token[shape] = stage_timeline(node.stage).flops_per_token
            summary = store.stage_directory(identity).summary or {}
            if (speed := parse_speed(summary.get("speed")) or _ledger_speed(store, identity)) is not None:
                measured.setdefault(shape, []).append(speed)
        for shape, speeds in measured.items():
            # Some nodes compiled, others found in the cache what these had compiled.
            times = [speed.compile for speed in speeds]
            speed = replace(combine(speeds), compile=max(times), cached_compile=min(times))
            self._found[shape] = speed, "measured in this study"
        if probe is not None:
            unmeasured = {stage_shape(node.stage): node for node in reversed(left)}
            nodes = [node for shape, node in unmeasured.items() if shape not in self._found]
            self._found |= probe.speeds(nodes) if nodes else {}

    def seconds_left(self, node: Node, spec: StageSpec, first_step: int, flops_left: int) -> tuple[float, float, str]:
        """Return the seconds that the node's process still takes, and where the estimate comes from.

        Between them: the seconds more that it takes if nodes before have not compiled its program by then.
        """
        if (found := self._speed(node)) is None:
            return math.nan, 0.0, "unknown before a node of the study is done"
        around = self._probe.surroundings(spec) if self._probe is not None else Surroundings()
        (speed, source), ending = found, around.ending
        if (corpus := (spec.store.address, spec.stage.evaluation.tokens)) in self._compressed:
            ending = replace(ending, compressors=0.0)
        self._compressed.add(corpus)
        speed, unknown = with_ending(speed, ending)
        source += f", at least: not measured here yet: {unknown}" if unknown else ""
        # A learning rate is a constant of the program, but a seed is not: see docs/studies.md.
        program, compiling = stage_program(node.stage), 0.0
        cached = around.is_compiled or program in self._compiled
        estimate = estimate_from(spec, speed, source, first_step, cached=cached).seconds.total + around.process
        if cached and not around.is_compiled and speed.cached_compile is not None:
            compiling = max(0.0, speed.compile - speed.cached_compile)
        self._compiled.add(program)
        if self._peaks[dtype := spec.stage.model.dtype] < around.missing_peaks:
            self._peaks[dtype] += 1
            estimate += PEAK_SECONDS
        timeline = spec.timeline
        steps = timeline.flops_before(timeline.total_steps) - timeline.flops_before(first_step)
        # What a start learns, e.g. how to grow, is not in the stage's steps.
        learning = max(0, flops_left - steps) / timeline.flops_per_token * speed.token
        return estimate + learning, compiling, source

    def _speed(self, node: Node) -> tuple[Speed, str] | None:
        shape = stage_shape(node.stage)
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
