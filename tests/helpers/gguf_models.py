"""Tiny GGUF files of the published models of `hf_goldens`, as llama.cpp's converter writes them."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.hf_goldens import golden, tool

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (extra `gguf`)")

ARCHITECTURES = {
    "llama2": "llama", "llama3": "llama", "smollm": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "gemma": "gemma", "gemma2": "gemma2", "gemma3": "gemma3", "olmo2": "olmo2", "pythia": "gptneox",
    "cohere": "command-r",
}  # fmt: skip
"""Of the cases that llama.cpp knows."""

BLOCKS = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q4_K": 256, "Q6_K": 256}


KEYS = {
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "layer_norm_eps": "attention.layer_norm_epsilon",
    "logit_scale": "logit_scale",
    "use_parallel_residual": "use_parallel_residual",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Keys of config.json that a GGUF file holds as they are."""


def tensors_of(case: str, config: Mapping[str, Any], shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """What llama.cpp's converter makes of a case's tensors, by their names in GGUF files."""
    architecture = ARCHITECTURES[case]
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads")
    made = {}
    for name, shape in shapes.items():
        value = tool.draw(case, name, tuple(shape))
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):  # LlamaModel.permute
            count = heads if "q_proj" in name else kv_heads
            value = value.reshape(count, 2, len(value) // count // 2, -1).swapaxes(1, 2).reshape(value.shape)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            value = value + np.float32(1.0)
        if "query_key_value" in name:  # GPTNeoXModel.modify_tensors: [H, 3, D] becomes [3, H, D]
            value = value.reshape(heads, 3, len(value) // heads // 3, -1).swapaxes(0, 1).reshape(value.shape)
        made[names.get_name(name, try_suffixes=(".weight", ".bias"))] = value
    return made


def metadata_of(case: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What llama.cpp's converter makes of a case's config.json, without the architecture's name before the keys."""
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    values: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "rope.freq_base": float(full["rope_theta"]),
        "vocab_size": config["vocab_size"],
    }
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    values |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    values["rope.dimension_count"] = int(head_dim * full.get("partial_rotary_factor", 1))
    if case != "pythia":
        values["attention.head_count_kv"] = config["num_key_value_heads"]
    for theirs, ours in KEYS.items():
        if config.get(theirs) is not None:
            values[ours] = config[theirs]
    if case in ("gemma2", "gemma3", "mistral"):
        values["attention.sliding_window"] = config["sliding_window"]
    if case in ("gemma2", "gemma3"):
        values["attention.scale"] = config["query_pre_attn_scalar"] ** -0.5
    if case == "gemma3":
        values["attention.sliding_window_pattern"] = 3
        values["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    if full["rope_type"] in ("linear", "yarn"):
        values |= {"rope.scaling.type": full["rope_type"], "rope.scaling.factor": full["factor"]}
    if full["rope_type"] == "yarn":
        values["rope.scaling.original_context_length"] = full["original_max_position_embeddings"]
    return values


def llama3_factors(config: Mapping[str, Any]) -> np.ndarray:
    """rope_freqs.weight, by the loop of `LlamaModel.generate_extra_tensors`."""
    rope, factors = config["rope_parameters"], []
    low, high, length = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    for i in range(0, config["head_dim"], 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / config["head_dim"])
        smooth = (length / wavelength - low) / (high - low)
        between = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1 if wavelength < length / high else rope["factor"] if wavelength > length / low else between)
    return np.array(factors, np.float32)


def write(path: Path, architecture: str, values: Mapping[str, Any], tensors: Mapping[str, np.ndarray],
          types: Mapping[str, str] | str = "F32", tokenizer: Mapping[str, Any] | None = None) -> Path:  # fmt: skip
    """Write a GGUF file: matrices in the type that is named, all or by tensor, vectors in float32."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        _add(writer, f"{architecture}.{key}", value)
    for key, value in (tokenizer or {}).items():
        _add(writer, f"tokenizer.{key}", value)
    for name, value in tensors.items():
        kind = types if isinstance(types, str) else types.get(name, "F32")
        if kind == "F32" or value.ndim == 1:
            writer.add_tensor(name, value)
        else:
            kind = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, stored(name, value, kind.name), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def stored(name: str, value: np.ndarray, kind: str) -> np.ndarray:
    """A matrix in a type. Types that the package only reads get random blocks, with scales that are small numbers."""
    kind = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quants.quantize(value, kind)
    except NotImplementedError:
        random = np.random.default_rng(zlib.crc32(name.encode()))
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = random.integers(0, 256, (*value.shape[:-1], value.shape[-1] // block, size), np.uint8)
        at = {"Q4_K": (0, 2), "Q6_K": (size - 2,)}[kind.name]  # where a block's float16 scales are
        for begin in at:
            data[..., begin : begin + 2] = np.float16([0.003]).view(np.uint8)
        return data.reshape(*value.shape[:-1], -1)


def write_gguf(
    path: Path, case: str, types: Mapping[str, str] | str = "F32", drop: Iterable[str] = (), **changes: Any
) -> Path:
    """Write a case as llama.cpp's converter would, without some keys, and with others in their place."""
    stored_case = golden(case)
    config = stored_case["config"]
    tensors = tensors_of(case, config, stored_case["shapes"])
    if case == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(config)
    values = {key: value for key, value in metadata_of(case, config).items() if key not in set(drop)}
    return write(path, ARCHITECTURES[case], values | changes, tensors, types)
