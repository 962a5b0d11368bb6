"""A train step as a JAX tutorial has it: the same model as ours, one jit of loss, gradients, clipping and AdamW."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timed_steps import report, settings

sizes = settings()
d, heads, layers, length = sizes["d_model"], sizes["n_heads"], sizes["n_layers"], sizes["sequence"]
hidden, vocabulary = sizes["d_ff"], sizes["vocab_size"]
shapes = {"qkv": (d, 3 * d), "out": (d, d), "gate": (d, hidden), "up": (d, hidden), "down": (hidden, d)}


def init(key: Any) -> Any:
    keys = iter(jax.random.split(key, 1 + layers * len(shapes)))
    blocks = [
        {name: 0.02 * jax.random.normal(next(keys), shape) for name, shape in shapes.items()}
        | {"norm_1": jnp.ones(d), "norm_2": jnp.ones(d)}
        for _ in range(layers)
    ]
    return {"embedding": 0.02 * jax.random.normal(next(keys), (vocabulary, d)), "blocks": blocks, "norm": jnp.ones(d)}


def norm(x: Any, scale: Any) -> Any:
    return scale * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def rotate(x: Any) -> Any:
    half = x.shape[-1] // 2
    angles = jnp.arange(length)[:, None] * 1e4 ** (-jnp.arange(half) / half)
    cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)


def attention(x: Any, block: Any) -> Any:
    q, k, v = jnp.split((x @ block["qkv"]).reshape(*x.shape[:2], 3 * heads, d // heads), 3, 2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)) * (d // heads) ** -0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(x.shape) @ block["out"]


def loss(params: Any, tokens: Any, targets: Any) -> Any:
    x = params["embedding"][tokens]
    for block in params["blocks"]:
        x = x + attention(norm(x, block["norm_1"]), block)
        y = norm(x, block["norm_2"])
        x = x + (jax.nn.silu(y @ block["gate"]) * (y @ block["up"])) @ block["down"]
    logits = norm(x, params["norm"]) @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b2=0.95, weight_decay=0.1))


@partial(jax.jit, donate_argnums=(0, 1))
def step(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
    value, gradients = jax.value_and_grad(loss)(params, tokens, targets)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


params = jax.jit(init)(jax.random.key(0))
state = optimizer.init(params)
text = np.random.default_rng(0).integers(0, vocabulary, (sizes["batch"], length + 1), dtype=np.int32)
tokens, targets = jnp.array(text[:, :-1]), jnp.array(text[:, 1:])


def run() -> None:
    global params, state
    params, state, value = step(params, state, tokens, targets)
    jax.block_until_ready((params, state, value))


report(run, sizes["steps"])
