"""Tiny models of both kinds, and batches for them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from helpers.small_models import GEMMA, NEOX, OLMO
from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.batch import Batch
from pathways_lite.recipe import Model

PARALLEL: dict[str, Any] = {
    "d_model": 24, "n_layers": 2, "n_heads": 4, "head_dim": 8, "d_ff": 40, "vocab_size": 50, "dtype": "float32",
}  # fmt: skip
SERIAL: dict[str, Any] = PARALLEL | {
    "block": "serial", "norm": "layer", "n_kv_heads": 2, "tie_embeddings": False, "qk_norm": True,
    "logit_soft_cap": 3.0, "attention_soft_cap": 2.0, "window": (3, None),
}  # fmt: skip
SIZES = {name: PARALLEL[name] for name in ("d_model", "n_heads", "head_dim", "d_ff", "vocab_size")}
FAMILIES = {"parallel": PARALLEL, "serial": SERIAL, "gemma": GEMMA | SIZES, "olmo": OLMO | SIZES, "neox": NEOX | SIZES}


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def config(request: pytest.FixtureRequest) -> Model:
    """A tiny model of each kind; together they set every option."""
    return Model(**request.param)


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """A function that returns a tiny PaLM-style model with some fields changed."""
    return lambda **changes: Model(**(PARALLEL | changes))


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    """A function that makes a causal batch of random tokens."""

    def make(config: Model, rows: int = 2, length: int = 12, seed: int = 0) -> Batch:
        windows = np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length + 1), dtype=np.int32)
        positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        return Batch(
            tokens=windows[:, :-1],
            targets=windows[:, 1:],
            loss_weights=np.ones((rows, length), np.float32),
            positions=positions,
            spans=Spans(np.zeros_like(positions), positions + 1),
            domain=np.zeros(rows, np.int32),
            sample_id=np.zeros((rows, 2), np.uint32),
        )

    return make


@pytest.fixture
def make_params() -> Callable[[Model], models.Params]:
    """A function that draws parameters with norm scales away from 1, so that a forgotten scale shows."""

    def make(config: Model) -> models.Params:
        rng = np.random.default_rng(1)
        spread = {"scale": 0.1, "embedding": 1.0}

        def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            name = path[-1].key
            values = spread.get(name, 0.2) * rng.standard_normal(leaf.shape, np.float32)
            return values + 1 if name == "scale" else values

        return jax.tree.map_with_path(draw, models.abstract_params(config))

    return make
