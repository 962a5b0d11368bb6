"""What a backend may refuse by."""

from __future__ import annotations

from typing import NamedTuple

import jax

from pathways_kernels.attention.static_kinds import Kind


class Request(NamedTuple):
    """Everything about a call that is known while tracing."""

    q: jax.core.ShapedArray
    k: jax.core.ShapedArray
    v: jax.core.ShapedArray
    logits_soft_cap: float | None
    kind: Kind | None = None  # of the spans
