"""A real model: SmolLM2-135M-Instruct from its GGUF file, which `make smollm` fetches; none of it is in the project."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.models.presets import smollm2_135m
from pathways_lite.training.load import TrainedModel, load_model

ROOT = Path(__file__).parents[2]
FILE = Path(os.environ.get("PATHWAYS_LITE_SMOLLM2", ROOT / "runs" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
TORCH_PYTHON = os.environ.get("PATHWAYS_LITE_TORCH_PYTHON", sys.executable)
TEXT = (ROOT / "LICENSE").read_text()

BITS = 0.75870
GREEDY = {
    "The capital of France is": " Paris.\n\nThe answer is: 201",
    "def fibonacci(n):\n": "\ndef fibonacci(n):\n    if n <= ",
    "1, 2, 3, 4,": " 5, 6, 7, 8,",
}
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


@pytest.fixture(scope="module")
def params(trained: TrainedModel) -> Any:
    return trained.params()


@jax.jit
def logits(params: Any, ids: jax.Array) -> jax.Array:
    """Logits [T, V] in float32 of ids [T]."""
    model = smollm2_135m().model_copy(update={"dtype": "float32"})
    positions = jax.numpy.arange(len(ids))[None]
    hidden = models.apply(model, params, ids[None], positions, Spans(0 * positions, positions + 1))
    return models.logits(model, params, hidden)[0]


def greedy(params: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest continuation of ids, computed anew for each token."""
    sequence = np.zeros(48, np.int32)  # what comes after a position does not change it
    sequence[: len(ids)] = ids
    for position in range(len(ids), len(ids) + count):
        sequence[position] = np.asarray(logits(params, sequence))[position - 1].argmax()
    return sequence[len(ids) : len(ids) + count].tolist()


def test_the_model_is_the_published_one(trained: TrainedModel) -> None:
    assert trained.stage.model == smollm2_135m()
    tokenizer = trained.tokenizer()
    assert (tokenizer.vocab_size, tokenizer.control.bos, tokenizer.control.eos) == (49_152, 1, (2,))
    # Each digit is a token, as in the published tokenizer.json (transformers' reading of GGUF files forgets that).
    assert [tokenizer.decode([i]) for i in tokenizer.encode("in 2024")] == ["in", " ", "2", "0", "2", "4"]


def test_bits_per_byte_of_the_license(trained: TrainedModel, params: Any) -> None:
    """Of the first 1,024 tokens, in one window; a text that the model has seen often."""
    ids = np.array([trained.tokenizer().eod, *trained.tokenizer().encode(TEXT)])[:1025]
    text = trained.tokenizer().decode(ids[1:].tolist())
    scores = np.asarray(logits(params, ids[:-1]))
    nll = jax.nn.logsumexp(scores, axis=-1) - scores[np.arange(len(ids) - 1), ids[1:]]
    bits = float(nll.sum()) / math.log(2) / len(text.encode())
    assert bits == pytest.approx(BITS, abs=2e-4)


def test_greedy_continuations(trained: TrainedModel, params: Any) -> None:
    tokenizer = trained.tokenizer()
    for prompt, expected in GREEDY.items():
        assert tokenizer.decode(greedy(params, tokenizer.encode(prompt), 12)) == expected


def test_transformers_reads_the_same_model_from_the_file(trained: TrainedModel, params: Any, tmp_path: Path) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import torch, transformers, gguf, accelerate"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"{TORCH_PYTHON} lacks torch, transformers, gguf or accelerate; see PATHWAYS_LITE_TORCH_PYTHON")
    ids = np.array(trained.tokenizer().encode(TEXT)[:256])
    np.save(tmp_path / "ids.npy", ids)
    command = [TORCH_PYTHON, str(ROOT / "tools" / "gguf_logits.py"), str(FILE), "ids.npy", "theirs.npz"]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, cwd=tmp_path, capture_output=True)
    with np.load(tmp_path / "theirs.npz") as theirs:
        ours = np.asarray(logits(params, ids))
        assert np.abs(ours - theirs["logits"]).max() <= 1e-5 * np.abs(ours).max()
        assert greedy(params, ids[:16].tolist(), 24) == theirs["greedy"].tolist()


CHATS = [
    [{"role": "user", "content": " What is 2 + 2?\n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"},
     {"role": "assistant", "content": "2"}, {"role": "user", "content": "2 + 2?"}],
    [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "The answer is "}],
]  # fmt: skip
APPLY = """
import json, os, sys
from transformers import AutoTokenizer
path, chats = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path))
options = [dict(add_generation_prompt=chat[-1]["role"] == "user", continue_final_message=chat[-1]["role"] != "user")
           for chat in chats]
texts = [tokenizer.apply_chat_template(chat, tokenize=False, **each) for chat, each in zip(chats, options)]
print(json.dumps([texts, [tokenizer.encode(text, add_special_tokens=False) for text in texts]]))
"""


def test_the_harness_asks_chats_as_transformers_does(trained: TrainedModel) -> None:
    probe = subprocess.run([TORCH_PYTHON, "-c", "import transformers, gguf"], capture_output=True)
    if probe.returncode:
        pytest.skip(f"{TORCH_PYTHON} lacks transformers or gguf; see PATHWAYS_LITE_TORCH_PYTHON")
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra `lm-eval`)")
    from pathways_lite.harness import ChatRenderer

    command = [TORCH_PYTHON, "-c", APPLY, str(FILE.absolute()), json.dumps(CHATS)]
    printed = subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True).stdout
    texts, ids = json.loads(printed.splitlines()[-1])
    renderer = ChatRenderer.of_model(trained)
    assert [renderer.render(chat, chat[-1]["role"] == "user") for chat in CHATS] == texts
    assert [renderer.template.encode_text(text) for text in texts] == ids
