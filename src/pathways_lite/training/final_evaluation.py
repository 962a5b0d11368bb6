"""Summarize a finished stage: the final evaluation, compressors to compare it with, and samples."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from pathways_lite.evaluation.compressors import held_out_compression
from pathways_lite.evaluation.generation import generate
from pathways_lite.evaluation.held_out import StageEvaluator
from pathways_lite.evaluation.infilling import evaluate_infilling, evaluate_prefix
from pathways_lite.models.accounting import parameter_count
from pathways_lite.objectives.prompts import PromptFormat
from pathways_lite.training.components import Components

PROMPT_TOKENS = 16
SAMPLE_TOKENS = 128
TEMPERATURE = 0.8

_OPTIONAL_RESULTS = ("denoisers", "average_domains", "average_denoisers")


def summarize(
    components: Components,
    params: Any,
    step: int,
    evaluation: dict[str, Any],
    *,
    peak_flops: float | None,
    samples: bool = True,
) -> dict[str, Any]:
    """Return the content of summary.json (`tracking.run_data` lists it).

    `step`: the last one; `evaluation`: the held-out results after it. Without `samples` none are generated: each takes
    as long as some training steps, and compiles two programs.
    """
    model, timeline, evaluator = components.stage.model, components.timeline, components.evaluator
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
        "compressors": held_out_compression(evaluator.store, evaluator.documents, components.stage.evaluation.tokens),
        "samples": [sample_continuation(evaluator, params, domain) for domain in evaluator.documents]
        if samples
        else [],
        "peak_flops": peak_flops,
        "environment": environment(),
        "command": shlex.join(["pathways-lite", *sys.argv[1:]]),
    }


def environment() -> dict[str, str]:
    """Return versions and the device, for those who repeat the run."""
    device = jax.devices()[0]
    packages = ("pathways-lite", "jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def sample_continuation(evaluator: StageEvaluator, params: Any, domain: str) -> dict[str, Any]:
    """Continue the beginning of a held-out document; the same for the same parameters."""
    tokenizer = evaluator.store.tokenizer()
    document: np.ndarray = max((document.tokens for document in evaluator.documents[domain]), key=len)
    prompt = tokenizer.decode(document[1 : 1 + PROMPT_TOKENS].tolist())
    text = generate(
        evaluator.stage.model,
        params,
        tokenizer,
        prompt,
        max_tokens=SAMPLE_TOKENS,
        temperature=TEMPERATURE,
        key=jax.random.key(0),
    )
    return {"domain": domain, "prompt": prompt, "text": text, "temperature": TEMPERATURE}


def evaluate_infilling_tasks(evaluator: StageEvaluator, params: Any) -> dict[str, dict[str, float]]:
    """Run `evaluate_infilling` and, as `prefix`, `evaluate_prefix` on the held-out documents of all domains.

    A model whose objective has no infilling is prompted as after UL2R: its answers are what UL2R training starts from.
    Raises UserError where no token id is left to stand for a gap.
    """
    stage, store = evaluator.stage, evaluator.store
    prompt_format = PromptFormat.from_objective(stage.objective, store.eod)
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    infilling_format = prompt_format if prompt_format.infill_format is not None else PromptFormat.for_untrained(**ids)
    documents = [document.tokens for domain in evaluator.documents.values() for document in domain]
    results = evaluate_infilling(stage.model, params, infilling_format, documents, stage.data.seq_len)
    prefix = evaluate_prefix(stage.model, params, prompt_format, documents, stage.data.seq_len)
    return results | ({"prefix": prefix} if prefix else {})
