"""Find the arrays of a train state that hold NaN or infinities, and name them in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def non_finite_arrays(state: Any) -> list[str]:
    """Return the paths of the floating-point arrays that hold NaN or infinities; all processes must call it."""
    arrays = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    }
    finite = jax.device_get(_are_finite(list(arrays.values())))
    return [name for name, is_finite in zip(arrays, finite, strict=True) if not is_finite]


@jax.jit
def _are_finite(arrays: list[jax.Array]) -> list[jax.Array]:
    # The largest magnitude is one pass, and NaN where any element is NaN.
    return [jnp.isfinite(jnp.max(jnp.abs(array))) for array in arrays]


def join_some(names: Sequence[str], most: int = 4) -> str:
    """Join names for a sentence, the first few and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
