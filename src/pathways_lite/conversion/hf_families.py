"""Families of published models: how each one's config.json says a `Model`, and the other way round.

A family writes the config of any model as well as it can; `hf_match` decides whether that is the same model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pathways_lite.conversion.hf_config import ConfigReader, activation_name, window_pattern, write_rope
from pathways_lite.conversion.hf_names import Tensor, tensors
from pathways_lite.errors import UserError, without_prefix
from pathways_lite.recipe import Model

Fields = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """One `model_type`.

    Attributes:
      read: (config) -> fields of `Model` beside the sizes.
      write: (model) -> keys of config.json beside the sizes, as the family says what it can.
      names: a key of `hf_names.NAMES`.
      head_keys: whether the class reads `head_dim` and `num_key_value_heads`. Otherwise the heads share `hidden_size`,
        and each has keys and values of its own, whatever config.json says.
      tied: whether the head is the embedding where the config does not say.
    """

    model_type: str
    architecture: str
    read: Callable[[ConfigReader], Fields]
    write: Callable[[Model], Fields]
    names: str = "llama"
    head_dim: int | None = None  # where the config does not say; None: hidden_size / num_attention_heads
    tied: bool = False
    offset_norms: bool = False
    interleaved: bool = False
    head_keys: bool = True

    def model(self, config: ConfigReader) -> Model:
        """Return the model that a config describes. Raises UserError for what cannot be computed here."""
        heads, width = config.count("num_attention_heads"), config.count("hidden_size")
        kv_heads, head_dim = config.count("num_key_value_heads", heads), self.head_dim or max(1, width // heads)
        head_dim = config.count("head_dim", head_dim)
        if not self.head_keys:
            kv_heads, head_dim = heads, max(1, width // heads)
        tied = config.take("tie_word_embeddings", self.tied)
        fields = {
            "d_model": width,
            "n_layers": config.count("num_hidden_layers"),
            "n_heads": heads,
            "n_kv_heads": kv_heads,
            "head_dim": head_dim,
            "d_ff": config.count("intermediate_size"),
            "vocab_size": config.count("vocab_size"),
            "tie_embeddings": tied,
            "logit_scale": 1.0 if tied else None,
            "init": "normal",
            **self.read(config),
        }
        try:
            return Model.model_validate(fields)
        except ValidationError as error:
            details = "; ".join(without_prefix(problem["msg"]) for problem in error.errors())
            raise UserError(f"{config.path} describes no model that can be computed here: {details}") from error

    def config(self, model: Model, max_positions: int) -> Fields:
        """Return config.json of a model, as well as the family can say it."""
        rope = write_rope(model.rope_base, model.rope_scaling, model.rotary_dim / model.head_dim)
        scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_type,
            "vocab_size": model.vocab_size,
            "hidden_size": model.d_model,
            "intermediate_size": model.d_ff,
            "num_hidden_layers": model.n_layers,
            "num_attention_heads": model.n_heads,
            "num_key_value_heads": model.n_kv_heads,
            "head_dim": model.head_dim,
            "max_position_embeddings": max_positions,
            "tie_word_embeddings": model.tie_embeddings,
            "hidden_act": activation_name(model.activation),
            "rope_parameters": rope,  # of transformers 5
            "rope_theta": model.rope_base,  # of transformers 4
            "rope_scaling": scaling if model.rope_scaling is not None else None,
            "use_cache": True,
            **self.write(model),
        }

    def tensors(self, model: Model) -> list[Tensor]:
        """List the tensors of a layer and those outside the layers."""
        return tensors(self.names, model, offset_norms=self.offset_norms, interleaved=self.interleaved)


def _serial(config: ConfigReader, *, base: float = 10_000.0, epsilon: float = 1e-6) -> Fields:
    rope_base, scaling, fraction = config.rope(base)
    return {
        "block": "serial",
        "norm_epsilon": config.take("rms_norm_eps", epsilon),
        "activation": config.activation("hidden_act", "silu"),
        "rope_base": rope_base,
        "rope_scaling": scaling,
        "rope_fraction": None if fraction == 1.0 else fraction,
    }


def _biases(config: ConfigReader, *, attention: bool = False, mlp: bool = False) -> Fields:
    names = ["qkv", "attention_out"] if config.take("attention_bias", attention) else []
    names += ["mlp"] if config.take("mlp_bias", mlp) else []
    return {"bias": tuple(names) or None}


def _bias_keys(model: Model) -> Fields:
    return {"attention_bias": model.has_bias("qkv"), "rms_norm_eps": model.norm_epsilon}


def _window_keys(model: Model) -> Fields:
    each = list(model.window or (None,)) * (model.n_layers // len(model.window or (None,)))
    return {
        "sliding_window": next((window for window in each if window is not None), None),
        "layer_types": ["full_attention" if window is None else "sliding_attention" for window in each],
    }


# ---- Llama, Mistral, Qwen, OLMo ----


def _read_llama(config: ConfigReader) -> Fields:
    return _serial(config) | _biases(config)


def _write_llama(model: Model) -> Fields:
    return _bias_keys(model) | {"mlp_bias": model.has_bias("mlp")}


def _read_mistral(config: ConfigReader) -> Fields:
    window = config.values.get("sliding_window", 4096)  # null is no window
    config.take("sliding_window", None)
    return _serial(config) | {"window": None if window is None else (window,)}


def _write_mistral(model: Model) -> Fields:
    return {"rms_norm_eps": model.norm_epsilon, "sliding_window": _window_keys(model)["sliding_window"]}


def _qwen_window(config: ConfigReader) -> Fields:
    layers, window = config.count("num_hidden_layers"), config.take("sliding_window", 4096)
    if not config.take("use_sliding_window", False):
        window = None
    first = config.take("max_window_layers", 28)
    default = ["full_attention" if i < first or window is None else "sliding_attention" for i in range(layers)]
    return {"window": window_pattern(window, config.layer_types(default))}


def _write_qwen(model: Model) -> Fields:
    keys = _bias_keys(model) | _window_keys(model)
    return keys | {"use_sliding_window": model.window is not None, "max_window_layers": model.n_layers}


def _read_qwen2(config: ConfigReader) -> Fields:
    return _serial(config) | _qwen_window(config) | {"bias": ("qkv",)}


def _write_qwen2(model: Model) -> Fields:
    return {key: value for key, value in _write_qwen(model).items() if key != "attention_bias"}


def _read_qwen3(config: ConfigReader) -> Fields:
    return _serial(config) | _qwen_window(config) | _biases(config) | {"qk_norm": True}


def _read_olmo2(config: ConfigReader) -> Fields:
    norms = {"norm_position": "post", "qk_norm": True, "qk_norm_over": "all_heads"}
    return _serial(config, epsilon=1e-5) | _biases(config) | norms


# ---- Gemma ----


def _gemma(config: ConfigReader) -> Fields:
    legacy = config.take("hidden_act", "gelu_pytorch_tanh")
    # "gelu" in the first Gemma's files means the approximation, with which it was trained.
    name = config.take("hidden_activation", "gelu_pytorch_tanh" if legacy == "gelu" else legacy)
    return _biases(config) | {
        "activation": ConfigReader({"hidden_activation": name}, config.path).activation("hidden_activation", name),
        "embedding_scale": math.sqrt(config.count("hidden_size")),
    }


def _write_gemma(model: Model) -> Fields:
    name = activation_name(model.activation)
    return _bias_keys(model) | {"hidden_act": name, "hidden_activation": name}


def _read_gemma(config: ConfigReader) -> Fields:
    return _serial(config) | _gemma(config)


def _caps_and_scale(config: ConfigReader, attention_cap: float | None, logit_cap: float | None) -> Fields:
    defaults = {"attn_logit_softcapping": attention_cap, "final_logit_softcapping": logit_cap}
    caps = {key: config.values.get(key, default) for key, default in defaults.items()}  # null is no cap
    for key in caps:
        config.take(key, None)
    scale = config.take("query_pre_attn_scalar", 256) ** -0.5
    return {
        "norm_position": "both",
        "attention_soft_cap": caps["attn_logit_softcapping"],
        "logit_soft_cap": caps["final_logit_softcapping"],
        "attention_scale": scale,
    }


def _write_caps(model: Model) -> Fields:
    scalar = model.resolved_attention_scale**-2
    return (
        _write_gemma(model)
        | _window_keys(model)
        | {
            "attn_logit_softcapping": model.attention_soft_cap,
            "final_logit_softcapping": model.logit_soft_cap,
            "query_pre_attn_scalar": round(scalar)
            if round(scalar) ** -0.5 == model.resolved_attention_scale
            else scalar,
        }
    )


def _read_gemma2(config: ConfigReader) -> Fields:
    layers = config.count("num_hidden_layers")
    default = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    window = window_pattern(config.take("sliding_window", 4096), config.layer_types(default))
    return _serial(config) | _gemma(config) | _caps_and_scale(config, 50.0, 30.0) | {"window": window}


def _read_gemma3(config: ConfigReader) -> Fields:
    layers = config.count("num_hidden_layers")
    pattern = config.take("sliding_window_pattern", config.take("_sliding_window_pattern", 6))
    default = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
    window = window_pattern(config.take("sliding_window", 4096), config.layer_types(default))
    base, scaling, _ = config.rope(1_000_000.0, "full_attention")
    local = config.values.get("rope_parameters") or {}
    local_base = config.take("rope_local_base_freq", 10_000.0)
    if "sliding_attention" in local:
        local_base, local_scaling, _ = config.rope(local_base, "sliding_attention")
        if local_scaling is not None:
            why = "only the frequencies of full layers can be scaled here"
            raise config.refuse("rope_parameters.sliding_attention", local["sliding_attention"], why)
    return (
        _gemma(config)
        | _caps_and_scale(config, None, None)
        | {
            "block": "serial",
            "norm_epsilon": config.take("rms_norm_eps", 1e-6),
            "qk_norm": True,
            "window": window,
            "rope_base": base if window is None or None in window else local_base,
            "rope_scaling": scaling,
            "local_rope_base": None if window is None else local_base,
        }
    )


def _write_gemma3(model: Model) -> Fields:
    local = model.rope_base if model.local_rope_base is None else model.local_rope_base
    parameters = {
        "full_attention": write_rope(model.rope_base, model.rope_scaling, 1.0),
        "sliding_attention": write_rope(local, None, 1.0),
    }
    return _write_caps(model) | {"rope_parameters": parameters, "rope_local_base_freq": local}


# ---- parallel blocks: GPT-NeoX, Cohere, PaLM ----


def _read_neox(config: ConfigReader) -> Fields:
    parallel = config.take("use_parallel_residual", True)
    base, scaling, fraction = config.rope(config.take("rotary_emb_base", 10_000.0))
    if "partial_rotary_factor" not in (config.values.get("rope_parameters") or config.values):
        fraction = config.take("rotary_pct", 0.25)
    attention = ("qkv", "attention_out") if config.take("attention_bias", True) else ()
    return {
        "block": "parallel" if parallel else "serial",
        "parallel_norms": 2 if parallel else None,
        "norm": "layer",
        "norm_epsilon": config.take("layer_norm_eps", 1e-5),
        "bias": (*attention, "mlp", "norm"),
        "activation": config.activation("hidden_act", "gelu", gated=False),
        "rope_base": base,
        "rope_scaling": scaling,
        "rope_fraction": None if fraction == 1.0 else fraction,
    }


def _write_neox(model: Model) -> Fields:
    return {
        "layer_norm_eps": model.norm_epsilon,
        "use_parallel_residual": model.block == "parallel",
        "attention_bias": model.has_bias("qkv"),
        "rotary_pct": model.rotary_dim / model.head_dim,
        "rotary_emb_base": model.rope_base,
    }


def _cohere(config: ConfigReader, base: float) -> Fields:
    rope_base, scaling, fraction = config.rope(base)
    return _biases(config) | {
        "block": "parallel",
        "activation": config.activation("hidden_act", "silu"),
        "rope_base": rope_base,
        "rope_scaling": scaling,
        "rope_fraction": None if fraction == 1.0 else fraction,
        "logit_scale": config.take("logit_scale", 0.0625),
    }


def _read_cohere(config: ConfigReader) -> Fields:
    # The default base is 10,000 in files of transformers 4, which write it, and 500,000 in those of 5.
    return _cohere(config, 500_000.0) | {"norm": "layer", "norm_epsilon": config.take("layer_norm_eps", 1e-5)}


def _write_cohere(model: Model) -> Fields:
    return {
        "attention_bias": model.has_bias("qkv"),
        "layer_norm_eps": model.norm_epsilon,
        "logit_scale": model.resolved_logit_scale,
        "use_qk_norm": False,
    }


def _read_palm(config: ConfigReader) -> Fields:
    layers = config.count("num_hidden_layers")
    if config.take("mlp_layer_types", None) != ["dense"] * layers:
        raise config.refuse("mlp_layer_types", config.values.get("mlp_layer_types"), "only dense layers are read here")
    if config.layer_types(["full_attention"] * layers) != ["full_attention"] * layers:
        raise config.refuse("layer_types", config.values["layer_types"], "only full_attention is read in this family")
    if config.take("prefix_dense_sliding_window_pattern", 1) != 1:
        raise config.refuse("prefix_dense_sliding_window_pattern", config.values["prefix_dense_sliding_window_pattern"],
                            "only 1 is read: layers without RoPE cannot be computed here")  # fmt: skip
    width = config.take("prefix_dense_intermediate_size", config.count("intermediate_size"))
    for key in ("num_experts", "num_experts_per_tok", "num_shared_experts", "sliding_window", "sliding_window_pattern"):
        config.take(key, None)
    rms = config.take("rms_norm_eps", None)
    norm = {"norm": "layer", "norm_epsilon": config.take("layer_norm_eps", 1e-5)}
    return _cohere(config, 10_000.0) | {"d_ff": width} | (norm if rms is None else {"norm": "rms", "norm_epsilon": rms})


def _write_palm(model: Model) -> Fields:
    layers = model.n_layers
    return _write_cohere(model) | {
        "rms_norm_eps": model.norm_epsilon if model.norm == "rms" else None,
        "mlp_layer_types": ["dense"] * layers,
        "layer_types": ["full_attention"] * layers,
        "prefix_dense_intermediate_size": model.d_ff,
        "prefix_dense_sliding_window_pattern": 1,  # otherwise layers without a window have no RoPE
    }


_FAMILIES = (
    Family("llama", "LlamaForCausalLM", _read_llama, _write_llama),
    Family("mistral", "MistralForCausalLM", _read_mistral, _write_mistral),
    Family("qwen2", "Qwen2ForCausalLM", _read_qwen2, _write_qwen2),
    Family("qwen3", "Qwen3ForCausalLM", _read_qwen3, _write_qwen, head_dim=128),
    Family("olmo2", "Olmo2ForCausalLM", _read_olmo2, _bias_keys, names="olmo2"),
    Family("gemma", "GemmaForCausalLM", _read_gemma, _write_gemma, head_dim=256, tied=True, offset_norms=True),
    Family("gemma2", "Gemma2ForCausalLM", _read_gemma2, _write_caps, "gemma2", 256, tied=True, offset_norms=True),
    Family(
        "gemma3_text", "Gemma3ForCausalLM", _read_gemma3, _write_gemma3, "gemma2", 256, tied=True, offset_norms=True
    ),
    Family("gpt_neox", "GPTNeoXForCausalLM", _read_neox, _write_neox, names="gpt_neox", head_keys=False),
    Family("cohere", "CohereForCausalLM", _read_cohere, _write_cohere, "cohere", tied=True, interleaved=True),
    Family("cohere2_moe", "Cohere2MoeForCausalLM", _read_palm, _write_palm, "cohere", tied=True, interleaved=True),
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _FAMILIES}
"""By `model_type`. SmolLM's files are Llama's, Qwen 2.5's are Qwen 2's, Llama 3's are Llama's."""


def read_model(config: ConfigReader) -> tuple[Family, Model, list[str]]:
    """Return the family, the model, and the keys that were not understood.

    Raises UserError, with the key, for what cannot be computed here.
    """
    kind = config.take("model_type")
    if kind not in FAMILIES:
        raise config.refuse("model_type", kind, f"no such family here; there are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    model = family.model(config)
    return family, model, config.unknown_keys()
