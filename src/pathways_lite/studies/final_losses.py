"""Final held-out losses of a study's runs, and differences between arms with errors over seeds and over documents.

They are of the last checkpoints, as `study evaluate` has scored them, and compare finished runs whatever these cost. As
JSON (`study report --results DIRECTORY`) they are what pages and tools read; the file has:

    study, question, file, baseline, domain   of the study; the domain is the one of its metric, null for all text
    checkpoints, hours, flops                 finished recipes, hours of their processes, FLOPs computed, of the study
    documents                                 by domain, the tokens of every held-out document
    arms                                      by name: parameters (at the end), tokens and flops (of a run, its
                                              ancestors included), losses (by domain, by seed) and nats (by domain, of
                                              every document, the mean over seeds)
    measures                                  numbers of `evaluate --infilling`, of arms: value, difference, intervals
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pathways_lite.atomic_file import write_text_atomically
from pathways_lite.comparison.bootstrap import holm, ratio_interval, student_t_interval, student_t_p_value
from pathways_lite.comparison.table import format_signed
from pathways_lite.intervals import LEVEL, Interval
from pathways_lite.json_values import to_json_types
from pathways_lite.studies.measures import DOCUMENTS, Measured, read_evaluation
from pathways_lite.studies.plan import StudyPlan


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write the file, with a line for each list of numbers."""
    text = json.dumps(to_json_types(results), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    lists_on_a_line = re.sub(r"\[[^\[\]{}]*\]", lambda match: json.dumps(json.loads(match[0])), text)
    write_text_atomically(path, lists_on_a_line + "\n", shared=True)


@dataclass(frozen=True)
class FinalDifference:
    """An arm's final loss minus another's, in nats per token."""

    arm: str
    against: str
    seeds: int  # pairs
    over_seeds: Interval  # Student's t
    p_value: float | None
    documents: int
    over_documents: Interval  # of the mean over the same seeds; Student's t over documents

    @property
    def is_decided(self) -> bool:
        """Whether zero is outside both intervals."""
        return all(
            interval.has_limits and (interval.low > 0 or interval.high < 0)
            for interval in (self.over_seeds, self.over_documents)
        )


def gather_results(plan: StudyPlan, file: Path | str, measured: Sequence[Measured] = ()) -> dict[str, Any]:
    """Return the content of the file, described above, of all runs that were evaluated on the same documents."""
    study, store = plan.study, plan.store
    last = {label: identity for identity, node in store.nodes.items() for label in node.is_last}
    labels = iter(study.recipes)
    documents: dict[str, list[int]] = {}
    arms: dict[str, dict[str, Any]] = {}
    for arm, recipes in study.arms.items():
        by_seed: dict[int, dict[str, Any]] = {}
        identities = {recipe.seed: last[next(labels)] for recipe in recipes}
        for seed, identity in identities.items():
            scores = read_evaluation(store, identity).get(DOCUMENTS, {})
            sizes = {domain: values["tokens"] for domain, values in scores.items()}
            if scores and (documents or sizes) == sizes:
                documents = sizes
                by_seed[seed] = {domain: np.array(values["nll"]) for domain, values in scores.items()}
        if by_seed:
            arms[arm] = _arm_json(plan, identities[next(iter(by_seed))], by_seed, documents)
    stages = [store.stage_directory(identity).ledger for identity in plan.nodes]
    seconds = [sum(ledger["stage"]["seconds"].values()) for ledger in stages if ledger and "stage" in ledger]
    return {
        "study": study.name,
        "question": study.question,
        "file": str(file),
        "baseline": study.baseline,
        "domain": study.metric.domain,
        "checkpoints": sum(len(arm["seeds"]) for arm in arms.values()),
        "hours": round(sum(seconds) / 3600, 2),
        "flops": sum(planned.flops for planned in plan.nodes.values()),
        "documents": documents,
        "arms": arms,
        "measures": [_measure_json(m) for m in measured],
    }


def _arm_json(
    plan: StudyPlan, identity: str, by_seed: Mapping[int, Mapping[str, np.ndarray]], documents: Mapping[str, list[int]]
) -> dict[str, Any]:
    total = (plan.store.stage_directory(identity).ledger or {})["total"]  # a finished stage has one
    return {
        "seeds": list(by_seed),
        "parameters": plan.nodes[identity].timeline.active_parameters_at(plan.nodes[identity].timeline.total_steps),
        "tokens": total["tokens"],
        "flops": total["flops"],
        "losses": {
            domain: {str(seed): float(nats[domain].sum() / sum(sizes)) for seed, nats in by_seed.items()}
            for domain, sizes in documents.items()
        },
        "nats": {
            domain: [round(float(v), 3) for v in np.mean([nats[domain] for nats in by_seed.values()], axis=0)]
            for domain in documents
        },
    }


def _measure_json(m: Measured) -> dict[str, Any]:
    def limits(interval: Interval | None) -> list[float] | None:
        return None if interval is None else [interval.value, interval.low, interval.high]

    names = {"measure": m.measure, "arm": m.arm, "baseline": m.baseline, "seeds": m.runs}
    return {**names, "value": limits(m.value), "difference": limits(m.difference), "p": m.p_value}


# ---- what follows from the file ----


def final_loss(results: Mapping[str, Any], arm: str, domain: str | None = None) -> dict[str, float]:
    """Return an arm's loss in nats per token by seed, on one domain's text or, for None, on all."""
    losses, sizes = results["arms"][arm]["losses"], {name: sum(n) for name, n in results["documents"].items()}
    domains = [domain] if domain else list(sizes)
    tokens = sum(sizes[name] for name in domains)
    return {
        seed: sum(losses[name][seed] * sizes[name] for name in domains) / tokens
        for seed in map(str, results["arms"][arm]["seeds"])
    }


def final_difference(
    results: Mapping[str, Any], arm: str, against: str, domain: str | None = None
) -> FinalDifference | None:
    """Compare two arms on one domain's text or, for None, on all; None where no seed is in both.

    The interval over documents is of the means over all seeds of each arm.
    """
    own, other = final_loss(results, arm, domain), final_loss(results, against, domain)
    if not (both := [seed for seed in own if seed in other]):
        return None
    differences = np.array([own[seed] - other[seed] for seed in both])
    domains = [domain] if domain else list(results["documents"])
    nats, other_nats = (np.concatenate([results["arms"][name]["nats"][d] for d in domains]) for name in (arm, against))
    sizes = np.concatenate([results["documents"][d] for d in domains])
    over_documents = ratio_interval(nats - other_nats, sizes.astype(float))
    over_seeds, p_value = student_t_interval(differences), student_t_p_value(differences)
    return FinalDifference(arm, against, len(both), over_seeds, p_value, len(sizes), over_documents)


def final_differences(results: Mapping[str, Any]) -> list[tuple[FinalDifference, float | None]]:
    """Compare every arm with the baseline, in the study's domain; each with its p-value after Holm's correction."""
    baseline = results["baseline"]
    if baseline not in results["arms"]:
        return []
    found = [final_difference(results, arm, baseline, results["domain"]) for arm in results["arms"] if arm != baseline]
    compared = [difference for difference in found if difference is not None]
    return list(zip(compared, holm([c.p_value for c in compared]), strict=True))


def final_sentences(results: Mapping[str, Any]) -> list[str]:
    """State every arm's final difference from the baseline with both errors."""
    where = f" on {results['domain']}" if results["domain"] else ""
    sentences = []
    for d, corrected in final_differences(results):
        p = "" if corrected is None else f", p = {corrected:.2g} after Holm's correction"
        sentences.append(
            f"{d.arm} ends {format_signed(d.over_seeds)} from {d.against}{where} over {d.seeds} seeds{p}; "
            f"{format_signed(d.over_documents)} over {d.documents} held-out documents ({LEVEL:.0%} intervals)."
        )
    return sentences
