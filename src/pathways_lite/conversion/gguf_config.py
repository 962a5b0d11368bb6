"""Read a GGUF file's metadata as the config.json of Hugging Face's class for the same architecture.

Keys and what is left unsaid are those of llama.cpp, https://github.com/ggml-org/llama.cpp (`src/llama-model.cpp`,
`convert_hf_to_gguf.py`): some numbers are in its code alone, by architecture and size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pathways_lite.conversion.gguf_files import GGUFReader
from pathways_lite.conversion.gguf_rope import llama3_parameters
from pathways_lite.conversion.hf_config import REQUIRED, KeyReader
from pathways_lite.conversion.hf_families import Family, Fields
from pathways_lite.conversion.hf_names import Layout, Tensor
from pathways_lite.errors import UserError
from pathways_lite.recipe import Model

ROPE_FACTORS = "rope_freqs.weight"

HARMLESS = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "rope.scaling.original_context_length")
"""Keys of an architecture that change nothing of the logits, where they are not asked for."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (),
    "attention.sliding_window": (0,),
    "attention.temperature_scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (1.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (1.0,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (1.0,),
    "rope.dimension_sections": (),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}
"""Keys of an architecture that change the function, with the values that do not, for those who do not ask for them."""


class Metadata(KeyReader):
    """The metadata of a GGUF file, with what its tensors say beside them."""

    def __init__(self, reader: GGUFReader) -> None:
        self.reader, self.architecture = reader, str(reader.metadata.get("general.architecture"))
        super().__init__(reader.metadata, reader.files[0], prefix=f"{self.architecture}.")

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a key of the architecture, one value for all layers. Raises UserError where it is missing."""
        value = super().take(key, default)
        if isinstance(value, list | np.ndarray):
            values = list(value)
            if any(other != values[0] for other in values):
                raise self.refuse(key, values, "layers of different sizes cannot be computed here")
            value = values[0]
        return value

    def take_any(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a key of the architecture as it is. Raises UserError where it is missing and has no default."""
        return super().take(key, default)

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a positive number of the architecture, or the default."""
        value = self.take(key, default)
        if value is not default and (not isinstance(value, int | float) or not 0 < value < math.inf):
            raise self.refuse(key, value, "a positive number is expected")
        return value

    def has(self, tensor: str) -> bool:
        """Whether the file has a tensor."""
        return tensor in self.reader.tensors

    def unknown_keys(self) -> list[str]:
        """Return the architecture's keys that nobody asked for. Raises UserError where one changes the function."""
        prefix = f"{self.architecture}."
        keys = [key.removeprefix(prefix) for key in self.values if key.startswith(prefix)]
        left = [key for key in keys if key not in self._used and key not in HARMLESS]
        for key in left:
            value = self.values[prefix + key]
            if key in NEUTRAL and value not in NEUTRAL[key]:
                raise self.refuse(key, value, "the decoder here does not compute that, so the logits would be others")
        return sorted(prefix + key for key in left if key not in NEUTRAL)

    # ---- parts that architectures share ----

    @property
    def head_dim(self) -> int:
        """Width of a head. Raises UserError where keys and values differ in it."""
        heads, width = self.count("attention.head_count"), self.count("embedding_length")
        head_dim = self.count("attention.key_length", width // heads)
        if (values := self.take("attention.value_length", head_dim)) != head_dim:
            raise self.refuse(
                "attention.value_length", values, f"keys have {head_dim}; they must be of one length here"
            )
        return int(head_dim)

    def rope_scaling(self) -> Fields | None:
        """Return `rope_scaling` of config.json. Raises UserError for what cannot be computed."""
        kind = self.take("rope.scaling.type", "none")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        if kind == "none" and factor > 1:
            kind = "linear"  # of files that are older than the type
        if self.has(ROPE_FACTORS):
            factors = self.reader.read(ROPE_FACTORS)
            if kind == "none" and (np.asarray(factors) == 1).all():
                return None
            found = llama3_parameters(factors, self.number("rope.freq_base", 10_000.0)) if kind == "none" else None
            if found is None:
                raise UserError(f"{self.path}: {ROPE_FACTORS} is not a scaling of RoPE that can be computed here")
            return found
        match kind:
            case "none":
                return None
            case "linear":
                return {"rope_type": "linear", "factor": factor}
            case "yarn":
                scaling = {
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": self.take("rope.scaling.original_context_length", None),
                    "beta_fast": self.take("rope.scaling.yarn_beta_fast", None),
                    "beta_slow": self.take("rope.scaling.yarn_beta_slow", None),
                }
                return {key: value for key, value in scaling.items() if value is not None}
        raise self.refuse("rope.scaling.type", kind, "there are none, linear and yarn here")


@dataclass(frozen=True)
class Architecture:
    """One `general.architecture`.

    Attributes:
      model_type: of the class of Hugging Face that computes the same.
      read: (metadata) -> keys of config.json beside sizes and RoPE.
      interleaves: whether rows of queries and keys were moved so that RoPE pairs neighbors.
    """

    name: str
    model_type: str
    read: Callable[[Metadata], Fields]
    interleaves: bool = False

    def config(self, metadata: Metadata) -> Fields:
        """Return config.json. Raises UserError, with the key, for what cannot be computed here."""
        head_dim, heads = metadata.head_dim, metadata.count("attention.head_count")
        if not metadata.has("token_embd.weight"):
            raise UserError(f"{metadata.path} has no tensor token_embd.weight; name the file of a language model")
        config = {
            "model_type": self.model_type,
            "vocab_size": metadata.reader.tensors["token_embd.weight"].shape[0],
            "hidden_size": metadata.count("embedding_length"),
            "intermediate_size": metadata.count("feed_forward_length"),
            "num_hidden_layers": metadata.count("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": metadata.count("attention.head_count_kv", heads),
            "head_dim": head_dim,
            "max_position_embeddings": metadata.count("context_length", 2048),
            "tie_word_embeddings": not metadata.has("output.weight"),
            "attention_bias": metadata.has("blk.0.attn_q.bias"),
            "rope_theta": metadata.number("rope.freq_base", 10_000.0),
            "rope_scaling": metadata.rope_scaling(),
            **self.read(metadata),
            **special_ids(metadata.values),
        }
        rotated = metadata.take("rope.dimension_count", head_dim)
        if rotated != round(head_dim * config.get("rotary_pct", 1.0)):
            raise metadata.refuse("rope.dimension_count", rotated, f"all {head_dim} dimensions of a head rotate here")
        return {key: value for key, value in config.items() if value is not None}

    def tensors(self, family: Family, model: Model) -> list[Tensor]:
        """List the tensors of a layer and those outside the layers, by their names in GGUF files."""
        import gguf

        arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == self.name)
        names = gguf.get_tensor_name_map(arch, 1)
        # llama.cpp's converter has added 1 to the weights of Gemma's norms, and sorted rows of q, k and v.
        family = replace(family, offset_norms=False, interleaved=family.interleaved or self.interleaves)
        listed = []
        for tensor in family.tensors(model):
            name = names.get_name(tensor.name.format(i=0), try_suffixes=(".weight", ".bias"))
            if name is None:
                raise UserError(f"architecture {self.name} has no tensor for {tensor.name} in GGUF files")
            layout = Layout.CONCATENATED if tensor.layout is Layout.FUSED else tensor.layout
            listed.append(replace(tensor, name=name.replace("blk.0.", "blk.{i}."), layout=layout))
        return listed


def special_ids(values: Mapping[str, Any]) -> Fields:
    """Return the numbers of special tokens, by their keys in config.json; those that the file says."""
    ends = [values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(end for end in ends if end is not None))
    ids = {
        "bos_token_id": values.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": values.get("tokenizer.ggml.padding_token_id"),
    }
    return {key: value for key, value in ids.items() if value is not None}


def _rms(metadata: Metadata) -> Fields:
    return {"rms_norm_eps": metadata.take("attention.layer_norm_rms_epsilon")}


def _llama(metadata: Metadata) -> Fields:
    """Llama, and Mistral, whose files are of this architecture; llama.cpp's converter leaves out its window."""
    window = metadata.take("attention.sliding_window", 0)
    if window:
        return _rms(metadata) | {"model_type": "mistral", "sliding_window": window, "attention_bias": None}
    return _rms(metadata) | {"mlp_bias": metadata.has("blk.0.ffn_up.bias")}


def _qwen2(metadata: Metadata) -> Fields:
    return _rms(metadata) | {"attention_bias": None}  # the class has it always


def _scalar(metadata: Metadata, largest: int) -> Fields:
    """Gemma's attention is scaled by 1/sqrt(head_dim), and by another width in the model with `largest` layers."""
    scale = metadata.number("attention.scale", None)
    if scale is not None:
        scalar = scale**-2
        scalar = round(scalar) if abs(scalar - round(scalar)) < 1e-4 * scalar else scalar
    elif metadata.count("block_count") == largest:
        scalar = metadata.count("embedding_length") // metadata.count("attention.head_count")
    else:
        scalar = metadata.head_dim
    return _rms(metadata) | {"query_pre_attn_scalar": scalar, "final_logit_softcapping": _cap(metadata, "final")}


def _cap(metadata: Metadata, which: str) -> float | None:
    return metadata.take(f"{which}_logit_softcapping", None) or None


def _gemma2(metadata: Metadata) -> Fields:
    return _scalar(metadata, 46) | {
        "sliding_window": metadata.take("attention.sliding_window", None),
        "attn_logit_softcapping": metadata.take("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.take("final_logit_softcapping", 30.0),
    }


def _gemma3(metadata: Metadata) -> Fields:
    layers = metadata.count("block_count")
    pattern = metadata.take_any("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        local = [bool(one) for one in pattern]
    else:
        period = metadata.count("attention.sliding_window_pattern", 6)
        local = [(i + 1) % period != 0 for i in range(layers)]
    window = metadata.take("attention.sliding_window", 0)
    return _scalar(metadata, 62) | {
        "sliding_window": window or None,
        "layer_types": ["sliding_attention" if window and one else "full_attention" for one in local],
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10_000.0),
    }


def _neox(metadata: Metadata) -> Fields:
    return {
        "layer_norm_eps": metadata.take("attention.layer_norm_epsilon"),
        "use_parallel_residual": metadata.take("use_parallel_residual", True),
        "attention_bias": metadata.has("blk.0.attn_qkv.bias"),
        "rotary_pct": metadata.count("rope.dimension_count") / metadata.head_dim,
    }


def _command_r(metadata: Metadata) -> Fields:
    return {
        "layer_norm_eps": metadata.take("attention.layer_norm_epsilon"),
        "logit_scale": metadata.take("logit_scale"),
    }


_ARCHITECTURES = (
    Architecture("llama", "llama", _llama, interleaves=True),
    Architecture("qwen2", "qwen2", _qwen2),
    Architecture("qwen3", "qwen3", _rms),
    Architecture("olmo2", "olmo2", _rms),
    Architecture("gemma", "gemma", _rms),
    Architecture("gemma2", "gemma2", _gemma2),
    Architecture("gemma3", "gemma3_text", _gemma3),
    Architecture("gptneox", "gpt_neox", _neox),
    Architecture("command-r", "cohere", _command_r),
)
ARCHITECTURES: Mapping[str, Architecture] = {architecture.name: architecture for architecture in _ARCHITECTURES}
"""By `general.architecture`."""


def architecture_of(metadata: Metadata) -> Architecture:
    """Return the architecture of a file. Raises UserError where it is none of those that can be computed."""
    if metadata.architecture not in ARCHITECTURES:
        raise UserError(
            f"{metadata.path}: general.architecture={json.dumps(metadata.values.get('general.architecture'))}: no such "
            f"architecture here; there are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[metadata.architecture]
