"""Names and layouts of tensors in published checkpoints, as data: which of our arrays each tensor holds, and how.

A `Linear` of PyTorch computes x W^T, so its weight is [out, in] where ours is [in, ...] for what reads the residual
stream and [..., embed] for what writes to it. {i} stands for a layer's number; our arrays are stacked over the layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import numpy as np

from pathways_lite import models
from pathways_lite.models.params import ParamSpec
from pathways_lite.recipe import Model


class Layout(Enum):
    """How a tensor differs from our array, apart from the transposition of a matrix."""

    PLAIN = "plain"
    OFFSET = "offset"  # a norm computes (1 + weight), so ours is the weight + 1 (Gemma)
    INTERLEAVED = "interleaved"  # RoPE pairs elements 2i and 2i + 1 of a head, ours i and i + D/2 (Cohere, GPT-J)
    FUSED = "fused"  # queries, keys and values in one, [heads, 3, D] along the output (GPT-NeoX)
    CONCATENATED = "concatenated"  # the same as [3, heads, D] (llama.cpp's GPT-NeoX)


@dataclass(frozen=True)
class Tensor:
    """One tensor of a published checkpoint, and the arrays of ours that it holds."""

    name: str
    arrays: tuple[str, ...]
    layout: Layout = Layout.PLAIN


ATTENTION = {
    "self_attn.q_proj.weight": "attention.q",
    "self_attn.k_proj.weight": "attention.k",
    "self_attn.v_proj.weight": "attention.v",
    "self_attn.o_proj.weight": "attention.out",
    "self_attn.q_proj.bias": "attention.q_bias",
    "self_attn.k_proj.bias": "attention.k_bias",
    "self_attn.v_proj.bias": "attention.v_bias",
    "self_attn.o_proj.bias": "attention.out_bias",
    "self_attn.q_norm.weight": "attention.q_norm.scale",
    "self_attn.k_norm.weight": "attention.k_norm.scale",
}
MLP = {
    "mlp.gate_proj.weight": "mlp.gate",
    "mlp.up_proj.weight": "mlp.up",
    "mlp.down_proj.weight": "mlp.down",
    "mlp.gate_proj.bias": "mlp.gate_bias",
    "mlp.up_proj.bias": "mlp.up_bias",
    "mlp.down_proj.bias": "mlp.down_bias",
}
PRE_NORMS = {
    "input_layernorm.weight": "attention_norm.scale",
    "post_attention_layernorm.weight": "mlp_norm.scale",
}
POST_NORMS = {
    "post_attention_layernorm.weight": "attention_post_norm.scale",
    "post_feedforward_layernorm.weight": "mlp_post_norm.scale",
}
BOTH_NORMS = POST_NORMS | {
    "input_layernorm.weight": "attention_norm.scale",
    "pre_feedforward_layernorm.weight": "mlp_norm.scale",
}
ONE_NORM = {"input_layernorm.weight": "norm.scale"}
OUTSIDE = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "final_norm.scale",
    "lm_head.weight": "head",
}

NEOX_LAYER = {
    "input_layernorm.weight": "attention_norm.scale",
    "input_layernorm.bias": "attention_norm.bias",
    "post_attention_layernorm.weight": "mlp_norm.scale",
    "post_attention_layernorm.bias": "mlp_norm.bias",
    "attention.query_key_value.weight": "attention.q attention.k attention.v",
    "attention.query_key_value.bias": "attention.q_bias attention.k_bias attention.v_bias",
    "attention.dense.weight": "attention.out",
    "attention.dense.bias": "attention.out_bias",
    "mlp.dense_h_to_4h.weight": "mlp.up",
    "mlp.dense_h_to_4h.bias": "mlp.up_bias",
    "mlp.dense_4h_to_h.weight": "mlp.down",
    "mlp.dense_4h_to_h.bias": "mlp.down_bias",
}
NEOX_OUTSIDE = {
    "gpt_neox.embed_in.weight": "embedding",
    "gpt_neox.final_layer_norm.weight": "final_norm.scale",
    "gpt_neox.final_layer_norm.bias": "final_norm.bias",
    "embed_out.weight": "head",
}

SAME_TENSOR = {"lm_head.weight": "embed_out.weight"}
"""Tensors that newer files name otherwise, where the older name is not there."""

IGNORED = re.compile(r"(rotary_emb\.inv_freq|gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias))$")
"""Tensors of older files that are constants of the architecture, not parameters."""


def _layers(prefix: str, *tables: Mapping[str, str]) -> dict[str, str]:
    """Join tables of one layer's names, with the prefix that each layer has."""
    joined = {name: array for table in tables for name, array in table.items()}
    return {
        f"{prefix}.{{i}}.{name}": " ".join(f"layers.{array}" for array in arrays.split())
        for name, arrays in joined.items()
    }


NAMES: dict[str, dict[str, str]] = {
    "llama": OUTSIDE | _layers("model.layers", ATTENTION, MLP, PRE_NORMS),
    "gemma2": OUTSIDE | _layers("model.layers", ATTENTION, MLP, BOTH_NORMS),
    "olmo2": OUTSIDE | _layers("model.layers", ATTENTION, MLP, POST_NORMS),
    "cohere": OUTSIDE | _layers("model.layers", ATTENTION, MLP, ONE_NORM),
    "gpt_neox": NEOX_OUTSIDE | _layers("gpt_neox.layers", NEOX_LAYER),
}
"""Tables of names: of every tensor that a family may have, the arrays that it holds."""


def tensors(names: str, model: Model, *, offset_norms: bool = False, interleaved: bool = False) -> list[Tensor]:
    """List the tensors of one layer ({i} in the name) and those outside the layers that `model` has.

    Args:
      names: a key of `NAMES`.
      offset_norms: norms compute (1 + weight).
      interleaved: RoPE pairs neighbors.
    """
    existing = {spec.name for spec in jax.tree.leaves(models.param_specs(model))}
    listed = []
    for name, joined in NAMES[names].items():
        arrays = tuple(joined.split())
        if not existing.issuperset(arrays):
            continue
        layout = Layout.PLAIN
        if len(arrays) > 1:
            layout = Layout.FUSED
        elif offset_norms and arrays[0].endswith("norm.scale"):
            layout = Layout.OFFSET
        elif interleaved and re.search(r"attention\.[qk](_bias)?$", arrays[0]):
            layout = Layout.INTERLEAVED
        listed.append(Tensor(name, arrays, layout))
    return listed


def tensor_shape(tensor: Tensor, specs: Mapping[str, ParamSpec]) -> tuple[int, ...]:
    """Return the shape that the tensor must have: one layer's, where it is of a layer."""
    shapes = [_flat_shape(specs[name]) for name in tensor.arrays]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def to_ours(tensor: Tensor, value: np.ndarray, array: ParamSpec) -> np.ndarray:
    """Convert a float32 tensor, or rows of one that is not transposed, to the array of ours that it holds."""
    if tensor.layout is Layout.FUSED:
        heads, head_dim = array.shape[-2:]
        value = value.reshape(heads, len(tensor.arrays), head_dim, -1)[:, _position(tensor, array)]
        value = value.reshape(heads * head_dim, -1) if array.is_matrix else value.reshape(-1)
    if tensor.layout is Layout.CONCATENATED:
        value = np.split(value, len(tensor.arrays))[_position(tensor, array)]
    if tensor.layout is Layout.OFFSET:
        value = value + np.float32(1.0)
    if tensor.layout is Layout.INTERLEAVED:
        heads, head_dim = array.shape[-2:]
        value = value.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
    if _is_transposed(array):
        value = value.T
    return np.ascontiguousarray(value).reshape(array.shape if array.stacked else value.shape)


def to_theirs(tensor: Tensor, values: list[np.ndarray], arrays: list[ParamSpec]) -> np.ndarray:
    """Convert float32 arrays of ours to the tensor that holds them: the inverse of `to_ours`."""
    flat = [_transposed(value, array) for value, array in zip(values, arrays, strict=True)]
    if tensor.layout is Layout.FUSED:
        heads, head_dim = arrays[0].shape[-2:]
        stacked = np.stack([value.reshape(heads, head_dim, -1) for value in flat], axis=1)
        return stacked.reshape(-1, *flat[0].shape[1:])
    if tensor.layout is Layout.CONCATENATED:
        return np.concatenate(flat)
    (value,) = flat
    if tensor.layout is Layout.OFFSET:
        return value - np.float32(1.0)
    if tensor.layout is Layout.INTERLEAVED:
        heads, head_dim = arrays[0].shape[-2:]
        return value.reshape(heads, 2, head_dim // 2, -1).swapaxes(1, 2).reshape(value.shape)
    return value


def _position(tensor: Tensor, array: ParamSpec) -> int:
    return tensor.arrays.index(array.name)


def _is_transposed(array: ParamSpec) -> bool:
    """Whether the array is a kernel of a block, which `Linear` stores transposed; tables [V, E] are as ours."""
    return array.stacked and array.is_matrix


def _flat_shape(array: ParamSpec) -> tuple[int, ...]:
    """The shape of the published tensor that holds this array alone."""
    size = int(np.prod(array.shape))
    if not _is_transposed(array):
        return array.shape if array.is_matrix else (size,)
    embed = array.shape[array.axes.index("embed")]
    return (embed, size // embed) if array.is_out_projection else (size // embed, embed)


def _transposed(value: np.ndarray, array: ParamSpec) -> np.ndarray:
    if not _is_transposed(array):
        return value if array.is_matrix else value.reshape(-1)
    rows, columns = _flat_shape(array)
    return np.ascontiguousarray(value.reshape(columns, rows).T)


def specs_by_name(model: Model) -> dict[str, Any]:
    """Return the specification of every array of the model by its name."""
    return {spec.name: spec for spec in jax.tree.leaves(models.param_specs(model))}
