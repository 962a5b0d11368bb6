"""The decoder: PaLM's parallel block and Llama's serial one, and pure functions over plain dicts of parameters.

Shapes: B batch, T position, E embed, V vocabulary, L layers. Parameters of the repeated blocks are stacked on a
leading axis of length L under the key "layers"; `jax.lax.scan` runs one block over them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_kernels.linear.products import matmul_rhs_transposed
from pathways_lite.batch import Batch
from pathways_lite.models.block import (
    NO_AUXILIARY,
    Auxiliary,
    Block,
    BlockInputs,
    BlockOutputs,
    PerLayer,
    Segments,
    block_inputs,
    per_layer_inputs,
    residual_norm,
)
from pathways_lite.models.layers import normal_init
from pathways_lite.models.remat import rematerialized
from pathways_lite.models.step_cache import StepCache
from pathways_lite.parallel.sharded_ops import cross_entropy, embedding_lookup
from pathways_lite.parallel.sharding import Layout
from pathways_lite.recipe import Model

Params = dict[str, Any]  # nested, of float32 arrays

ONE_DEVICE = Layout()


class TokenLosses(NamedTuple):
    """The losses of a batch at every position."""

    nll: jax.Array  # float32 [B, T], negative log likelihood of the target, nats
    log_z: jax.Array  # float32 [B, T], log of the softmax's normalizer
    auxiliary: Auxiliary = NO_AUXILIARY
    smoothed_nll: jax.Array | None = None  # float32 [B, T], what is trained on with label smoothing; None: `nll`


LossFn = Callable[[Any, Batch, jax.Array], TokenLosses]
"""(params, batch, dropout key) -> losses of every position."""


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
        self, tokens: jax.Array, inputs: BlockInputs, dropout_key: jax.Array | None, cache: StepCache | None
    ) -> tuple[jax.Array, BlockOutputs]:
        config = self.config
        x = embed(config, self.embedding[...], tokens, inputs.layout)
        structure, stacked = nnx.split(self.layers)

        def block(x: jax.Array, scanned: tuple[Any, PerLayer]) -> tuple[jax.Array, BlockOutputs]:
            params, layer = scanned
            return nnx.merge(structure, params)(x, inputs, layer)

        per_layer = stacked, per_layer_inputs(config, dropout_key, cache)
        with jax.named_scope("layers"):  # `plan` tells by it what a layer's operation is
            parts = []
            for part in _cut(per_layer, inputs.segments):
                x, outputs = _run(config, block, x, part, gathers=inputs.layout.is_sharded)
                parts.append(outputs)
        outputs = parts[0] if len(parts) == 1 else jax.tree.map(lambda *runs: jnp.concatenate(runs), *parts)
        auxiliary = jax.tree.map(lambda layers: jnp.sum(layers, axis=0), outputs.auxiliary._replace(activations=None))
        auxiliary = auxiliary._replace(activations=outputs.auxiliary.activations)
        return self.final_norm(x), BlockOutputs(outputs.cache, auxiliary)


def embed(config: Model, embedding: jax.Array, tokens: jax.Array, layout: Layout) -> jax.Array:
    """Return the residual stream [B, T, E] below the first block."""
    x = embedding_lookup(layout, embedding, tokens, config.dtype)
    return x if config.embedding_scale is None else x * config.embedding_scale


def _cut(per_layer: tuple[Any, PerLayer], segments: Segments) -> list[tuple[Any, PerLayer]]:
    """Cut what is stacked for all blocks into runs of them, without the gradients that a run does not need."""
    if not segments:
        return [per_layer]

    def stop(path: Any, leaf: jax.Array, names: frozenset[str]) -> jax.Array:
        name = jax.tree_util.keystr(path[:-1], simple=True, separator=".")  # the last key is nnx's "value"
        return jax.lax.stop_gradient(leaf) if f"layers.{name}" in names else leaf

    runs = []
    for first, end, names in segments:
        params, rest = jax.tree.map(lambda leaf, first=first, end=end: leaf[first:end], per_layer)
        runs.append((jax.tree.map_with_path(functools.partial(stop, names=names), params), rest))
    return runs


def _run(config: Model, block: Any, x: jax.Array, stacked: Any, *, gathers: bool) -> tuple[jax.Array, Any]:
    """Scan (or unroll) `block` over the leading axis of `stacked`, under the recomputation policy config.remat."""
    block = rematerialized(block, config.remat, gathers=gathers, scanned=config.scan_layers)
    if config.scan_layers:
        return jax.lax.scan(block, x, stacked)
    outputs = []
    for i in range(len(jax.tree.leaves(stacked)[0])):
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
    key_positions: jax.Array,
    *,
    dropout_key: jax.Array | None = None,
    cache: StepCache | None = None,
    layout: Layout = ONE_DEVICE,
    observe: bool = False,
    segments: Segments = (),
) -> tuple[jax.Array, BlockOutputs]:
    """`apply` for queries at the positions `key_positions` int32 [B, T] of a cache of keys and values [L, B, S, K, D].

    Returns the hidden states, the new cache, the auxiliary losses and metrics of all blocks together and, where they
    are to be observed, the sizes of their activations. `segments`: where gradients of some blocks' arrays are not
    needed; the values do not depend on it.
    """
    decoder = nnx.merge(_skeleton(config)[0], params)
    inputs = block_inputs(config, positions, spans, key_positions, layout, observe=observe, segments=segments)
    return decoder(tokens, inputs, dropout_key, cache)


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
    """Return the final-normed hidden states [B, T, E] in config.dtype.

    `tokens` and `positions` (for RoPE) are int32 [B, T]; `spans` [B, T] says which of the T keys each position sees
    (a layer's window narrows it further). Without `dropout_key` there is no dropout. `layout`: how parameters and batch
    are sharded; the values do not depend on it.
    """
    key_positions = _all_positions(tokens)
    return forward(config, params, tokens, positions, spans, key_positions, dropout_key=dropout_key, layout=layout)[0]


def _all_positions(tokens: jax.Array) -> jax.Array:
    return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]


def head(config: Model, params: Params) -> jax.Array:
    """The output matrix [V, E]: the embedding itself where it is tied."""
    return params["embedding"] if config.tie_embeddings else params["head"]


def logits(config: Model, params: Params, hidden: jax.Array) -> jax.Array:
    """Scaled and capped logits [..., V] in float32 of `hidden` [..., E]."""
    weights = head(config, params).astype(hidden.dtype)
    z = matmul_rhs_transposed(hidden, weights, jnp.float32) * config.resolved_logit_scale
    return z if config.logit_soft_cap is None else config.logit_soft_cap * jnp.tanh(z / config.logit_soft_cap)


def token_losses(
    config: Model,
    params: Params,
    batch: Batch,
    *,
    dropout_key: jax.Array | None = None,
    layout: Layout = ONE_DEVICE,
    observe: bool = False,
    segments: Segments = (),
    label_smoothing: float = 0.0,
) -> TokenLosses:
    """Return the losses of every position; the logits are never held at once. `observe`, `segments`: see `forward`.

    With `label_smoothing` s the target's distribution is (1 - s) of the token and s / V of every id of the vocabulary
    (Szegedy et al. 2016, arXiv 1512.00567, section 7), whose cross-entropy is
    (1 - s) (log Z - z_target) + s (log Z - mean z). `nll` and `log_z` stay those of the tokens.
    """
    hidden, outputs = forward(
        config, params, batch.tokens, batch.positions, batch.spans, _all_positions(batch.tokens),
        dropout_key=dropout_key, layout=layout, observe=observe, segments=segments,
    )  # fmt: skip
    scale, cap = config.resolved_logit_scale, config.logit_soft_cap
    nll, log_z, *means = cross_entropy(
        layout,
        hidden,
        head(config, params),
        batch.targets,
        mean_logit=label_smoothing > 0.0,
        logit_scale=scale,
        soft_cap=cap,
    )
    smoothed = [(1.0 - label_smoothing) * nll + label_smoothing * (log_z - mean) for mean in means]
    return TokenLosses(nll, log_z, outputs.auxiliary, *smoothed)
