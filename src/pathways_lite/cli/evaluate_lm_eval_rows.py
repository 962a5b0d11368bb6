"""Results of lm-evaluation-harness as columns of a table, in the form of our own tasks where its samples allow."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pathways_lite.evaluation.choice_scores import brier, means_json, probabilities

Columns = dict[str, Any]

_SHARE = re.compile(r"acc|acc_\w+|\w+_acc|exact_match|em|f1|pass(@|_at_)[0-9]+")
"""Metrics that are a share of right answers, or like one."""


def count_items(requests: Sequence[Any]) -> int:
    """Return the number of items that the harness' requests are about; a choice is a request."""
    return len({request.doc_id for request in requests})


def requests_digest(requests: Sequence[Any]) -> str:
    """Return the SHA-256 of what is asked, its first 12 digits: results with different ones are not comparable."""
    asked = [[request.request_type, request.doc_id, request.doc, list(request.args)] for request in requests]
    text = json.dumps(asked, sort_keys=True, default=str)
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def task_columns(results: Mapping[str, Any], task: Any) -> Columns:
    """Return a task's results as `evaluation.downstream.summarize` names them, and the harness' own as `lm_eval_NAME`.

    `results`: of `HarnessTasks.run` with samples; `task`: the harness' task. `accuracy` is the harness' `acc`, or else
    its first metric that is a share, such as `exact_match`. Of likelihoods there are `log_p`, `loss`, `p` and
    `brier` of the right answer, and the `chance` of a guess.
    """
    name = task.task_name
    samples = _of_one_filter(results["samples"][name])
    columns: Columns = {"items": len(samples), "shots": results["n-shot"].get(name), "chance": None}
    columns |= _accuracy(results["results"][name])
    scored = [values for sample in samples if (values := _likelihoods(sample, task)) is not None]
    if scored:
        if "chance" in scored[0]:
            columns["chance"] = float(np.mean([values["chance"] for values in scored]))
        by_name = {key: [values[key] for values in scored] for key in scored[0] if key != "chance"}
        columns |= means_json(by_name, range(len(scored)))
    return columns | _own_metrics(results["results"][name])


def _of_one_filter(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the samples once, not for every filter of answers."""
    return [sample for sample in samples if sample["filter"] == samples[0]["filter"]]


def _accuracy(values: Mapping[str, Any]) -> Columns:
    shares = [key for key in _metrics(values) if _SHARE.fullmatch(key.partition(",")[0])]
    named = next((key for key in shares if key.startswith("acc,")), next(iter(shares), None))
    if named is None:
        return {"accuracy": None, "accuracy_se": None}
    return {"accuracy": float(values[named]), "accuracy_se": _error(values, named)}


def _own_metrics(values: Mapping[str, Any]) -> Columns:
    columns: Columns = {}
    for key in _metrics(values):
        metric, _, filtered = key.partition(",")
        name = re.sub(r"\W+", "_", f"lm_eval_{metric}" + ("" if filtered == "none" else f"_{filtered}"))
        columns |= {name: float(values[key]), f"{name}_se": _error(values, key)}
    return columns


def _metrics(values: Mapping[str, Any]) -> list[str]:
    """Return the keys METRIC,FILTER of the metrics among the harness' results, those of errors aside."""
    return [
        key
        for key, value in values.items()
        if "," in key and not key.partition(",")[0].endswith("_stderr") and isinstance(value, int | float)
    ]


def _error(values: Mapping[str, Any], key: str) -> float | None:
    metric, _, filtered = key.partition(",")
    error = values.get(f"{metric}_stderr,{filtered}")
    return float(error) if isinstance(error, int | float) else None


def _likelihoods(sample: Mapping[str, Any], task: Any) -> dict[str, float] | None:
    """Return the scores of the right answer of an item; None where the harness has none."""
    kind, arguments, responses = task.OUTPUT_TYPE, sample["arguments"], sample["resps"]
    if kind == "loglikelihood_rolling":
        return {"loss": -_nats(responses[0]) / _bytes(arguments[0][0])}
    if kind == "loglikelihood":
        nats = _nats(responses[0])
        p = np.array([np.exp(nats), -np.expm1(nats)])
        return _of_answer(nats, arguments[0][1], p, 0) | {"chance": 0.0}
    if kind != "multiple_choice":
        return None
    choices = task.doc_to_choice(sample["doc"])
    # The harness may ask for the choices without a context too, after these.
    logp = np.array([_nats(each) for each in responses[: len(choices)]])
    right = [place for place in _right_places(sample, task, choices) if 0 <= place < len(choices)]
    if not right:
        return None
    best = max(right, key=lambda place: float(logp[place]))  # of several right answers the likeliest
    scores = _of_answer(float(logp[best]), arguments[best][1], probabilities(logp), best)
    return scores | {"chance": len(right) / len(choices)}


def _of_answer(nats: float, text: str, p: np.ndarray, right: int) -> dict[str, float]:
    return {"log_p": nats, "loss": -nats / _bytes(text), "p": float(p[right]), "brier": brier(p, right)}


def _right_places(sample: Mapping[str, Any], task: Any, choices: Sequence[str]) -> list[int]:
    """Return the places of the right choices, as the harness reads them."""
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    if isinstance(gold, str):
        return [choices.index(gold)] if gold in choices else []
    return [int(place) for place in (gold if isinstance(gold, list) else [gold])]


def _nats(responses: Any) -> float:
    """Return the nats of a request's first response: a number, or one with whether decoding would write it."""
    first = responses[0]
    return float(first[0] if isinstance(first, tuple | list) else first)


def _bytes(text: str) -> int:
    return max(len(text.encode()), 1)
