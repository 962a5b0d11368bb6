"""What a backend may refuse by."""

from __future__ import annotations

from typing import NamedTuple

import jax

from pathways_kernels.attention.static_kinds import Kind


def platform_in_sight() -> str:
    """What is compiled for, as far as is known while tracing: the abstract device of the mesh in context, else ours."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if abstract is None else abstract.platform


class Request(NamedTuple):
    """Everything about a call that is known while tracing."""

    q: jax.core.ShapedArray
    k: jax.core.ShapedArray
    v: jax.core.ShapedArray
    logits_soft_cap: float | None
    kind: Kind | None = None  # of the spans
