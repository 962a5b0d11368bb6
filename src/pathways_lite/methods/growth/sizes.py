"""Whether one model can grow into another: what may differ, by how much, and in which direction."""

from __future__ import annotations

from pathways_lite.errors import UserError
from pathways_lite.recipe import Model

WIDTHS = ("d_model", "n_heads", "n_kv_heads", "d_ff")

# What growth cannot change, as parameters are trained for it.
_SAME = (
    "head_dim", "vocab_size", "block", "norm", "norm_epsilon", "qk_norm", "rope_base", "tie_embeddings", "logit_scale",
    "logit_soft_cap", "attention_soft_cap",
)  # fmt: skip


def require_growth(source: Model, target: Model) -> None:
    """Raise UserError where `target` is smaller than `source` in something, or of another kind."""
    for name in _SAME:
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(f"{name} goes from {old!r} to {new!r}, which growth cannot do; use {name}={old!r} in both")
    for name in ("n_layers", *WIDTHS):
        if (new := getattr(target, name)) < (old := getattr(source, name)):
            raise UserError(f"{name} goes from {old} to {new}, but growth makes nothing smaller; use {old} or more")


def require_depth_alone(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where `target` is wider than `source`, for an operator that only deepens."""
    for name in WIDTHS:
        if (old := getattr(source, name)) != (new := getattr(target, name)):
            raise UserError(
                f"operator {kind!r} makes a model deeper, not wider, but {name} goes from {old} to {new}; use {name}="
                f"{old}, or operator=Compose(depth=..., width=...)"
            )


def require_width_alone(kind: str, source: Model, target: Model) -> None:
    """Raise UserError where `target` is deeper than `source`, for an operator that only widens."""
    if source.n_layers != target.n_layers:
        raise UserError(
            f"operator {kind!r} makes a model wider, not deeper, but n_layers goes from {source.n_layers} to "
            f"{target.n_layers}; use n_layers={source.n_layers}, or operator=Compose(depth=..., width=...)"
        )


def times_deeper(kind: str, source: Model, target: Model) -> int:
    """How many times the layers of `source` go into those of `target`. Raises UserError where that is no integer."""
    times, rest = divmod(target.n_layers, source.n_layers)
    if rest:
        low, high = times * source.n_layers, (times + 1) * source.n_layers
        raise UserError(
            f"operator {kind!r} repeats all blocks, but n_layers goes from {source.n_layers} to {target.n_layers}; use "
            f"n_layers={low} or {high}, or operator=Blocks(order=...)"
        )
    return times
