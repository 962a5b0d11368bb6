"""Measures of a study: numbers of `evaluate --infilling` on final checkpoints, and whether they meet its criterion.

The numbers of a node are in the `evaluation.json` of its run directory, with the number of held-out tokens and the
checkpoint that they are of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.comparison.bootstrap import holm, student_t_interval, student_t_p_value
from pathways_lite.comparison.table import format_signed
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.run_directory import write_json
from pathways_lite.studies.store import StudyStore
from pathways_lite.studies.study import Claim, Study

EVALUATION = "evaluation.json"
DOCUMENTS = "documents"  # by domain, the nats and tokens of every held-out document


def evaluate_study(store: StudyStore, tokens: int | None, report: Callable[[str], None], *, infilling: bool) -> int:
    """Evaluate the final checkpoint of every finished recipe, except what was evaluated on as many tokens before.

    `tokens`: held-out tokens per domain; None: those of the node's recipe. `report` is told which node is next.
    `infilling`: also as `evaluate --infilling` does. Returns how many nodes were evaluated.
    """
    from pathways_lite.training.final_evaluation import infilling_json
    from pathways_lite.training.load import load_model

    states = store.states()
    due = []
    for identity, node in store.nodes.items():
        earlier = read_evaluation(store, identity)
        is_complete = DOCUMENTS in earlier and (not infilling or "infilling" in earlier)
        is_known = is_complete and earlier.get("requested_tokens") == tokens
        if node.is_last and states[identity] == "done" and not is_known:
            due.append(identity)
    for number, identity in enumerate(due, 1):
        report(f"{number}/{len(due)}: {store.nodes[identity].label}")
        model = load_model(store.stage_directory(identity).path)
        evaluator, params = model.evaluator(tokens=tokens), model.params()
        by_document = evaluator.evaluate_documents(params)
        values = {
            "requested_tokens": tokens,
            "checkpoint": model.path.name,
            "domains": {name: sum(losses[1:], losses[0]).to_json() for name, losses in by_document.items()},
            DOCUMENTS: {
                name: {"nll": [loss.nll for loss in losses], "tokens": [loss.tokens for loss in losses]}
                for name, losses in by_document.items()
            },
        }
        extra = infilling_json(evaluator, params) if infilling else {}
        write_json(store.run_directory(identity).path / EVALUATION, values | extra)
    return len(due)


def read_evaluation(store: StudyStore, identity: str) -> dict[str, Any]:
    """Return what `evaluate_study` has written of a node; empty if nothing."""
    return _read(store.run_directory(identity).path / EVALUATION)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or one that a power cut has emptied
        return {}
    return content if isinstance(content, dict) else {}


def find_number(values: Mapping[str, Any], measure: str) -> float:
    """Return the number at a dotted path; NaN if it is not there."""
    value: Any = values
    for key in measure.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


@dataclass(frozen=True)
class Measured:
    """A measure of an arm over its seeds."""

    arm: str
    baseline: str
    measure: str
    runs: int
    value: Interval  # mean and Student's t interval
    difference: Interval | None  # from the baseline, over the seeds that both have; None for a baseline
    p_value: float | None = None  # of no difference, by the same t

    def decide(self, claim: Claim) -> bool | None:
        """Return whether the claim holds; None where its bound is within the interval, or there is no interval."""
        interval = self.difference if claim.compared else self.value
        if interval is None or not interval.has_limits:
            return None
        return True if interval.high < claim.below else False if interval.low >= claim.below else None


def read_measures(study: Study, store: StudyStore) -> list[Measured]:
    """Return every measure of every arm that has been evaluated, arm by arm."""
    last = {label: identity for identity, node in store.nodes.items() for label in node.is_last}
    labels = iter(study.recipes)
    values: dict[str, dict[int, dict[str, Any]]] = {}
    for arm, recipes in study.arms.items():
        paths = {recipe.seed: store.run_directory(last[next(labels)]).path / EVALUATION for recipe in recipes}
        values[arm] = {seed: content for seed, path in paths.items() if (content := _read(path))}
    return [
        measured
        for arm in study.arms
        for measure in study.measured
        if (measured := _measure(study, arm, measure, values)).runs
    ]


def _measure(study: Study, arm: str, measure: str, values: Mapping[str, Mapping[int, dict[str, Any]]]) -> Measured:
    baseline = study.baseline_of(arm)
    own, other = (
        {seed: number for seed, v in values[name].items() if not math.isnan(number := find_number(v, measure))}
        for name in (arm, baseline)
    )
    both = [seed for seed in own if seed in other]
    difference, p_value = None, None
    if arm != baseline and both:
        differences = np.array([own[seed] - other[seed] for seed in both])
        difference, p_value = student_t_interval(differences), student_t_p_value(differences)
    value = student_t_interval(np.array(list(own.values()))) if own else Interval(math.nan)
    return Measured(arm, baseline, measure, len(own), value, difference, p_value)


def corrected_sentence(measured: Sequence[Measured]) -> str:
    """Say which differences remain after Holm's correction for their number; empty for fewer than two."""
    corrected = holm([m.p_value for m in measured])
    tested = [(m, p) for m, p in zip(measured, corrected, strict=True) if p is not None]
    if len(tested) < 2:
        return ""
    remain = ", ".join(f"{m.measure} of {m.arm} (p = {p:.2g})" for m, p in tested if p < 1 - LEVEL) or "none"
    return f"Of {len(tested)} differences, these are not zero after Holm's correction: {remain}."


def criterion_sentences(study: Study, measured: list[Measured]) -> list[str]:
    """State for every arm that has been evaluated, except baselines, whether the criterion is met."""
    by_name = {(m.arm, m.measure): m for m in measured}
    sentences = []
    for arm in study.arms:
        numbers = [by_name.get((arm, claim.measure)) for claim in study.criterion]
        if not study.criterion or study.baseline_of(arm) == arm or not any(numbers):
            continue
        decided = [None if m is None else m.decide(c) for m, c in zip(numbers, study.criterion, strict=True)]
        verdict = "is met" if all(decided) else "is not met" if False in decided else "cannot be decided"
        details = [_describe(m, c) for m, c in zip(numbers, study.criterion, strict=True)]
        sentences.append(
            f"{arm}: the criterion {verdict}: {'; '.join(details)} ({LEVEL:.0%} intervals by Student's t)."
        )
    return sentences


def _describe(measured: Measured | None, claim: Claim) -> str:
    bound = f"required below {claim.below:+g}"
    if measured is None:
        return f"{claim.measure} was not measured, {bound}"
    if not claim.compared:
        return f"{claim.measure} is {format_signed(measured.value)}, {bound}"
    amount = "unknown" if measured.difference is None else format_signed(measured.difference)
    return f"{claim.measure} differs from {measured.baseline} by {amount}, {bound}"
