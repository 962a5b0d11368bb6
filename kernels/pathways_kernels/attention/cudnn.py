"""cuDNN's attention, called through jax, for the few kinds of spans that it computes exactly (see `support`)."""

from __future__ import annotations

import jax

from pathways_kernels.attention.spans import Spans
from pathways_kernels.attention.static_kinds import Causal, Full, Window, static_kind


def cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None
) -> jax.Array:
    """See `attention`. `spans` must be NumPy arrays: full, or causal or a window with as many keys as queries."""
    if logits_soft_cap is not None:
        raise ValueError("cuDNN's attention has no soft cap of the logits.")
    match static_kind(spans, k.shape[1]):
        case Full():
            causal, window = False, None
        case Causal(0):
            causal, window = True, None
        case Window(size, 0):
            causal, window = True, (size - 1, 0)  # keys before the query's own, and after it
        case kind:
            raise ValueError(f"cuDNN's attention does not support these spans ({kind or 'of no known kind'}).")
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=causal, local_window_size=window, implementation="cudnn"
    )
