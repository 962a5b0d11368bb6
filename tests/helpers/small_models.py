"""Tiny models, and a second decoder in NumPy and float64: exact, and fast because no shape is compiled."""

from typing import Any

import jax
import numpy as np

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
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = params["embedding"][TOKENS]
    for layer in range(model.n_layers):
        block = jax.tree.map(lambda p, layer=layer: p[layer], params["layers"])
        window = model.window[layer % len(model.window)] if model.window else None
        if model.block == "parallel":
            h = _norm(model, x, block["norm"])
            x = x + _attention(model, h, block["attention"], window) + _mlp(h, block["mlp"])
        else:
            x = x + _attention(model, _norm(model, x, block["attention_norm"]), block["attention"], window)
            x = x + _mlp(_norm(model, x, block["mlp_norm"]), block["mlp"])
    x = _norm(model, x, params["final_norm"])
    z = x @ params["embedding" if model.tie_embeddings else "head"].T * model.resolved_logit_scale
    return z if model.logit_soft_cap is None else model.logit_soft_cap * np.tanh(z / model.logit_soft_cap)


def _norm(model: Model, x: np.ndarray, params: Any, kind: str | None = None) -> np.ndarray:
    if (kind or model.norm) == "layer":
        x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + model.norm_epsilon) * params["scale"]


def _mlp(h: np.ndarray, params: Any) -> np.ndarray:
    gate = h @ params["gate"]
    return (gate / (1 + np.exp(-gate)) * (h @ params["up"])) @ params["down"]


def _attention(model: Model, h: np.ndarray, params: Any, window: int | None) -> np.ndarray:
    q, k, v = (np.einsum("te,ehd->thd", h, params[name]) for name in ("q", "k", "v"))
    if model.qk_norm:
        q, k = _norm(model, q, params["q_norm"], "rms"), _norm(model, k, params["k_norm"], "rms")
    q, k = _rotate(model, q), _rotate(model, k)
    k, v = (np.repeat(x, model.n_heads // model.n_kv_heads, axis=1) for x in (k, v))
    z = np.einsum("thd,shd->hts", q, k) * model.head_dim**-0.5
    if model.attention_soft_cap is not None:
        z = model.attention_soft_cap * np.tanh(z / model.attention_soft_cap)
    distance = np.arange(T)[:, None] - np.arange(T)
    visible = (distance >= 0) & (distance < (window or T))
    weights = np.exp(np.where(visible, z, -np.inf))
    mixed = np.einsum("hts,shd->thd", weights / weights.sum(-1, keepdims=True), v)
    return np.einsum("thd,hde->te", mixed, params["out"])


def _rotate(model: Model, x: np.ndarray) -> np.ndarray:
    D = model.head_dim
    angles = np.arange(T)[:, None, None] * model.rope_base ** (-np.arange(0, D, 2) / D)
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
