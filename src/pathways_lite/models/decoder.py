"""The decoder: PaLM's parallel block and Llama's serial one, and pure functions over plain dicts of parameters.

Shapes: B batch, T position, E embed, V vocabulary, L layers. Parameters of the repeated blocks are stacked on a
leading axis of length L under the key "layers"; `jax.lax.scan` runs one block over them.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.models.activations import Activations, observe
from pathways_lite.models.layers import (
    MLP,
    Attention,
    Axes,
    Norm,
    Rotary,
    StepCache,
    add_bias,
    drop_branch,
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


class Auxiliary(NamedTuple):
    """What a forward pass gives beside hidden states: float32 scalars, summed over the blocks.

    `losses` are added to the training loss, weights included (a router's load balance, say); `metrics` are logged
    under their names. The dense blocks have neither. `activations` are not summed, but of each block, [L], where they
    are observed.
    """

    losses: dict[str, jax.Array]
    metrics: dict[str, jax.Array]
    activations: Activations | None = None


NO_AUXILIARY = Auxiliary({}, {})


class TokenLosses(NamedTuple):
    """The losses of a batch at every position."""

    nll: jax.Array  # float32 [B, T], negative log likelihood of the target, nats
    log_z: jax.Array  # float32 [B, T], log of the softmax's normalizer
    auxiliary: Auxiliary = NO_AUXILIARY
    smoothed_nll: jax.Array | None = None  # float32 [B, T], what is trained on with label smoothing; None: `nll`


LossFn = Callable[[Any, Batch, jax.Array], TokenLosses]
"""(params, batch, dropout key) -> losses of every position."""


Segments = Sequence[tuple[int, int, frozenset[str]]]
"""Runs of blocks (first, end, names of arrays without gradients in them); (): one run, with all gradients."""


class BlockInputs(NamedTuple):
    """Inputs that all blocks of one forward pass share."""

    rotation: Rotary
    local_rotation: Rotary | None  # of layers with a window, where theirs differs
    spans: Spans
    key_positions: jax.Array  # int32 [B, T], where each query stands on the key axis
    layout: Layout
    observe: bool = False  # whether blocks return `Activations`
    segments: Segments = ()


class PerLayer(NamedTuple):
    """Inputs that differ from block to block, besides the parameters; None where the model has no such thing."""

    window: jax.Array | None = None  # int32, sliding window in tokens
    dropout_key: jax.Array | None = None
    cache: StepCache | None = None
    drop_rate: jax.Array | None = None  # float32, probability of stochastic depth


class BlockOutputs(NamedTuple):
    """What a block returns beside the residual stream; stacked on a layer axis by the scan over blocks."""

    cache: StepCache | None
    auxiliary: Auxiliary


def residual_norm(config: Model, shape: tuple[int, ...], axes: Axes) -> Norm:
    """The norm over the embed axis that the model uses everywhere in the residual stream."""
    return Norm(shape, axes, config.norm_epsilon, centered=config.norm == "layer", bias=config.has_bias("norm"))


class Block(nnx.Module):
    """One transformer block: made with the parameters of all layers stacked, called on one layer's slice of them.

    parallel (PaLM section 2): y = x + MLP(N(x)) + Attention(N(x)), one shared norm, or one each (GPT-NeoX).
    serial (Llama):            h = x + Attention(N1(x)),  y = h + MLP(N2(h)).
    Norms may also be after the branches, h = x + N1(Attention(x)) (OLMo 2), or on both sides (Gemma 2).
    """

    def __init__(self, config: Model, rngs: nnx.Rngs):
        self.config = config
        norm = functools.partial(residual_norm, config, (config.n_layers, config.d_model), ("layers", "embed"))
        if config.block == "parallel" and config.parallel_norms is None:
            self.norm = norm()
        elif config.norm_position != "post":
            self.attention_norm, self.mlp_norm = norm(), norm()
        if config.norm_position is not None:
            self.attention_post_norm, self.mlp_post_norm = norm(), norm()
        self.attention = Attention(config, rngs)
        self.mlp = MLP(config, rngs)

    def __call__(self, x: jax.Array, inputs: BlockInputs, layer: PerLayer) -> tuple[jax.Array, BlockOutputs]:
        layout, attention, mlp = inputs.layout, self.attention, self.mlp
        if self.config.block == "parallel":
            if self.config.parallel_norms is None:
                q, k, v, *hidden = project_in(layout, self.norm(x), [*attention.qkv_weights, *mlp.in_weights])
            else:
                q, k, v = project_in(layout, self.attention_norm(x), attention.qkv_weights)
                hidden = project_in(layout, self.mlp_norm(x), mlp.in_weights)
            heads, cache, logit = self._attend(q, k, v, inputs, layer)
            x = x + self._add_branches(layer, layout, attention=heads, mlp=mlp(*hidden))
        else:
            is_normed = self.config.norm_position != "post"
            q, k, v = project_in(layout, self.attention_norm(x) if is_normed else x, attention.qkv_weights)
            heads, cache, logit = self._attend(q, k, v, inputs, layer)
            x = x + self._add_branches(layer, layout, attention=heads)
            hidden = project_in(layout, self.mlp_norm(x) if is_normed else x, mlp.in_weights)
            x = x + self._add_branches(layer, layout, mlp=mlp(*hidden))
        activations = None if logit is None else observe(x, logit)
        return x, BlockOutputs(cache, NO_AUXILIARY._replace(activations=activations))

    def _attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, inputs: BlockInputs, layer: PerLayer
    ) -> tuple[jax.Array, StepCache | None, jax.Array | None]:
        """softmax(Q K^T) V of every head, [B, T, H, D], before the output projection; the largest logit, or None."""
        rotation, spans, key_positions = inputs.rotation, inputs.spans, inputs.key_positions
        if layer.window is not None:
            spans = Spans(jnp.maximum(spans.start, key_positions + 1 - layer.window), spans.stop)
            if inputs.local_rotation is not None:
                is_local = layer.window < NO_WINDOW
                rotation = jax.tree.map(functools.partial(jnp.where, is_local), inputs.local_rotation, rotation)
        return self.attention(
            q, k, v, rotation, spans, layer.cache, key_positions, inputs.layout, observe=inputs.observe
        )

    def _add_branches(self, layer: PerLayer, layout: Layout, **branches: jax.Array) -> jax.Array:
        """Sum the output projections of the `attention` heads and the `mlp`'s hidden units.

        Each has its bias, norm and dropout where the model has them. Stochastic depth drops the sum: in a serial block
        attention and MLP draw by themselves.
        """
        weights = {"attention": self.attention.out, "mlp": self.mlp.down}
        biases = {"attention": self.attention.out_bias, "mlp": self.mlp.down_bias}
        terms = {name: (value, layer_weight(weights[name])) for name, value in branches.items()}
        dropout_key = layer.dropout_key if self.config.dropout > 0.0 else None
        if dropout_key is None and self.config.norm_position is None:
            total = functools.reduce(add_bias, [biases[name] for name in terms], project_out(layout, [*terms.values()]))
        else:
            outputs = {name: add_bias(project_out(layout, [term]), biases[name]) for name, term in terms.items()}
            if self.config.norm_position is not None:
                norms = {"attention": self.attention_post_norm, "mlp": self.mlp_post_norm}
                outputs = {name: norms[name](output) for name, output in outputs.items()}
            if dropout_key is not None:
                keys = dict(zip(weights, jax.random.split(dropout_key), strict=True))
                outputs = {name: dropout(x, self.config.dropout, keys[name]) for name, x in outputs.items()}
            total = functools.reduce(operator.add, outputs.values())
        if layer.dropout_key is None or layer.drop_rate is None:
            return total
        # `split` above gives the keys 0 and 1 of a layer's.
        key = jax.random.fold_in(layer.dropout_key, 2 + list(weights).index(next(iter(branches))))
        return drop_branch(total, layer.drop_rate, key, by_row=self.config.stochastic_depth_by != "batch")


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


def block_inputs(
    config: Model,
    positions: jax.Array,
    spans: Spans,
    key_positions: jax.Array,
    layout: Layout,
    *,
    observe: bool = False,
    segments: Segments = (),
) -> BlockInputs:
    """Return what all blocks share, for tokens at `positions` int32 [B, T]."""
    rotation = rotary(positions, config.rotary_dim, config.rope_base, config.rope_scaling)
    base = config.local_rope_base
    local_rotation = None if base is None else rotary(positions, config.rotary_dim, base)
    return BlockInputs(rotation, local_rotation, spans, key_positions, layout, observe, segments)


def per_layer_inputs(config: Model, dropout_key: jax.Array | None = None, cache: StepCache | None = None) -> PerLayer:
    """Build the inputs that differ between blocks, stacked on a leading axis as the parameters are."""
    window = None
    if config.window is not None and any(w is not None for w in config.window):
        pattern = [NO_WINDOW if w is None else min(w, NO_WINDOW) for w in config.window]
        window = jnp.tile(jnp.array(pattern, jnp.int32), config.n_layers // len(pattern))
    drop_rate = None
    if dropout_key is not None and config.stochastic_depth:
        drop_rate = config.stochastic_depth / config.n_layers * jnp.arange(1, config.n_layers + 1, dtype=jnp.float32)
    if dropout_key is not None and (config.dropout > 0.0 or drop_rate is not None):
        dropout_key = jax.vmap(functools.partial(jax.random.fold_in, dropout_key))(jnp.arange(config.n_layers))
    else:
        dropout_key = None
    return PerLayer(window, dropout_key, cache, drop_rate)


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
    z = jnp.einsum("...e,ve->...v", hidden, weights, preferred_element_type=jnp.float32) * config.resolved_logit_scale
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
