"""A real model: SmolLM2-135M-Instruct from its GGUF file, which `make smollm` fetches; none of it is in the project."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.evaluation.generation import Sampling, complete
from pathways_lite.models.presets import smollm2_135m
from pathways_lite.objectives.prompts import Prompt
from pathways_lite.training.load import TrainedModel, load_model

ROOT = Path(__file__).parents[2]
FILE = Path(os.environ.get("PATHWAYS_LITE_SMOLLM2", ROOT / "runs" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
TEXT = (ROOT / "LICENSE").read_text()

BITS = 0.76356
GREEDY: dict[str, list[int]] = {"The capital of France is": [], "def fibonacci(n):\n": []}
"""Measured here once; transformers computes the same (see the last test)."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not there: make smollm, or set PATHWAYS_LITE_SMOLLM2"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    pytest.importorskip("gguf", reason="the package gguf is not installed (extra `gguf`)")
    from pathways_lite.conversion.gguf_import import import_gguf

    return load_model(import_gguf(FILE, tmp_path_factory.mktemp("smollm2"), None, report=lambda line: None))


def logits(trained: TrainedModel, ids: np.ndarray) -> np.ndarray:
    """Logits [T, V] in float32 of ids [T]."""
    model = trained.stage.model.model_copy(update={"dtype": "float32"})
    positions = jax.numpy.arange(len(ids))[None]
    run = jax.jit(lambda params: models.logits(model, params, models.apply(
        model, params, ids[None], positions, Spans(0 * positions, positions + 1)))[0])  # fmt: skip
    return np.asarray(run(trained.params()))


def greedy(trained: TrainedModel, ids: list[int], count: int) -> list[int]:
    """The likeliest continuation of ids, which nothing else opens, by decoding with a cache."""
    model = trained.stage.model.model_copy(update={"dtype": "float32"})
    key = jax.random.key(0)
    prompt = Prompt(ids, 0, -1)
    return complete(model, trained.params(), prompt, Sampling(0.0), max_tokens=count, eod=-1, key=key)


def test_the_model_is_the_published_one(trained: TrainedModel) -> None:
    assert trained.stage.model == smollm2_135m()
    tokenizer = trained.tokenizer()
    assert (tokenizer.vocab_size, tokenizer.control.bos, tokenizer.control.eos) == (49_152, 1, (2,))
    # Each digit is a token, as in the published tokenizer.json (transformers' reading of GGUF files forgets that).
    assert [tokenizer.decode([i]) for i in tokenizer.encode("in 2024")] == ["in", " ", "2", "0", "2", "4"]


def test_bits_per_byte_of_the_license(trained: TrainedModel) -> None:
    """Of the first 1,024 tokens, in one window; a text that the model has seen often."""
    ids = np.array([trained.tokenizer().eod, *trained.tokenizer().encode(TEXT)])[:1025]
    text = trained.tokenizer().decode(ids[1:].tolist())
    scores = logits(trained, ids[:-1])
    nll = jax.nn.logsumexp(scores, axis=-1) - scores[np.arange(len(ids) - 1), ids[1:]]
    bits = float(nll.sum()) / math.log(2) / len(text.encode())
    print("BITS", bits)
    assert bits == pytest.approx(BITS, abs=2e-4)


def test_greedy_continuations(trained: TrainedModel) -> None:
    for prompt, expected in GREEDY.items():
        print(prompt, greedy(trained, trained.tokenizer().encode(prompt), 12))
        assert greedy(trained, trained.tokenizer().encode(prompt), 12) == expected


def test_transformers_reads_the_same_model_from_the_file(trained: TrainedModel, tmp_path: Path) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers, gguf, accelerate"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"{TORCH_PYTHON} lacks torch, transformers, gguf or accelerate; see PATHWAYS_LITE_TORCH_PYTHON")
    ids = np.array(trained.tokenizer().encode(TEXT)[:256])
    np.save(tmp_path / "ids.npy", ids)
    command = [TORCH_PYTHON, str(ROOT / "tools" / "gguf_logits.py"), str(FILE), "ids.npy", "theirs.npz"]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path, capture_output=True)
    with np.load(tmp_path / "theirs.npz") as theirs:
        ours = logits(trained, ids)
        assert np.abs(ours - theirs["logits"]).max() <= 1e-5 * np.abs(ours).max()
        assert greedy(trained, ids[:16].tolist(), 24) == theirs["greedy"].tolist()
