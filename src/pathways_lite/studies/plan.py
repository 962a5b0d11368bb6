"""What a study would do: its nodes, what of them exists, their compute, and about how long they take."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathways_lite.ledger import Ledger, Timeline
from pathways_lite.studies.store import State, StudyStore
from pathways_lite.studies.study import Node, Study, build_nodes

# What small models reach on CPUs (docs/results/foundation.md: 0.33 to 0.53 of the fastest matrix product).
ASSUMED_SHARE_OF_PEAK = 0.4


@dataclass(frozen=True)
class PlannedNode:
    """One node with its cost."""

    node: Node
    state: State
    timeline: Timeline
    flops: int  # of the whole stage, learning to grow included
    flops_left: int  # beyond its newest save
    seconds_left: float
    pace: str  # where the seconds come from


@dataclass(frozen=True)
class StudyPlan:
    """A study, resolved, with where it is kept."""

    study: Study
    store: StudyStore
    nodes: dict[str, PlannedNode]  # parents before children

    def seconds_left(self, jobs: int = 1) -> float:
        """Until all is trained by `jobs` at a time, at the pace of the plan; no node begins before its parent ends."""
        free, ends = [0.0] * jobs, dict[str, float]()
        for identity, planned in self.nodes.items():
            slot = free.index(min(free))
            begin = max(free[slot], ends.get(planned.node.parent or "", 0.0))
            ends[identity] = begin + planned.seconds_left
            if planned.seconds_left:
                free[slot] = ends[identity]
        return max(ends.values(), default=0.0)


def resolve_study(study: Study) -> Study:
    """The study with corpora and checkpoints recorded by content. Raises UserError where a recipe cannot run."""
    from pathways_lite.training.references import resolve_recipe

    arms = {name: tuple(resolve_recipe(recipe) for recipe in recipes) for name, recipes in study.arms.items()}
    return study.model_copy(update={"arms": arms})


def store_of(study: Study, out: Path) -> StudyStore:
    """The nodes of a resolved study, kept below `out`."""
    return StudyStore(out, build_nodes(study.recipes))


def plan_study(study: Study, out: Path, machine_flops: Callable[[str], float]) -> StudyPlan:
    """The plan of a resolved study. `machine_flops(dtype)` is the machine's peak FLOP/s, asked only where nothing
    has been measured.
    """
    from pathways_lite.training.init_growth import learning_ledger
    from pathways_lite.training.setup import Setup

    store = store_of(study, out)
    states = store.states()
    paces = _SpeedEstimates(store, machine_flops)
    planned = {}
    for identity, node in store.nodes.items():
        setup = Setup(node.recipe, len(node.recipe.stages) - 1)
        timeline, learning = setup.timeline, learning_ledger(setup).flops
        steps, spent = timeline.flops_before(timeline.total_steps), _ledger(store, identity).flops
        left = 0 if states[identity] == "done" else steps - spent + (0 if spent else learning)
        speed, pace = paces.flops_per_second(node) if left else (1.0, "")
        planned[identity] = PlannedNode(node, states[identity], timeline, steps + learning, left, left / speed, pace)
    return StudyPlan(study, store, planned)


class _SpeedEstimates:
    """FLOP/s that nodes make, everything included (compiling, evaluating, saving), the best known figure for each."""

    def __init__(self, store: StudyStore, machine_flops: Callable[[str], float]) -> None:
        self._machine_flops = machine_flops
        self._measured: dict[tuple[object, ...], list[float]] = {}
        for identity, node in store.nodes.items():
            ledger = _ledger(store, identity)
            if ledger.flops and ledger.seconds.total:
                self._measured.setdefault(_speed_key(node), []).append(ledger.flops / ledger.seconds.total)

    def flops_per_second(self, node: Node) -> tuple[float, str]:
        """FLOP/s, and where they come from."""
        if same := self._measured.get(_speed_key(node)):
            return statistics.median(same), "measured"
        if others := [speed for speeds in self._measured.values() for speed in speeds]:
            return statistics.median(others), "measured on another shape"
        peak = self._machine_flops(node.stage.model.dtype)
        return ASSUMED_SHARE_OF_PEAK * peak, f"assumed: {ASSUMED_SHARE_OF_PEAK:.0%} of this machine's peak"


def _speed_key(node: Node) -> tuple[object, ...]:
    """What the speed of training depends on most."""
    return (node.stage.model, node.stage.data.seq_len, node.stage.ramp)


def _ledger(store: StudyStore, identity: str) -> Ledger:
    """What the node's stage has spent, as of its newest save."""
    found: Mapping[str, dict] | None = store.stage(identity).ledger
    return Ledger.from_json(found["stage"]) if found else Ledger()
