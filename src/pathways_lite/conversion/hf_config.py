"""Read config.json key by key: every key is used, known to change nothing, listed, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pathways_lite.errors import UserError, similar_path
from pathways_lite.recipe import Activation, LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

CONFIG = "config.json"
REQUIRED = object()

HARMLESS = frozenset(
    [
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cache_implementation",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "hidden_dropout",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "label2id",
        "max_position_embeddings",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_return_dict",
        "max_window_layers",
    ]
)
"""Keys that change nothing of the logits: tokens' numbers, dropout in training, how results are returned."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "attention_multiplier": (),
    "clip_qkv": (),
    "embedding_multiplier": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "no_rope_layers": ([],),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "output_router_logits": (False,),
    "quantization_config": (),
    "residual_multiplier": (1, 1.0),
    "use_bidirectional_attention": (False,),
    "use_qk_norm": (False,),
}
"""Keys that change the function, with the values, beside null, that do not."""

ACTIVATIONS: dict[str, tuple[Activation | None, Activation]] = {
    "silu": (None, "silu"),
    "swish": (None, "silu"),
    "gelu": ("geglu", "gelu"),
    "gelu_pytorch_tanh": ("geglu_tanh", "gelu_tanh"),
    "gelu_new": ("geglu_tanh", "gelu_tanh"),
    "gelu_fast": ("geglu_tanh", "gelu_tanh"),
    "relu": ("reglu", "relu"),
}
"""By the name of an activation: our activation with a gate, and without one."""


class KeyReader:
    """Values by key that a published model says of itself; `prefix` is before every key that is asked for."""

    def __init__(self, values: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.values, self.path, self.prefix = values, path, prefix
        self._used: set[str] = set()

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a key's value, `default` where it is missing or null. Raises UserError where it has no default."""
        self._used.add(key)
        value = self.values.get(self.prefix + key)
        if value is None and default is REQUIRED:
            raise UserError(f"{self.path} lacks {self.prefix}{key}, without which the model is not determined")
        return default if value is None else value

    def count(self, key: str, default: Any = REQUIRED) -> int:
        """Return a positive whole number."""
        value = self.take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refuse(key, value, "a positive whole number is expected")
        return value

    def refuse(self, key: str, value: Any, why: str) -> UserError:
        """Return the error for a value that cannot be computed."""
        return UserError(f"{self.path}: {self.prefix}{key}={json.dumps(value, default=str)}: {why}")


class ConfigReader(KeyReader):
    """A config.json of which every key is asked for once."""

    @classmethod
    def open(cls, directory: Path) -> ConfigReader:
        """Read the file of a directory. Raises UserError where there is none, or it holds no object."""
        path = directory / CONFIG
        if directory.is_file():
            hint = "did you mean --from gguf?" if directory.suffix == ".gguf" else "name the directory that holds it"
            raise UserError(f"{directory} is a file, and a Hugging Face model a directory; {hint}")
        if not directory.exists():
            raise UserError(
                f"{directory}: no such directory; nothing is downloaded, so name that of a model which is here"
                f"{similar_path(directory)}"
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{directory} has no {CONFIG}; name the directory of a Hugging Face model") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} holds no JSON object, but {type(values).__name__}")
        return cls(values, path)

    def unknown_keys(self) -> list[str]:
        """Return the keys that nobody asked for. Raises UserError where one is known to change the function."""
        left = {key: value for key, value in self.values.items() if key not in self._used | HARMLESS}
        for key, value in left.items():
            if key in NEUTRAL and value is not None and value not in NEUTRAL[key]:
                raise self.refuse(key, value, "the decoder here does not compute that, so the logits would be others")
        return sorted(key for key in left if key not in NEUTRAL)

    # ---- parts that families share ----

    def activation(self, key: str, default: str, *, gated: bool = True) -> Activation | None:
        """Return the MLP's activation by its published name."""
        name = self.take(key, default)
        if name not in ACTIVATIONS:
            raise self.refuse(key, name, f"no such activation here; there are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name][0 if gated else 1]

    def rope(self, default_base: float, layer_type: str | None = None) -> tuple[float, RopeScaling | None, float]:
        """Return RoPE's base, scaling and fraction, from `rope_parameters` (5.x) or `rope_theta`, `rope_scaling` (4.x).

        With a `layer_type`, of its layers where the file tells them apart.
        """
        both, base = self.take("rope_parameters", {}), self.take("rope_theta", default_base)
        scaling = self.take("rope_scaling", {})
        if both and all(isinstance(value, dict) for value in both.values()):
            if layer_type is None:
                raise self.refuse("rope_parameters", both, "different RoPE by kind of layer is for Gemma 3 alone")
            both = both.get(layer_type, {})
        parameters = {**(both or scaling)}
        base = parameters.pop("rope_theta", base)
        fraction = parameters.pop("partial_rotary_factor", self.take("partial_rotary_factor", 1.0))
        return float(base), self._scaling(parameters, "rope_parameters" if both else "rope_scaling"), float(fraction)

    def _scaling(self, parameters: dict[str, Any], key: str) -> RopeScaling | None:
        legacy = parameters.pop("type", "default")
        kind = parameters.pop("rope_type", legacy)
        take = lambda name, *default: parameters.pop(name, *default)  # noqa: E731
        scaling: RopeScaling | None = None
        try:
            match kind:
                case "default":
                    parameters = {}
                case "linear":
                    scaling = LinearScaling(factor=take("factor"))
                    parameters.pop("original_max_position_embeddings", None)
                case "llama3":
                    scaling = Llama3Scaling(
                        factor=take("factor"),
                        original_length=take("original_max_position_embeddings"),
                        low_frequency_factor=take("low_freq_factor"),
                        high_frequency_factor=take("high_freq_factor"),
                    )
                case "yarn":
                    scaling = self._yarn(take)
                case _:
                    raise self.refuse(f"{key}.rope_type", kind, "there are default, linear, llama3 and yarn here")
        except KeyError as error:
            raise UserError(f"{self.path}: {key} lacks {error}, which rope_type={kind!r} needs") from error
        if left := {name: value for name, value in parameters.items() if value is not None}:
            raise self.refuse(
                f"{key}.{next(iter(left))}", next(iter(left.values())), f"{kind} has no such setting here"
            )
        return scaling

    def _yarn(self, take: Any) -> YarnScaling:
        length = take("original_max_position_embeddings", None) or self.count("max_position_embeddings")
        factor, given = take("factor"), take("attention_factor", None)
        scale, all_dims = take("mscale", None), take("mscale_all_dim", None)
        if given is None and scale and all_dims:
            given = (0.1 * scale * math.log(factor) + 1.0) / (0.1 * all_dims * math.log(factor) + 1.0)
        return YarnScaling(
            factor=factor,
            original_length=length,
            fast_turns=take("beta_fast", None) or 32.0,
            slow_turns=take("beta_slow", None) or 1.0,
            attention_factor=given,
            whole_bounds=take("truncate", True),
        )

    def layer_types(self, default: list[str]) -> list[str]:
        """Return each layer's kind of attention, `default` where the file does not say."""
        listed = self.take("layer_types", default)
        wrong = set(listed) - {"sliding_attention", "full_attention"}
        if wrong or len(listed) != len(default):
            raise self.refuse("layer_types", listed, f"sliding_attention or full_attention for {len(default)} layers")
        return list(listed)


def window_pattern(window: int | None, layer_types: list[str]) -> tuple[int | None, ...] | None:
    """Return `Model.window` in its shortest form: None where no layer has a window."""
    each = [window if kind == "sliding_attention" else None for kind in layer_types]
    if not any(each):
        return None
    period = next(p for p in range(1, len(each) + 1) if len(each) % p == 0 and each == each[:p] * (len(each) // p))
    return tuple(each[:period])


# ---- writing ----


def write_rope(base: float, scaling: RopeScaling | None, fraction: float) -> dict[str, Any]:
    """Return `rope_parameters` of one kind of layer."""
    parameters: dict[str, Any] = {"rope_theta": base, "rope_type": "default"}
    match scaling:
        case LinearScaling():
            parameters |= {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            parameters |= {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_length,
            }
        case YarnScaling():
            parameters |= {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "beta_fast": scaling.fast_turns,
                "beta_slow": scaling.slow_turns,
                "truncate": scaling.whole_bounds,
            }
            if scaling.attention_factor is not None:
                parameters["attention_factor"] = scaling.attention_factor
    return parameters | ({} if fraction == 1.0 else {"partial_rotary_factor": fraction})


def activation_name(activation: Activation | None) -> str:
    """Return the published name of an activation, with or without a gate."""
    return next(name for name, ours in ACTIVATIONS.items() if activation in ours)
