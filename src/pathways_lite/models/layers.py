"""Layers of a block: rotary embedding, norm, attention, MLP.

B batch, T query, S key, L layers, H query heads, K key/value heads, D head, E embed, F mlp.

The modules are made with the parameters of all L layers stacked on a leading axis, and called on one layer's slice.
Parameters are float32; each is cast to the computation's dtype where it is used, inside the scan over layers.
Casting all of them once per step instead would hold a second, half-size copy of the whole model, while here the
copy is one layer's (it is recomputed with the block where `remat` recomputes). Gradients are stacked in float32.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention import Spans
from pathways_lite.models.activations import largest_logit
from pathways_lite.parallel.sharded_ops import Weight, attention
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model

# ---- rotary position embedding (Su et al. 2021, arXiv 2104.09864), computed in float32 ----


class Rotary(NamedTuple):
    """The rotation of every position: cosines and sines, float32 [B, T, D/2]."""

    cos: jax.Array
    sin: jax.Array


def rotary(positions: jax.Array, head_dim: int, base: float) -> Rotary:
    """Compute the rotation by `position * base^(-2i/D)` for the pairs i = 0 .. D/2-1 of `positions` int32 [B, T]."""
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return Rotary(jnp.cos(angles), jnp.sin(angles))


def rotate(x: jax.Array, rotation: Rotary) -> jax.Array:
    """Rotate the heads `x` [B, T, heads, D], result in x.dtype.

    Half-split pairing: element i turns with element i + D/2 (as in GPT-NeoX and the published Llama weights
    in the Hugging Face layout; the paper pairs 2i with 2i + 1, which is the same up to a permutation of D).
    """
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


# ---- parameters ----

Axes = tuple[str, ...]
KVCache = tuple[jax.Array, jax.Array]  # keys and values [B, S, K, D]


def normal_init(config: Model, rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, fan_in: int) -> nnx.Param:
    """Draw a float32 weight: N(0, 1/fan_in) (PaLM section 5: no truncation, no scaling with depth) or N(0, 0.02^2).

    Element i of the flattened array depends on the key and i alone (`jax.threefry_partitionable`), so the first layers
    of a stack are the same whatever its depth, and the values the same whatever the sharding.
    """
    std = fan_in**-0.5 if config.init == "palm" else 0.02
    return nnx.Param(_draw(rngs.params(), shape, std), axes=axes)


@functools.partial(jax.jit, static_argnums=1)
def _draw(key: jax.Array, shape: tuple[int, ...], std: float) -> jax.Array:
    def whole(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, shape, jnp.float32)

    def flat(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (math.prod(shape),), jnp.float32).reshape(shape)

    # The same numbers; the flat loop compiles in a third of the time on CPUs, and cannot be sharded along the axes.
    with jax.threefry_partitionable(True):
        return std * jax.lax.platform_dependent(key, cpu=flat, default=whole)


def layer_weight(param: nnx.Param) -> Weight:
    """Wrap one layer's slice of a stacked kernel for the sharded products."""
    _, *axes = param.axes
    return Weight(param[...], tuple(axes))


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero a fraction `rate` of the elements and scale up the others; without a key, `x` itself."""
    if key is None or rate == 0.0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0)


def drop_branch(x: jax.Array, rate: jax.Array, key: jax.Array, *, by_row: bool) -> jax.Array:
    """Zero a residual branch [B, T, E] with probability `rate`, of each row by itself or of all, else scale it up.

    Stochastic depth (Huang et al. 2016, arXiv 1603.09382), which scales by the survival probability at test time; here
    training scales by its inverse, so that the expectation is the branch and a model is evaluated as it is.
    """
    is_kept = jax.random.bernoulli(key, 1.0 - rate, (x.shape[0] if by_row else 1, 1, 1))
    return jnp.where(is_kept, x / (1.0 - rate), 0).astype(x.dtype)


# ---- modules ----


class Norm(nnx.Module):
    """RMSNorm, or LayerNorm without bias, over the last axis; in float32, with a scale that starts at 1."""

    def __init__(self, shape: tuple[int, ...], axes: Axes, epsilon: float, *, centered: bool = False):
        self.scale = nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)
        self.epsilon, self.centered = epsilon, centered

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.centered:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        L, E, D, H, K = config.n_layers, config.d_model, config.head_dim, config.n_heads, config.n_kv_heads
        self.config = config
        self.q = normal_init(config, rngs, (L, E, H, D), ("layers", "embed", "heads", "head_dim"), fan_in=E)
        self.k = normal_init(config, rngs, (L, E, K, D), ("layers", "embed", "kv", "head_dim"), fan_in=E)
        self.v = normal_init(config, rngs, (L, E, K, D), ("layers", "embed", "kv", "head_dim"), fan_in=E)
        self.out = normal_init(config, rngs, (L, H, D, E), ("layers", "heads", "head_dim", "embed"), fan_in=H * D)
        if config.qk_norm:
            self.q_norm = Norm((L, D), ("layers", "head_dim"), config.norm_epsilon)
            self.k_norm = Norm((L, D), ("layers", "head_dim"), config.norm_epsilon)

    @property
    def qkv_weights(self) -> list[Weight]:
        """The input projections of queries, keys and values."""
        return [layer_weight(self.q), layer_weight(self.k), layer_weight(self.v)]

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        rotation: Rotary,
        spans: Spans,
        cache: KVCache | None,
        key_positions: jax.Array,
        layout: Layout,
        *,
        observe: bool = False,
    ) -> tuple[jax.Array, KVCache | None, jax.Array | None]:
        """Compute softmax(Q K^T) V of every head, [B, T, H, D], and the largest logit where `observe`.

        With a `cache` the keys and values are written to its `key_positions` [B, T] first, and queries attend to it.
        """
        config = self.config
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = (checkpoint_name(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
        if cache is not None:
            rows = jnp.arange(q.shape[0])[:, None]
            k, v = cache = (cache[0].at[rows, key_positions].set(k), cache[1].at[rows, key_positions].set(v))
        heads = attention(
            layout, q, k, v, spans,
            scale=config.head_dim**-0.5, logits_soft_cap=config.attention_soft_cap, implementation=config.attention,
        )  # fmt: skip
        logit = largest_logit(q, k, spans, config.head_dim**-0.5) if observe else None
        return heads, cache, logit


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): `(swish(x gate) * (x up)) down`."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        L, E, F = config.n_layers, config.d_model, config.d_ff
        self.gate = normal_init(config, rngs, (L, E, F), ("layers", "embed", "mlp"), fan_in=E)
        self.up = normal_init(config, rngs, (L, E, F), ("layers", "embed", "mlp"), fan_in=E)
        self.down = normal_init(config, rngs, (L, F, E), ("layers", "mlp", "embed"), fan_in=F)

    @property
    def gate_up_weights(self) -> list[Weight]:
        """The input projections of gate and up."""
        return [layer_weight(self.gate), layer_weight(self.up)]

    def __call__(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        """Compute the hidden units [B, T, F], which `down` projects back."""
        return gated(checkpoint_name(gate, "gate"), checkpoint_name(up, "up"))


# Differentiated as it stands, a layer's MLP keeps six arrays [B, T, F]; with the checkpoint gate, up and the result.
# No barrier against merging: where layers are not scanned, XLA may share what it has at hand.
@functools.partial(jax.checkpoint, prevent_cse=False)
def gated(gate: jax.Array, up: jax.Array) -> jax.Array:
    """`swish(gate) * up` of two [..., F]."""
    return jax.nn.silu(gate) * up
