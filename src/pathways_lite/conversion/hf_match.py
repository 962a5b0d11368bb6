"""Find the family of published models that computes what a `Model` does.

A family writes the config of any model as well as it can; the first one whose config, read back, is the same function
is taken. So what a config cannot say is never written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pathways_lite.conversion.hf_config import CONFIG, ConfigReader
from pathways_lite.conversion.hf_families import FAMILIES, Family, Fields
from pathways_lite.errors import UserError
from pathways_lite.recipe import Model


def family_for(model: Model, max_positions: int) -> tuple[Family, Fields, bool]:
    """Return the first family whose config, read back, is the same function, and that config.

    The last value says whether the scale of the logits is left to the final norm's scale, into which it can be
    multiplied. Raises UserError, with the fields that no family has, where there is none.
    """
    nearest: tuple[list[str], str] | None = None
    for folds in (False, True):
        for family in FAMILIES.values():
            fields = model.model_copy(update={"logit_scale": 1.0}) if folds else model
            config = family.config(fields, max_positions)
            different = _differences(fields, family, config)
            if not different:
                return family, config, folds
            if not folds and (nearest is None or len(different) < len(nearest[0])):
                nearest = different, family.model_type
    assert nearest is not None
    named = ", ".join(f"{name}={getattr(model, name)!r}" for name in nearest[0])
    raise UserError(
        f"no class of Hugging Face's transformers that is known here computes this model; the nearest, {nearest[1]}, "
        f"cannot say {named}"
    )


def _differences(model: Model, family: Family, config: Fields) -> list[str]:
    """Name the fields in which the config, read back, is another function; all where it cannot be read."""
    try:
        again = family.model(ConfigReader(config, Path(CONFIG)))
    except UserError:
        return list(_FUNCTION)
    return [name for name, value in _FUNCTION.items() if value(model) != value(again)]


def _field(name: str) -> Callable[[Model], Any]:
    return lambda model: getattr(model, name)


def _windows(model: Model) -> list[int | None]:
    pattern = model.window or (None,)
    return list(pattern) * (model.n_layers // len(pattern))


def _local_base(model: Model) -> float | None:
    return (model.local_rope_base or model.rope_base) if any(_windows(model)) else None


def _full_rope(model: Model) -> Any:
    all_local = model.local_rope_base is not None and None not in _windows(model)
    return None if all_local else (model.rope_base, model.rope_scaling)


_FUNCTION: dict[str, Callable[[Model], Any]] = {
    **{
        name: _field(name)
        for name in (
            "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "vocab_size", "block", "parallel_norms",
            "norm", "norm_epsilon", "norm_position", "qk_norm", "qk_norm_over", "bias", "activation", "tie_embeddings",
            "logit_soft_cap", "attention_soft_cap",
        )
    },
    "rope_base": _full_rope,
    "rope_fraction": _field("rotary_dim"),
    "local_rope_base": _local_base,
    "attention_scale": _field("resolved_attention_scale"),
    "embedding_scale": lambda model: model.embedding_scale or 1.0,
    "logit_scale": _field("resolved_logit_scale"),
    "window": _windows,
}  # fmt: skip
"""What decides the function, as values that are equal where the function is; by the field to blame."""
