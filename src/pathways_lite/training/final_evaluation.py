"""What is written down when a stage is done: the final evaluation, what it is compared with, and samples."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from pathways_lite.evaluation.bits import compressed_bits_per_byte
from pathways_lite.evaluation.generation import generate
from pathways_lite.evaluation.infilling import evaluate_infilling, evaluate_prefix
from pathways_lite.models.accounting import parameter_count
from pathways_lite.objectives.prompts import PromptFormat
from pathways_lite.training.setup import Setup

PROMPT_TOKENS = 16
SAMPLE_TOKENS = 128
TEMPERATURE = 0.8


def summarize(setup: Setup, params: Any, evaluation: dict[str, Any], *, peak_flops: float | None) -> dict[str, Any]:
    """The content of summary.json (`tracking.run_data` lists it). `evaluation`: the last held-out results."""
    model, timeline = setup.stage.model, setup.timeline
    return {
        "step": timeline.total_steps,
        "identity": setup.identity,
        "model": {
            "parameters": parameter_count(model),
            "non_embedding_parameters": parameter_count(model, embedding=False),
            "flops_per_token": timeline.flops_per_token,
        },
        "domains": evaluation["domains"],
        **({"denoisers": evaluation["denoisers"]} if "denoisers" in evaluation else {}),
        "compressors": compare_with_compressors(setup),
        "samples": [_sample(setup, params, domain) for domain in setup.held_out],
        "peak_flops": peak_flops,
        "environment": environment(),
        "command": shlex.join(["pathways-lite", *sys.argv[1:]]),
    }


def compare_with_compressors(setup: Setup) -> dict[str, dict[str, float]]:
    """Per domain, bits per byte of general compressors on the very bytes that the evaluation scores."""
    tokenizer = setup.store.tokenizer()
    return {
        domain: compressed_bits_per_byte(tokenizer.decode(tokens[1:].tolist()).encode() for tokens, _ in documents)
        for domain, documents in setup.held_out.items()
    }


def environment() -> dict[str, str]:
    """Versions and device, for whoever repeats the run."""
    device = jax.devices()[0]
    packages = ("pathways-lite", "jax", "flax", "optax", "orbax-checkpoint", "grain")
    return {
        "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _sample(setup: Setup, params: Any, domain: str) -> dict[str, Any]:
    """A continuation of the beginning of a held-out document, the same for the same parameters."""
    tokenizer = setup.store.tokenizer()
    document: np.ndarray = max((tokens for tokens, _ in setup.held_out[domain]), key=len)
    prompt = tokenizer.decode(document[1 : 1 + PROMPT_TOKENS].tolist())
    text = generate(
        setup.stage.model,
        params,
        tokenizer,
        prompt,
        max_tokens=SAMPLE_TOKENS,
        temperature=TEMPERATURE,
        key=jax.random.key(0),
    )
    return {"domain": domain, "prompt": prompt, "text": text, "temperature": TEMPERATURE}


# How a stage's model is asked, and how well it answers.


def evaluate_infilling_tasks(setup: Setup, params: Any) -> dict[str, dict[str, float]]:
    """`evaluate_infilling` and, as `prefix`, `evaluate_prefix` over the held-out documents of all domains.

    A model whose objective has no infilling is asked as UL2R's would be: what it answers is what training begins with.
    Raises UserError where no id is left that could stand for a gap.
    """
    stage, store = setup.stage, setup.store
    prompt_format = PromptFormat.of(stage.objective, store.eod)
    ids = {"text_ids": store.vocab_size, "vocab_size": stage.model.vocab_size, "eod": store.eod}
    filling = prompt_format if prompt_format.infilling is not None else PromptFormat.untrained(**ids)
    documents = [tokens for domain in setup.held_out.values() for tokens, _ in domain]
    where = documents, stage.data.seq_len
    results = evaluate_infilling(stage.model, params, filling, *where)
    prefix = evaluate_prefix(stage.model, params, prompt_format, *where)
    return results | ({"prefix": prefix} if prefix else {})
