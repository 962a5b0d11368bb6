"""Tiny models, as published ones are built."""

from typing import Any

import jax
import numpy as np

from helpers.reference_decoder import reference_logits
from pathways_kernels.attention import Spans
from pathways_lite import models
from pathways_lite.recipe import Model

V, T = 11, 6
PALM: dict[str, Any] = {
    "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "d_ff": 12, "vocab_size": V,
    "dtype": "float32",
}  # fmt: skip
LLAMA: dict[str, Any] = PALM | {
    "n_heads": 4, "n_kv_heads": 2, "block": "serial", "tie_embeddings": False, "qk_norm": True, "norm_epsilon": 0.1,
    "attention_soft_cap": 3.0, "logit_soft_cap": 5.0,
}  # fmt: skip
GEMMA: dict[str, Any] = PALM | {
    "block": "serial", "norm_position": "both", "qk_norm": True, "activation": "geglu_tanh", "embedding_scale": 2.5,
    "attention_scale": 0.4, "logit_scale": 1.0, "window": (3, None), "local_rope_base": 50.0,
    "rope_scaling": {"kind": "linear", "factor": 4}, "logit_soft_cap": 5.0,
}  # fmt: skip
OLMO: dict[str, Any] = LLAMA | {
    "norm_position": "post", "qk_norm_over": "all_heads", "bias": ("qkv", "attention_out"), "activation": "reglu",
    "rope_scaling": {"kind": "llama3", "factor": 4, "original_length": 40},
}  # fmt: skip
NEOX: dict[str, Any] = PALM | {
    "n_kv_heads": 2, "norm": "layer", "parallel_norms": 2, "bias": ("qkv", "attention_out", "mlp", "norm"),
    "activation": "gelu", "rope_fraction": 0.5, "tie_embeddings": False,
    "rope_scaling": {"kind": "yarn", "factor": 8, "original_length": 20, "fast_turns": 2},
}  # fmt: skip
FAMILIES = {"palm": PALM, "llama": LLAMA, "gemma": GEMMA, "olmo": OLMO, "neox": NEOX}
TOKENS = np.random.default_rng(7).integers(0, V, T)


def random_params(model: Model, seed: int = 1) -> Any:
    """Draw norm scales away from 1 and weights that are not small, so that a forgotten factor shows."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        values = rng.standard_normal(leaf.shape, np.float32)
        return 1 + 0.2 * values if path[-1].key == "scale" else 0.4 * values

    return jax.tree.map_with_path(draw, models.abstract_params(model))


def logits(model: Model, params: Any) -> np.ndarray:
    """Return the logits of `TOKENS` under causal attention, [T, V]."""
    positions = np.arange(T)[None]
    return reference_logits(model, params, TOKENS[None], positions, Spans(0 * positions, positions + 1))[0]
