"""What a backend may refuse by."""

from __future__ import annotations

from typing import NamedTuple

import jax

from pathways_kernels.attention.static_kinds import Kind

RESULTS = "attention"
"""The name, for policies of `jax.checkpoint`, of what a forward pass leaves for the backward pass: the output and what
stands for the weights. Where they are kept, the backward pass does not compute attention again."""


def platform_of_mesh() -> str | None:
    """What is compiled for, by the abstract device of the mesh in context; None where there is none."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    return None if abstract is None else abstract.platform


def platform_in_sight() -> str:
    """What is compiled for, as far as is known while tracing: by the mesh in context, else what JAX would choose."""
    return platform_of_mesh() or jax.default_backend()


class Request(NamedTuple):
    """Everything about a call that is known while tracing."""

    q: jax.core.ShapedArray
    k: jax.core.ShapedArray
    v: jax.core.ShapedArray
    logits_soft_cap: float | None
    kind: Kind | None = None  # of the spans
