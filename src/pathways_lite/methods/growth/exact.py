"""Whether a plan preserves the function: whether the grown model gives the same logits, but for rounding."""

from __future__ import annotations

import numpy as np

from pathways_lite.methods.growth.plan import Fill, Plan, Treatment
from pathways_lite.recipe import Model


def preserves(plan: Plan) -> bool:
    """Of the parameters as they begin, under their masks where the plan has some. Noise is not considered."""
    return _depth(plan) and _stream(plan) and not (plan.mixed and plan.width)


def describe_width(plan: Plan) -> list[str]:
    """For people: a line for each axis of units that grows."""
    names = {"embed": "d_model", "mlp": "d_ff", "heads": "n_heads", "kv": "n_kv_heads"}
    lines = []
    for axis, units in plan.width.items():
        copies = np.bincount(units.index[~units.new], minlength=units.old)
        counts = ", ".join(f"{(copies == times).sum()} {times} times" for times in np.unique(copies))
        lines.append(f"{names[axis]} {units.old} → {units.index.size}: {counts}; {units.new.sum()} new")
    return lines


def _depth(plan: Plan) -> bool:
    """Old blocks in their order, each with its window, and new ones that add nothing."""
    fresh = plan.depth.fresh
    kept = [block for block, new in zip(plan.depth.blocks, fresh, strict=True) if not new]
    if kept != list(range(plan.source.n_layers)) or (fresh.any() and plan.depth.treatment is Treatment.COPY):
        return False
    return [w for w, new in zip(_windows(plan.target), fresh, strict=True) if not new] == _windows(plan.source)


def _stream(plan: Plan) -> bool:
    """Norms see the same as before. Heads and units of the MLP are exact in every plan."""
    units = plan.width.get("embed")
    if units is None or plan.source.norm == "rms":
        return True
    even = np.unique(units.copies).size == 1
    return even and not (units.new.any() and (plan.masked or units.written is not Fill.MEAN))


def _windows(model: Model) -> list[int | None]:
    pattern = model.window or (None,)
    return list(pattern) * (model.n_layers // len(pattern))
