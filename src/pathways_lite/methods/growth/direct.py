"""Splitting: units are copied, and what reads them divides its weight among the copies.

Net2Net (Chen et al. 2015, arXiv 1511.05641), bert2BERT (Chen et al. 2021, arXiv 2110.07143) and, for uneven shares,
LEMON (Wang et al. 2023, arXiv 2310.07999). Here it is exact for any sizes:

- A unit of the residual stream with c copies is written to each with the factor sqrt(D / d) / sqrt(c), which keeps the
  mean square over the wider stream, and so the RMS norm, epsilon included; the norm's scale takes the factor back. For
  D = k d it is 1: plain copies. (Du et al. 2024, arXiv 2405.15319, appendix A.1, copy without it and put sqrt(d / D)
  on the norms, which changes the function.)
- LayerNorm subtracts the mean, too: whole copies only, and units that remain are written the mean of the old ones, so
  that they are zero once it is subtracted.
- Query heads are copied together with the key/value head that they use. Heads keep their size, so rotations
  (RoPE) and the scale of the attention logits are what they were.
- Where the embedding is tied it is both written and read: the final norm's scale divides instead, and also takes
  up what the change of d_model does to the scale of the logits (PaLM: 1 / sqrt(d_model)).
"""

from __future__ import annotations

import numpy as np

from pathways_lite.errors import UserError
from pathways_lite.methods.growth.plan import Depth, Fill, Plan, Units
from pathways_lite.methods.growth.sizes import require_width_alone
from pathways_lite.recipe import Direct, Model


def plan(config: Direct, source: Model, target: Model) -> Plan:
    """Raises UserError for another depth, and where query heads cannot be dealt to the key/value heads."""
    require_width_alone(config.kind, source, target)
    width = {}
    if source.d_model != target.d_model:
        width["embed"] = _stream(config, source, target)
    if source.d_ff != target.d_ff:
        width["mlp"] = Units(np.arange(target.d_ff) % source.d_ff, source.d_ff, config.split)
    if (source.n_heads, source.n_kv_heads) != (target.n_heads, target.n_kv_heads):
        width["kv"] = Units(np.arange(target.n_kv_heads) % source.n_kv_heads, source.n_kv_heads, config.split)
        width["heads"] = Units(_heads(source, target, width["kv"].index), source.n_heads, config.split)
    return Plan(source, target, Depth(tuple(range(source.n_layers))), width)


def _stream(config: Direct, source: Model, target: Model) -> Units:
    index = np.arange(target.d_model) % source.d_model
    if source.norm == "layer":
        index[target.d_model // source.d_model * source.d_model :] = -1
    return Units(index, source.d_model, config.split, written=Fill.MEAN)


def _heads(source: Model, target: Model, kv: np.ndarray) -> np.ndarray:
    """The query head that each of the target's copies: the source's heads of a group, dealt to the group's copies."""
    group, new_group = source.n_heads // source.n_kv_heads, target.n_heads // target.n_kv_heads
    index = np.empty((target.n_kv_heads, new_group), np.int64)
    for old in range(source.n_kv_heads):
        places = index[kv == old]
        if places.size < group:
            raise UserError(
                f"the {group} query heads of each key/value head do not fit: n_heads goes from {source.n_heads} to "
                f"{target.n_heads}, n_kv_heads from {source.n_kv_heads} to {target.n_kv_heads}, so that some have only "
                f"{places.size} places; use a multiple of {source.n_kv_heads} for n_kv_heads, or more heads"
            )
        index[kv == old] = old * group + np.arange(places.size).reshape(places.shape) % group
    return index.reshape(-1)
