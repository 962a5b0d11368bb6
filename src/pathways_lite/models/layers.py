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
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pathways_kernels.attention import Spans
from pathways_lite.models.activations import largest_logit
from pathways_lite.models.rope_scaling import scaled_frequencies
from pathways_lite.models.step_cache import StepCache
from pathways_lite.parallel.sharded_ops import Weight, attention
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Activation, Model, RopeScaling

# ---- rotary position embedding (Su et al. 2021, arXiv 2104.09864), computed in float32 ----


class Rotary(NamedTuple):
    """The rotation of every position: cosines and sines, float32 [B, T, D/2]."""

    cos: jax.Array
    sin: jax.Array


def rotary(positions: jax.Array, head_dim: int, base: float, scaling: RopeScaling | None = None) -> Rotary:
    """Compute the rotation by `position * base^(-2i/D)` for the pairs i = 0 .. D/2-1 of `positions` int32 [B, T].

    `scaling` changes the frequencies; D is the number of dimensions that rotate.
    """
    frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    factor = 1.0
    if scaling is not None:
        frequencies, factor = scaled_frequencies(frequencies, base, scaling)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    rotation = Rotary(jnp.cos(angles), jnp.sin(angles))
    return rotation if factor == 1.0 else Rotary(factor * rotation.cos, factor * rotation.sin)


def rotate(x: jax.Array, rotation: Rotary) -> jax.Array:
    """Rotate the heads `x` [B, T, heads, D], result in x.dtype; dimensions beyond those of `rotation` stay.

    Half-split pairing: element i turns with element i + D/2 (as in GPT-NeoX and the published Llama weights
    in the Hugging Face layout; the paper pairs 2i with 2i + 1, which is the same up to a permutation of D).
    """
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]
    turning = x if x.shape[-1] == 2 * cos.shape[-1] else x[..., : 2 * cos.shape[-1]]
    first, second = jnp.split(turning.astype(jnp.float32), 2, axis=-1)
    parts = [first * cos - second * sin, second * cos + first * sin]
    rotated = jnp.concatenate(parts, axis=-1).astype(x.dtype)
    return rotated if turning.shape == x.shape else jnp.concatenate([rotated, x[..., turning.shape[-1] :]], axis=-1)


# ---- parameters ----

Axes = tuple[str, ...]


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


def zeros(shape: tuple[int, ...], axes: Axes) -> nnx.Param:
    """Make a float32 bias, which starts at zero."""
    return nnx.Param(jnp.zeros(shape, jnp.float32), axes=axes)


def layer_weight(param: nnx.Param) -> Weight:
    """Wrap one layer's slice of a stacked kernel for the sharded products."""
    _, *axes = param.axes
    return Weight(param[...], tuple(axes))


def add_bias(x: jax.Array, bias: nnx.Param | None) -> jax.Array:
    """Add a layer's slice of a bias, in x.dtype, where there is one."""
    return x if bias is None else x + bias[...].astype(x.dtype)


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
    """RMSNorm, or LayerNorm, over the last axes; in float32, with a scale that starts at 1 and a bias that starts at 0.

    It normalizes over as many of the last axes as `over` says: 2 are all heads of a position at once.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: Axes,
        epsilon: float,
        *,
        centered: bool = False,
        bias: bool = False,
        over: int = 1,
    ):
        self.scale = nnx.Param(jnp.ones(shape, jnp.float32), axes=axes)
        self.bias = zeros(shape, axes) if bias else None
        self.epsilon, self.centered = epsilon, centered
        self.over = tuple(range(-over, 0))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.centered:
            y = y - jnp.mean(y, axis=self.over, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=self.over, keepdims=True) + self.epsilon)
        y = y * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        L, E, D, H, K = config.n_layers, config.d_model, config.head_dim, config.n_heads, config.n_kv_heads
        self.config = config
        self.q = normal_init(config, rngs, (L, E, H, D), ("layers", "embed", "heads", "head_dim"), fan_in=E)
        self.k = normal_init(config, rngs, (L, E, K, D), ("layers", "embed", "kv", "head_dim"), fan_in=E)
        self.v = normal_init(config, rngs, (L, E, K, D), ("layers", "embed", "kv", "head_dim"), fan_in=E)
        self.out = normal_init(config, rngs, (L, H, D, E), ("layers", "heads", "head_dim", "embed"), fan_in=H * D)
        has_qkv_bias = config.has_bias("qkv")
        self.q_bias = zeros((L, H, D), ("layers", "heads", "head_dim")) if has_qkv_bias else None
        self.k_bias = zeros((L, K, D), ("layers", "kv", "head_dim")) if has_qkv_bias else None
        self.v_bias = zeros((L, K, D), ("layers", "kv", "head_dim")) if has_qkv_bias else None
        self.out_bias = zeros((L, E), ("layers", "embed")) if config.has_bias("attention_out") else None
        if config.qk_norm_over == "all_heads":
            self.q_norm = Norm((L, H, D), ("layers", "heads", "head_dim"), config.norm_epsilon, over=2)
            self.k_norm = Norm((L, K, D), ("layers", "kv", "head_dim"), config.norm_epsilon, over=2)
        elif config.qk_norm:
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
        cache: StepCache | None,
        key_positions: jax.Array,
        layout: Layout,
        *,
        observe: bool = False,
    ) -> tuple[jax.Array, StepCache | None, jax.Array | None]:
        """Compute softmax(Q K^T) V of every head, [B, T, H, D], and the largest logit where `observe`.

        With a `cache` the new keys and values are appended to it, and queries attend to all of it.
        """
        config = self.config
        q, k, v = add_bias(q, self.q_bias), add_bias(k, self.k_bias), add_bias(v, self.v_bias)
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = (checkpoint_name(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
        if cache is not None:
            cache = cache.append(k, v)
            scale, soft_cap = config.resolved_attention_scale, config.attention_soft_cap
            return cache.attend(q, spans, scale=scale, soft_cap=soft_cap), cache, None
        heads = attention(
            layout, q, k, v, spans,
            scale=config.resolved_attention_scale, logits_soft_cap=config.attention_soft_cap,
            implementation=config.attention,
        )  # fmt: skip
        logit = largest_logit(q, k, spans, config.resolved_attention_scale) if observe else None
        return heads, cache, logit


class MLP(nnx.Module):
    """The hidden units of the MLP: `act(x gate) * (x up)`, or `act(x up)` without a gate, which `down` projects back.

    SwiGLU and its relatives: Shazeer 2020, arXiv 2002.05202.
    """

    def __init__(self, config: Model, rngs: nnx.Rngs):
        L, E, F = config.n_layers, config.d_model, config.d_ff
        self.activation = config.activation
        self.gate = (
            normal_init(config, rngs, (L, E, F), ("layers", "embed", "mlp"), fan_in=E) if config.is_gated else None
        )
        self.up = normal_init(config, rngs, (L, E, F), ("layers", "embed", "mlp"), fan_in=E)
        self.down = normal_init(config, rngs, (L, F, E), ("layers", "mlp", "embed"), fan_in=F)
        has_bias = config.has_bias("mlp")
        self.gate_bias = zeros((L, F), ("layers", "mlp")) if has_bias and config.is_gated else None
        self.up_bias = zeros((L, F), ("layers", "mlp")) if has_bias else None
        self.down_bias = zeros((L, E), ("layers", "embed")) if has_bias else None

    @property
    def in_weights(self) -> list[Weight]:
        """The input projections: gate, where there is one, and up."""
        return [layer_weight(param) for param in (self.gate, self.up) if param is not None]

    def __call__(self, *projected: jax.Array) -> jax.Array:
        """Compute the hidden units [B, T, F] of the projections by `in_weights`."""
        if self.gate is None:
            (up,) = projected
            return activated(checkpoint_name(add_bias(up, self.up_bias), "up"), self.activation)
        gate, up = projected
        gate = checkpoint_name(add_bias(gate, self.gate_bias), "gate")
        return gated(gate, checkpoint_name(add_bias(up, self.up_bias), "up"), self.activation)


ACTIVATIONS: dict[Activation | None, Callable[[jax.Array], jax.Array]] = {
    None: jax.nn.silu,
    "geglu": functools.partial(jax.nn.gelu, approximate=False),
    "geglu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "reglu": jax.nn.relu,
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
"""The function of each MLP's gate, or of its only input projection."""


# Differentiated as it stands, a layer's MLP keeps six arrays [B, T, F]; with the checkpoint gate, up and the result.
# No barrier against merging: where layers are not scanned, XLA may share what it has at hand.
def gated(gate: jax.Array, up: jax.Array, activation: Activation | None = None) -> jax.Array:
    """`act(gate) * up` of two [..., F]."""
    function = ACTIVATIONS[activation]
    return jax.checkpoint(lambda gate, up: function(gate) * up, prevent_cse=False)(gate, up)


def activated(up: jax.Array, activation: Activation | None) -> jax.Array:
    """`act(up)` of [..., F]."""
    return jax.checkpoint(ACTIVATIONS[activation], prevent_cse=False)(up)
