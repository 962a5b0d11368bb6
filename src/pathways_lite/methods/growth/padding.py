"""What Zero and Random have in common: old units and blocks stay what they are, new ones come beside them."""

from __future__ import annotations

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.plan import Fill, Units
from pathways_lite.recipe import Model, Random, Zero


def padded_blocks(config: Zero | Random, source: Model, target: Model) -> tuple[int, ...]:
    """Any number of blocks: on top, in the old ones' order again, or each behind the old one that it repeats."""
    layers = np.arange(target.n_layers)
    if config.order == "stack":
        return tuple((layers % source.n_layers).tolist())
    return tuple((layers * source.n_layers // target.n_layers).tolist())


def padded_width(source: Model, target: Model, *, written: Fill, unread: Fill) -> dict[str, Units]:
    """Old units first, then new ones; of query heads, within each group of those that share a key/value head.

    `written`: what is written to new units of the residual stream at first. `unread`: how new heads and units of the
    MLP are read. Raises UserError where a group gets fewer query heads than it has.
    """
    width = {}
    if source.d_model != target.d_model:
        width["embed"] = Units(_behind(source.d_model, target.d_model), source.d_model, written=written)
    if source.d_ff != target.d_ff:
        width["mlp"] = Units(_behind(source.d_ff, target.d_ff), source.d_ff, read=unread)
    if (source.n_heads, source.n_kv_heads) != (target.n_heads, target.n_kv_heads):
        group, new_group = source.n_heads // source.n_kv_heads, target.n_heads // target.n_kv_heads
        if new_group < group:
            raise UserError(
                f"{group} query heads share a key/value head, but of {target.n_heads} and {target.n_kv_heads} only "
                f"{new_group} do; use n_heads={group * target.n_kv_heads} or more, or operator=Direct()"
            )
        kv, place = np.divmod(np.arange(target.n_heads), new_group)
        heads = np.where((kv < source.n_kv_heads) & (place < group), kv * group + place, -1)
        width["heads"] = Units(heads, source.n_heads, read=unread)
        width["kv"] = Units(_behind(source.n_kv_heads, target.n_kv_heads), source.n_kv_heads)
    return width


def _behind(old: int, new: int) -> np.ndarray:
    units = np.arange(new)
    return np.where(units < old, units, -1)
