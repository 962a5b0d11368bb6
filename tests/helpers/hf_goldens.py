"""The tiny published models of `tools/make_hf_goldens.py`: their files, and what transformers computes with them."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.conversion.hf_export import export_hf
from pathways_lite.conversion.hf_import import import_hf
from pathways_lite.recipe import Model
from pathways_lite.training.load import load_model

GOLDENS = Path(__file__).parents[1] / "conversion" / "hf_goldens"
TOOL = Path(__file__).parents[2] / "tools" / "make_hf_goldens.py"

sys.path.insert(0, str(TOOL.parent))
import make_hf_goldens as tool  # noqa: E402

sys.path.pop(0)
CASES = list(tool.CASES)


@functools.cache
def golden(case: str) -> dict[str, Any]:
    """The stored config, shapes and greedy tokens of a case, with its logits [T, V]."""
    stored = json.loads((GOLDENS / "goldens.json").read_text())["cases"][case]
    with np.load(GOLDENS / "goldens.npz") as logits:
        return stored | {"logits": logits[case]}


def write_published(directory: Path, case: str, **config: Any) -> Path:
    """Write a case as transformers would, with some keys of its config changed; `vocab_size` changes its tables too."""
    stored = golden(case)
    before, after = stored["config"]["vocab_size"], config.get("vocab_size", stored["config"]["vocab_size"])
    shapes = {name: [after if size == before else size for size in shape] for name, shape in stored["shapes"].items()}
    tool.write_checkpoint(directory, case, stored | {"config": stored["config"] | config, "shapes": shapes})
    return directory


@functools.partial(jax.jit, static_argnums=0)
def _logits(model: Model, params: Any, tokens: jax.Array) -> jax.Array:
    positions = jax.numpy.arange(tokens.shape[1])[None]
    hidden = models.apply(model, params, tokens, positions, Spans(0 * positions, positions + 1))
    return models.logits(model, params, hidden)[0]


def logits_and_greedy(case: str, model: Model, params: Any) -> tuple[np.ndarray, list[int]]:
    """What our decoder, in float32, computes of a case's tokens: logits [T, V], and the greedy continuation."""
    model = model.model_copy(update={"dtype": "float32"})
    length = max(tool.TOKENS, tool.PROMPT + tool.GREEDY)
    sequence = np.zeros((1, length), np.int32)  # what comes after a position does not change it
    sequence[:, : tool.TOKENS] = tool.tokens(case)
    logits = np.asarray(_logits(model, params, sequence))[: tool.TOKENS]
    sequence[:, tool.PROMPT :] = 0
    for position in range(tool.PROMPT, length):
        sequence[0, position] = np.asarray(_logits(model, params, sequence))[position - 1].argmax()
    return logits, sequence[0, tool.PROMPT : tool.PROMPT + tool.GREEDY].tolist()


def imported(source: Path, out: Path, tokens: int | None = None) -> Any:
    """Import the published model in `source`, and load it."""
    return load_model(import_hf(source, out, tokens, report=lambda line: None))


def exported(trained: Any, out: Path, dtype: str = "float32", shard_bytes: int = 10**9) -> Path:
    """Export a model, and return `out`."""
    return export_hf(trained, out, dtype=dtype, shard_bytes=shard_bytes, report=lambda line: None)


def tensors(directory: Path) -> dict[str, np.ndarray]:
    """The tensors of all shards of a published model by name."""
    return {name: value for path in directory.glob("*.safetensors") for name, value in load_file(path).items()}
