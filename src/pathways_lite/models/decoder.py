"""The decoder: PaLM's parallel block and Llama's serial one, and pure functions over plain dicts of parameters.

Shapes: B batch, T position, E embed, V vocabulary, L layers. Parameters of the repeated blocks are stacked on a
leading axis of length L under the key "layers"; `jax.lax.scan` runs one block over them.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.models.layers import (
    MLP,
    Attention,
    Axes,
    KVCache,
    Norm,
    Rotary,
    dropout,
    layer_weight,
    normal_init,
    rotary,
)
from pathways_lite.models.remat import rematerialized
from pathways_lite.parallel.sharded_ops import cross_entropy, embedding_lookup, project_in, project_out
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model

Params = dict[str, Any]  # nested, of float32 arrays

ONE_DEVICE = Layout()

NO_WINDOW = 1 << 30  # longer than any sequence, and far from the end of int32


class BlockInputs(NamedTuple):
    """What every block of one forward pass shares."""

    rotation: Rotary
    spans: Spans
    key_positions: jax.Array  # int32 [B, T], where each query stands on the key axis
    layout: Layout


class PerLayer(NamedTuple):
    """What differs from block to block besides the parameters; None where the model does without."""

    window: jax.Array | None = None  # int32, sliding window in tokens
    dropout_key: jax.Array | None = None
    cache: KVCache | None = None


def residual_norm(config: Model, shape: tuple[int, ...], axes: Axes) -> Norm:
    """The norm over the embed axis that the model uses everywhere in the residual stream."""
    return Norm(shape, axes, config.norm_epsilon, centered=config.norm == "layer")


class Block(nnx.Module):
    """One transformer block: made with the parameters of all layers stacked, called on one layer's slice of them.

    parallel (PaLM section 2): y = x + MLP(N(x)) + Attention(N(x)), one shared norm.
    serial (Llama):            h = x + Attention(N1(x)),  y = h + MLP(N2(h)).
    """

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.config = config
        shape, axes = (config.n_layers, config.d_model), ("layers", "embed")
        if config.block == "parallel":
            self.norm = residual_norm(config, shape, axes)
        else:
            self.attention_norm = residual_norm(config, shape, axes)
            self.mlp_norm = residual_norm(config, shape, axes)
        self.attention = Attention(config, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: jax.Array, context: BlockInputs, layer: PerLayer) -> tuple[jax.Array, KVCache | None]:
        layout, attention, mlp = context.layout, self.attention, self.mlp
        if self.config.block == "parallel":
            q, k, v, gate, up = project_in(layout, self.norm(x), [*attention.inputs, *mlp.inputs])
            mixed, cache = self._attend(q, k, v, context, layer)
            return x + self._branches(layer, layout, mixed=mixed, activations=mlp(gate, up)), cache
        q, k, v = project_in(layout, self.attention_norm(x), attention.inputs)
        mixed, cache = self._attend(q, k, v, context, layer)
        x = x + self._branches(layer, layout, mixed=mixed)
        gate, up = project_in(layout, self.mlp_norm(x), mlp.inputs)
        return x + self._branches(layer, layout, activations=mlp(gate, up)), cache

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, context: BlockInputs, layer: PerLayer
    ) -> tuple[jax.Array, KVCache | None]:
        rotation, spans, slots, layout = context
        if layer.window is not None:
            spans = Spans(jnp.maximum(spans.start, slots + 1 - layer.window), spans.stop)
        return self.attention(q, k, v, rotation, spans, layer.cache, slots, layout)

    def _branches(self, layer: PerLayer, layout: Layout, **branches: jax.Array) -> jax.Array:
        """What attention ("mixed") and MLP ("activations") add to the residual stream; dropout falls on each."""
        outputs = {"mixed": self.attention.out, "activations": self.mlp.down}
        terms = {name: (value, layer_weight(outputs[name])) for name, value in branches.items()}
        if layer.dropout_key is None:
            return project_out(layout, list(terms.values()))
        keys = dict(zip(outputs, jax.random.split(layer.dropout_key), strict=True))
        dropped = (dropout(project_out(layout, [terms[name]]), self.config.dropout, keys[name]) for name in terms)
        return functools.reduce(operator.add, dropped)


class Decoder(nnx.Module):
    """Embedding, stacked blocks, final norm. `head` exists where the embedding is not tied."""

    def __init__(self, config: Model, rngs: nnx.Rngs):
        V, E = config.vocab_size, config.d_model
        self.config = config
        self.embedding = normal_init(config, rngs, (V, E), ("vocab", "embed"), fan_in=1)  # PaLM section 5: N(0, 1)
        if not config.tie_embeddings:
            self.head = normal_init(config, rngs, (V, E), ("vocab", "embed"), fan_in=E)
        self.layers = Block(config, rngs)
        self.final_norm = residual_norm(config, (E,), ("embed",))

    def __call__(
        self, tokens: jax.Array, context: BlockInputs, dropout_key: jax.Array | None, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        config = self.config
        x = embedding_lookup(context.layout, self.embedding[...], tokens, config.dtype)
        structure, stacked = nnx.split(self.layers)

        def block(x: jax.Array, scanned: tuple[Any, PerLayer]) -> tuple[jax.Array, KVCache | None]:
            params, layer = scanned
            return nnx.merge(structure, params)(x, context, layer)

        per_layer = stacked, _per_layer(config, dropout_key, cache)
        with jax.named_scope("layers"):  # `plan` tells by it what a layer's operation is
            x, cache = _run(config, block, x, per_layer, gathers=context.layout.is_spread)
        return self.final_norm(x), cache


def _per_layer(config: Model, dropout_key: jax.Array | None, cache: KVCache | None) -> PerLayer:
    """The blocks' differences, stacked on the leading axis as the parameters are."""
    window = None
    if config.window is not None and any(w is not None for w in config.window):
        pattern = [NO_WINDOW if w is None else min(w, NO_WINDOW) for w in config.window]
        window = jnp.tile(jnp.array(pattern, jnp.int32), config.n_layers // len(pattern))
    if dropout_key is not None and config.dropout > 0.0:
        dropout_key = jax.vmap(functools.partial(jax.random.fold_in, dropout_key))(jnp.arange(config.n_layers))
    else:
        dropout_key = None
    return PerLayer(window, dropout_key, cache)


def _run(config: Model, block: Any, x: jax.Array, stacked: Any, *, gathers: bool) -> tuple[jax.Array, Any]:
    """Scan (or unroll) `block` over the leading axis of `stacked`, under the recomputation policy config.remat."""
    block = rematerialized(block, config.remat, gathers=gathers, scanned=config.scan_layers)
    if config.scan_layers:
        return jax.lax.scan(block, x, stacked)
    outputs = []
    for i in range(config.n_layers):
        x, output = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        outputs.append(output)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


@functools.lru_cache(maxsize=64)
def _skeleton(config: Model) -> tuple[nnx.GraphDef, nnx.State]:
    """The module's structure and its state without values."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(params=jax.random.key(0)))))
    return graphdef, state


def init(config: Model, key: jax.Array) -> Params:
    """Random float32 parameters from a `jax.random` key; those of a layer do not depend on the number of layers.

    Called as it is, it compiles one small program per shape and keeps it; jit it to make the parameters sharded.
    """
    return nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(params=key))))


def abstract_params(config: Model) -> Params:
    """The tree of `init` as `jax.ShapeDtypeStruct`s; allocates nothing."""
    return nnx.to_pure_dict(_skeleton(config)[1])


def logical_axes(config: Model) -> Params:
    """The tree of `init` with a tuple per array, of names out of layers, embed, heads, kv, head_dim, mlp, vocab."""
    _, state = _skeleton(config)
    axes = jax.tree.map(lambda param: param.axes, state, is_leaf=lambda leaf: isinstance(leaf, nnx.Param))
    return nnx.to_pure_dict(axes)


def forward(
    config: Model,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    spans: Spans,
    slots: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    cache: KVCache | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, KVCache | None]:
    """`apply` for queries that stand at `slots` int32 [B, T] of a cache of keys and values [L, B, S, K, D]."""
    decoder = nnx.merge(_skeleton(config)[0], params)
    context = BlockInputs(rotary(positions, config.head_dim, config.rope_base), spans, slots, layout)
    return decoder(tokens, context, dropout_key, cache)


def apply(
    config: Model,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    spans: Spans,
    *,
    dropout_key: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
) -> jax.Array:
    """Final-normed hidden states [B, T, E] in config.dtype.

    `tokens` and `positions` (for RoPE) are int32 [B, T]; `spans` [B, T] says which of the T keys each position sees
    (a layer's window narrows it further). Without `dropout_key` there is no dropout. `layout`: how parameters and batch
    are spread; the values do not depend on it.
    """
    slots = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
    return forward(config, params, tokens, positions, spans, slots, dropout_key=dropout_key, layout=layout)[0]


def head(config: Model, params: Params) -> jax.Array:
    """The output matrix [V, E]: the embedding itself where it is tied."""
    return params["embedding"] if config.tie_embeddings else params["head"]


def logits(config: Model, params: Params, hidden: jax.Array) -> jax.Array:
    """Scaled and capped logits [..., V] in float32 of `hidden` [..., E]."""
    weights = head(config, params).astype(hidden.dtype)
    z = jnp.einsum("...e,ve->...v", hidden, weights, preferred_element_type=jnp.float32) * config.resolved_logit_scale
    return z if config.logit_soft_cap is None else config.logit_soft_cap * jnp.tanh(z / config.logit_soft_cap)


def token_losses(
    config: Model,
    params: Params,
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
) -> tuple[jax.Array, jax.Array]:
    """Negative log likelihood of every target and log Z, both float32 [B, T]; the logits are never held at once."""
    tokens, positions, spans = batch.tokens, batch.positions, batch.spans
    hidden = apply(config, params, tokens, positions, spans, dropout_key=dropout_key, layout=layout)
    scale, cap = config.resolved_logit_scale, config.logit_soft_cap
    return cross_entropy(layout, hidden, head(config, params), batch.targets, logit_scale=scale, soft_cap=cap)
