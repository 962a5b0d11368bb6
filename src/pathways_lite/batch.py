"""The batch of examples that every objective produces and the train step consumes."""

from __future__ import annotations

from typing import Any, NamedTuple

from pathways_kernels.attention import Spans


class Batch(NamedTuple):
    """One step's examples: B rows of T positions. A pytree of NumPy (on the host) or JAX arrays."""

    tokens: Any  # int32 [B, T], the model's input
    targets: Any  # int32 [B, T], the token that position t should predict
    loss_weights: Any  # float32 [B, T], 0 = no loss
    positions: Any  # int32 [B, T], for RoPE
    spans: Spans  # int32 [B, T] twice, the attention mask: keys that each position sees (pathways_kernels.attention)
    domain: Any  # int32 [B], index into the store's list of domains
    sample_id: Any  # uint32 [B, 2], high and low word of the example's global index
