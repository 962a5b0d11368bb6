"""Values as standard JSON, and back: NaN and infinities are strings, NumPy and JAX scalars are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# Standard JSON cannot represent these; the reader turns exactly these strings back into floats.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json_types(value: Any) -> Any:
    """Convert `value` to JSON types from which it can be restored exactly.

    A float32 becomes its shortest decimal (0.1, not 0.10000000149011612), which reads back as the same
    float32; a float64 keeps all its digits. NaN and infinities become strings, which `restore_floats` restores.
    """
    if isinstance(value, Mapping):
        return {str(key): to_json_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_types(item) for item in value]
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = _from_scalar(np.asarray(value))
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_scalar(value: np.ndarray) -> Any:
    """Convert a 0-d array (NumPy, JAX or bfloat16) to bool, int or float."""
    if np.issubdtype(value.dtype, np.bool_):
        return bool(value)
    if np.issubdtype(value.dtype, np.integer):
        return int(value)
    if value.dtype == np.float64:
        return float(value)
    return float(str(value.astype(np.float32)))


def restore_floats(value: Any) -> Any:
    """Restore the NaN and infinities that `to_json_types` turned into strings."""
    if isinstance(value, dict):
        return {key: restore_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [restore_floats(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
