"""The plan of a study: its nodes, their states, their compute and an estimate of their time."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.studies.store import State, StudyStore
from pathways_lite.studies.study import Node, Study, build_nodes

# The share that small models reach on CPUs (docs/results/foundation.md: 0.33 to 0.53 of the fastest matrix product).
ASSUMED_SHARE_OF_PEAK = 0.4


@dataclass(frozen=True)
class PlannedNode:
    """One node with its cost."""

    node: Node
    state: State
    timeline: Timeline
    flops: int  # of the whole stage, learning to grow included
    flops_left: int  # after its newest checkpoint
    seconds_left: float
    speed_source: str  # where the seconds come from


@dataclass(frozen=True)
class StudyPlan:
    """A resolved study, its store and its planned nodes."""

    study: Study
    store: StudyStore
    nodes: dict[str, PlannedNode]  # parents before children

    def seconds_left(self, jobs: int = 1) -> float:
        """Estimate the seconds until all is trained, `jobs` nodes at a time; no node starts before its parent ends."""
        slot_free_at, ends = [0.0] * jobs, dict[str, float]()
        for identity, planned in self.nodes.items():
            slot = slot_free_at.index(min(slot_free_at))
            start = max(slot_free_at[slot], ends.get(planned.node.parent or "", 0.0))
            ends[identity] = start + planned.seconds_left
            if planned.seconds_left:
                slot_free_at[slot] = ends[identity]
        return max(ends.values(), default=0.0)


def resolve_study(study: Study) -> Study:
    """Record corpora and checkpoints of all recipes by content. Raises UserError if a recipe cannot run."""
    from pathways_lite.training.resolve import resolve_recipe

    arms = {name: tuple(resolve_recipe(recipe) for recipe in recipes) for name, recipes in study.arms.items()}
    return study.model_copy(update={"arms": arms})


def study_store(study: Study, out: Path) -> StudyStore:
    """Return the store of a resolved study in the directory `out`."""
    return StudyStore(out, build_nodes(study.recipes))


def plan_study(study: Study, out: Path, machine_flops: Callable[[str], float]) -> StudyPlan:
    """Plan a resolved study.

    `machine_flops(dtype)` returns the machine's peak FLOP/s; it is called only if no node has been measured.
    """
    from pathways_lite.training.init_growth import ligo_ledger
    from pathways_lite.training.stage import StageSpec

    store = study_store(study, out)
    states = store.states()
    paces = _SpeedEstimates(store, machine_flops)
    planned = {}
    for identity, node in store.nodes.items():
        spec = StageSpec(node.recipe, len(node.recipe.stages) - 1)
        timeline, learning = spec.timeline, ligo_ledger(spec).flops
        steps, spent = timeline.flops_before(timeline.total_steps), _ledger(store, identity).flops
        left = 0 if states[identity] == "done" else steps - spent + (0 if spent else learning)
        speed, pace = paces.flops_per_second(node) if left else (1.0, "")
        planned[identity] = PlannedNode(node, states[identity], timeline, steps + learning, left, left / speed, pace)
    return StudyPlan(study, store, planned)


class _SpeedEstimates:
    """Estimates of the FLOP/s of nodes, with compiling, evaluating and saving included: the best known for each."""

    def __init__(self, store: StudyStore, machine_flops: Callable[[str], float]) -> None:
        self._machine_flops = machine_flops
        self._measured: dict[tuple[object, ...], list[float]] = {}
        for identity, node in store.nodes.items():
            ledger = _ledger(store, identity)
            if ledger.flops and ledger.seconds.total:
                self._measured.setdefault(_speed_key(node), []).append(ledger.flops / ledger.seconds.total)

    def flops_per_second(self, node: Node) -> tuple[float, str]:
        """Return FLOP/s, and where the estimate comes from."""
        if same := self._measured.get(_speed_key(node)):
            return statistics.median(same), "measured"
        if others := [speed for speeds in self._measured.values() for speed in speeds]:
            return statistics.median(others), "measured on another shape"
        peak = self._machine_flops(node.stage.model.dtype)
        return ASSUMED_SHARE_OF_PEAK * peak, f"assumed: {ASSUMED_SHARE_OF_PEAK:.0%} of this machine's peak"


def _speed_key(node: Node) -> tuple[object, ...]:
    """Return what the speed of training depends on most."""
    return (node.stage.model, node.stage.data.seq_len, node.stage.ramp)


def _ledger(store: StudyStore, identity: str) -> Ledger:
    """Return what the node's stage had spent at its newest checkpoint."""
    ledgers: Mapping[str, dict] | None = store.stage_directory(identity).ledger
    return Ledger.from_json(ledgers["stage"]) if ledgers else Ledger()
