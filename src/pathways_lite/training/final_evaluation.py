"""Summarize a finished stage: the final evaluation, compressors to compare it with, and samples."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import numpy as np

from pathways_lite.data.reserved_tokens import reserved_ids
from pathways_lite.evaluation.as_trained import AS_TRAINED, score_as_trained
from pathways_lite.evaluation.compressors import held_out_compression
from pathways_lite.evaluation.generation import Writer
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.evaluation.infilling import score_continuations, score_gaps
from pathways_lite.evaluation.openers import BEST, openers, score_openers, summarize_openers
from pathways_lite.evaluation.paired import GapScores
from pathways_lite.evaluation.token_scores import model_score
from pathways_lite.models.accounting import parameter_count
from pathways_lite.objectives.denoisers import count_needed_sentinels, infilling_denoiser
from pathways_lite.objectives.prompts import PromptFormat
from pathways_lite.recipe import Objective, SpanCorruption
from pathways_lite.sampling import Sampling
from pathways_lite.training.components import Components
from pathways_lite.training.ending import COMPRESSING, SAMPLING
from pathways_lite.version import __version__

PROMPT_TOKENS = 16
SAMPLE_TOKENS = 128
TEMPERATURE = 0.8
_SAMPLE_ROWS = 8  # written at the same time

_OPTIONAL_RESULTS = ("denoisers", "tasks", "average_domains", "average_denoisers", "average_tasks")


def summarize(
    components: Components,
    params: Any,
    step: int,
    evaluation: dict[str, Any],
    *,
    peak_flops: float | None,
    samples: bool = True,
    phase: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Any]:
    """Return the content of summary.json (`tracking.run_data` lists it).

    `step`: the last one; `evaluation`: the held-out results after it. Without `samples` none are generated: their
    programs take seconds to compile. `phase` is entered with the name of every slow part.
    """
    model, timeline, evaluator = components.stage.model, components.timeline, components.evaluator
    with phase(COMPRESSING):
        budget = components.stage.evaluation.tokens
        compressors = held_out_compression(evaluator.store, evaluator.documents, budget)
    continuations: list[dict[str, Any]] = []
    if samples:
        with phase(SAMPLING):
            continuations = sample_continuations(evaluator, params)
    return {
        "step": step,
        "identity": components.spec.identity,
        "model": {
            "parameters": parameter_count(model),
            "non_embedding_parameters": parameter_count(model, embedding=False),
            "flops_per_token": timeline.flops_per_token,
        },
        "domains": evaluation["domains"],
        **{name: evaluation[name] for name in _OPTIONAL_RESULTS if name in evaluation},
        "compressors": compressors,
        "samples": continuations,
        "peak_flops": peak_flops,
        "environment": environment(),
        "command": shlex.join(["pathways-lite", *sys.argv[1:]]),
    }


def environment() -> dict[str, str]:
    """Return versions and the device, for those who repeat the run."""
    device = jax.devices()[0]
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "pathways-lite": __version__,
        **{package: version(package) for package in packages},
    }


def sample_continuations(evaluator: StageEvaluator, params: Any) -> list[dict[str, Any]]:
    """Continue the beginning of a held-out document of each domain; the same for the same parameters."""
    tokenizer = evaluator.store.tokenizer()
    prompts = {}
    for domain, documents in evaluator.documents.items():
        longest: np.ndarray = max((document.tokens for document in documents), key=len)
        prompts[domain] = tokenizer.decode(longest[1 : 1 + PROMPT_TOKENS].tolist())
    prompt_format = PromptFormat.from_objective(evaluator.stage.objective, evaluator.store.frame)
    writer = Writer(
        evaluator.stage.model, params, tokenizer, prompt_format,
        key=jax.random.key(0), rows=_SAMPLE_ROWS, layout=evaluator.layout, gather=False,
        chunk=SAMPLE_TOKENS,  # the cache then has one length, and one program is compiled instead of three
    )  # fmt: skip
    results = writer.continuations([*prompts.values()], Sampling(TEMPERATURE), max_tokens=SAMPLE_TOKENS)
    texts = {result.prompt: result.text for result in results}
    return [
        {"domain": domain, "prompt": prompt, "text": texts[i], "temperature": TEMPERATURE}
        for i, (domain, prompt) in enumerate(prompts.items())
    ]


class InfillingResults(NamedTuple):
    """What `evaluate --infilling` measures on some held-out documents."""

    openers: dict[str, dict[str, Any]]  # `summarize_openers`
    tasks: dict[str, dict[str, float]]  # by task, `GapScores.summary`; `as_trained` and `prefix` among them


def infilling_json(evaluator: StageEvaluator, params: Any) -> dict[str, Any]:
    """Return what `evaluate --infilling --json` adds: `infilling` and `openers`, and both by domain."""
    results, by_domain = evaluate_infilling_tasks(evaluator, params)
    return {
        "infilling": results.tasks,
        "openers": results.openers,
        "infilling_by_domain": {name: result.tasks for name, result in by_domain.items()},
        "openers_by_domain": {name: result.openers for name, result in by_domain.items()},
    }


def evaluate_infilling_tasks(
    evaluator: StageEvaluator, params: Any
) -> tuple[InfillingResults, dict[str, InfillingResults]]:
    """Run all evaluations of infilling on the held-out documents of all domains, and summarize each domain's as well.

    A model whose objective has no infilling is prompted as after UL2R: its answers are what UL2R training starts from.
    What is read from left to right begins with the opener, the documents' own or a mode token, behind which the model's
    causal loss is lower. Raises UserError where no token id is left to stand for a gap.

    Returns:
      The results on all documents, and by domain.
    """
    stage, store = evaluator.stage, evaluator.store
    prompt_format = PromptFormat.from_objective(stage.objective, store.frame)
    infilling_format, denoiser = _infilling_format(evaluator, prompt_format)
    held_out = [document for documents in evaluator.documents.values() for document in documents]
    by_opener = openers(prompt_format)
    nll = score_openers(evaluator.scorer, params, held_out, by_opener)
    opener = by_opener[summarize_openers(nll)[BEST]["opener"]]

    score, seq_len = model_score(stage.model, params), stage.data.seq_len
    documents = [document.tokens for document in held_out]
    scores: dict[str, GapScores | None] = {}
    if denoiser is not None:
        scores[AS_TRAINED] = score_as_trained(
            score,
            denoiser,
            evaluator.documents_in_stream,
            seq_len,
            frame=store.frame,
            opener=opener,
            boundaries=stage.data.boundaries,
            seed=stage.data.shuffle_seed,
        )
    scores |= score_gaps(score, infilling_format, documents, seq_len, opener)
    scores["prefix"] = score_continuations(score, prompt_format, documents, seq_len, opener)

    def summarize(first: int, stop: int) -> InfillingResults:
        tasks = {name: task.summary(first, stop) for name, task in scores.items() if task is not None}
        of_openers = summarize_openers({name: losses[first:stop] for name, losses in nll.items()})
        return InfillingResults(of_openers, {name: result for name, result in tasks.items() if result})

    ends = np.cumsum([len(documents) for documents in evaluator.documents.values()]).tolist()
    domains = zip(evaluator.documents, [0, *ends[:-1]], ends, strict=True)
    return summarize(0, len(documents)), {domain: summarize(first, stop) for domain, first, stop in domains}


def _infilling_format(evaluator: StageEvaluator, prompt_format: PromptFormat) -> tuple[PromptFormat, Objective | None]:
    """Return how the model is asked to fill gaps, and the denoiser that makes such examples, if there is one."""
    stage, store = evaluator.stage, evaluator.store
    if prompt_format.infill_format is not None:
        return prompt_format, infilling_denoiser(stage.objective)
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size}
    untrained = PromptFormat.for_untrained(**ids, frame=store.frame, reserved=lambda: reserved_ids(store.tokenizer()))
    tokens = untrained.special.tokens
    regular = SpanCorruption(mode="nlu", tokens=tokens)
    has_enough = tokens is not None and tokens.sentinels >= count_needed_sentinels(regular, stage.data.seq_len)
    return untrained, regular if has_enough else None
