"""A second decoder, from the published formulas, in NumPy and float64: exact, and fast as no shape is compiled."""

import math
from typing import Any

import jax
import numpy as np

from pathways_kernels.attention import Spans
from pathways_lite.recipe import LinearScaling, Llama3Scaling, Model, YarnScaling


def reference_logits(model: Model, params: Any, tokens: np.ndarray, positions: np.ndarray, spans: Spans) -> np.ndarray:
    """Return the logits of tokens [B, T] that see the keys of `spans` [B, T]: float64 [B, T, V]."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = params["embedding"][tokens] * (model.embedding_scale or 1.0)
    for layer in range(model.n_layers):
        block = jax.tree.map(lambda p, layer=layer: p[layer], params["layers"])
        window = model.window[layer % len(model.window)] if model.window else None
        before = [_norm_of(model, block, name) for name in ("attention_norm", "mlp_norm")]
        if model.block == "parallel" and model.parallel_norms is None:
            before = [_norm_of(model, block, "norm")] * 2
        after = [_norm_of(model, block, name) for name in ("attention_post_norm", "mlp_post_norm")]
        attended = after[0](_attention(model, before[0](x), block["attention"], window, positions, spans))
        x, mlp_input = x + attended, (x if model.block == "parallel" else x + attended)
        x = x + after[1](_mlp(model, before[1](mlp_input), block["mlp"]))
    x = _norm_of(model, params, "final_norm")(x)
    z = x @ params["embedding" if model.tie_embeddings else "head"].T * model.resolved_logit_scale
    return _cap(z, model.logit_soft_cap)


def frequencies(model: Model, base: float, scaling: Any) -> tuple[np.ndarray, float]:
    """Return a rotary embedding's frequencies, one by one from their definitions, and the factor of what turns."""
    D = model.rotary_dim
    plain = [base ** (-2 * i / D) for i in range(D // 2)]
    match scaling:
        case None:
            return np.array(plain), 1.0
        case LinearScaling():
            return np.array(plain) / scaling.factor, 1.0
        case Llama3Scaling(low_frequency_factor=low, high_frequency_factor=high):
            scaled = []
            for f in plain:
                turns = scaling.original_length / (2 * math.pi / f)
                if turns < low:
                    scaled.append(f / scaling.factor)
                elif turns > high:
                    scaled.append(f)
                else:
                    smooth = (turns - low) / (high - low)
                    scaled.append((1 - smooth) * f / scaling.factor + smooth * f)
            return np.array(scaled), 1.0
        case YarnScaling():
            # The number i of the frequency that turns so many times: L base^(-2i/D) / (2 pi) = turns.
            bounds = [
                math.log(scaling.original_length / (2 * math.pi * turns)) / math.log(base) * D / 2
                for turns in (scaling.fast_turns, scaling.slow_turns)
            ]
            low, high = (math.floor(bounds[0]), math.ceil(bounds[1])) if scaling.whole_bounds else bounds
            low, high = max(low, 0), min(high, D - 1)
            divided = np.clip([(i - low) / (high - low) for i in range(D // 2)], 0, 1)
            default = 0.1 * math.log(scaling.factor) + 1
            return np.array(plain) * (1 - divided + divided / scaling.factor), scaling.attention_factor or default
    raise AssertionError(scaling)


def _norm_of(model: Model, owner: Any, name: str) -> Any:
    """The norm of that name, the identity where there is none."""
    return (lambda x: _norm(model, x, owner[name], model.norm)) if name in owner else (lambda x: x)


def _norm(model: Model, x: np.ndarray, params: Any, kind: str, axes: tuple[int, ...] = (-1,)) -> np.ndarray:
    if kind == "layer":
        x = x - x.mean(axes, keepdims=True)
    x = x / np.sqrt((x**2).mean(axes, keepdims=True) + model.norm_epsilon) * params["scale"]
    return x + params.get("bias", 0.0)


def _cap(z: np.ndarray, cap: float | None) -> np.ndarray:
    return z if cap is None else cap * np.tanh(z / cap)


_erf = np.vectorize(math.erf)
FUNCTIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}
GATES = {None: "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu"}


def _mlp(model: Model, h: np.ndarray, params: Any) -> np.ndarray:
    up = h @ params["up"] + params.get("up_bias", 0.0)
    if model.activation in GATES:
        hidden = FUNCTIONS[GATES[model.activation]](h @ params["gate"] + params.get("gate_bias", 0.0)) * up
    else:
        hidden = FUNCTIONS[model.activation](up)
    return hidden @ params["down"] + params.get("down_bias", 0.0)


def _attention(
    model: Model, h: np.ndarray, params: Any, window: int | None, positions: np.ndarray, spans: Spans
) -> np.ndarray:
    T = h.shape[1]
    q, k, v = (np.einsum("bte,ehd->bthd", h, params[name]) + params.get(f"{name}_bias", 0.0) for name in "qkv")
    if model.qk_norm:
        axes = (-1,) if model.qk_norm_over is None else (-2, -1)
        q, k = (_norm(model, x, params[name], "rms", axes) for x, name in ((q, "q_norm"), (k, "k_norm")))
    if window is not None and model.local_rope_base is not None:
        turns = frequencies(model, model.local_rope_base, None)
    else:
        turns = frequencies(model, model.rope_base, model.rope_scaling)
    q, k = (_rotate(model, x, positions, *turns) for x in (q, k))
    k, v = (np.repeat(x, model.n_heads // model.n_kv_heads, axis=2) for x in (k, v))
    scale = model.head_dim**-0.5 if model.attention_scale is None else model.attention_scale
    z = _cap(np.einsum("bthd,bshd->bhts", q, k) * scale, model.attention_soft_cap)
    i, j = np.arange(T)[:, None], np.arange(T)
    seen = (spans.start[..., None] <= j) & (j < spans.stop[..., None])
    seen &= (i - j < window) if window else True
    weights = np.where(seen[:, None], np.exp(z), 0)
    mixed = np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)
    return np.einsum("bthd,hde->bte", mixed, params["out"]) + params.get("out_bias", 0.0)


def _rotate(model: Model, x: np.ndarray, positions: np.ndarray, turns: np.ndarray, factor: float) -> np.ndarray:
    """Turn pairs (i, i + D/2) of the first D dimensions of x [B, T, heads, head_dim], as complex numbers."""
    D = model.rotary_dim
    z = x[..., : D // 2] + 1j * x[..., D // 2 : D]
    z = z * factor * np.exp(1j * positions[..., None, None] * turns)
    return np.concatenate([z.real, z.imag, x[..., D:]], -1)
