"""Between a pytree of arrays and named NumPy arrays on the host.

An array's name is its path in the tree, `params.layers.wq`. Names come from dictionary keys, named-tuple fields
and positions alone, so a tree may be restored into other containers, and empty nodes (optax's EmptyState) vanish.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from pathways_lite.errors import UserError

_SHOWN = 20  # differences printed; a wrong model differs in all of its arrays


class Described(Protocol):
    """Anything with a logical shape and the name of a dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of a leaf; of a typed PRNG key, the key's own (`key<fry>[]`), not those of its data."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class HostArray(Spec):
    """A leaf's content in host memory that nobody else writes to."""

    data: np.ndarray


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by name, in tree order. Raises ValueError where a name would be empty, ambiguous or no directory's."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if any(not part or "." in part or "/" in part for part in parts):
            raise ValueError(f"cannot name the array at {parts}: keys must not be empty or contain '.' or '/'")
        name = ".".join([prefix, *parts] if prefix else parts)
        if not name or name in leaves:
            raise ValueError(f"two arrays, or none, would have the name {name!r}; save a dictionary of arrays")
        leaves[name] = leaf
    return leaves


def spec(leaf: Any) -> Spec:
    """Of a concrete or abstract leaf, or of a Python number."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return Spec(tuple(leaf.shape), str(leaf.dtype))


def snapshot(tree: Any) -> dict[str, HostArray]:
    """Copy all leaves to the host: after it returns, the tree's buffers may be donated or overwritten.

    Raises UserError for an array that no single process holds, ValueError for random keys without elements.
    """
    leaves = named_leaves(tree)
    data = {name: _data(leaf) for name, leaf in leaves.items()}
    for name, leaf in data.items():
        if isinstance(leaf, jax.Array):
            if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
                raise UserError(f"array {name} is spread over several processes; checkpoints need all of it in one")
            leaf.copy_to_host_async()
        if _is_key(leaves[name]) and not leaf.size:
            raise ValueError(f"{name} is an array of no random keys; leave it out")
    specs = {name: spec(leaf) for name, leaf in leaves.items()}
    return {name: HostArray(specs[name].shape, specs[name].dtype, _own_copy(leaf)) for name, leaf in data.items()}


def differences(stored: Mapping[str, Described], wanted: Mapping[str, Described]) -> list[str]:
    """One line for each array that is missing, not expected, or of another shape or dtype."""
    lines = []
    for name in [*wanted, *(name for name in stored if name not in wanted)]:
        if name not in stored:
            lines.append(f"{name}: not in the checkpoint, expected {_text(wanted[name])}")
        elif name not in wanted:
            lines.append(f"{name}: {_text(stored[name])} in the checkpoint, not expected")
        elif _text(stored[name]) != _text(wanted[name]):
            lines.append(f"{name}: {_text(stored[name])} in the checkpoint, expected {_text(wanted[name])}")
    more = len(lines) - _SHOWN
    return lines if more <= 0 else [*lines[:_SHOWN], f"… and {more} more"]


def place(data: np.ndarray, like: Any) -> Any:
    """The loaded content as what `like` is: a typed key, a NumPy array, or a JAX array with the same sharding.

    64-bit content stays a NumPy array where JAX has no 64-bit types, instead of losing half of its bits.
    """
    sharding = getattr(like, "sharding", None)
    if _is_key(like):
        return jax.device_put(jax.random.wrap_key_data(jax.numpy.asarray(data), impl=_key_impl(like.dtype)), sharding)
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return data
    if jax.dtypes.canonicalize_dtype(data.dtype) != data.dtype:
        return data
    return jax.device_put(data, sharding)


def _text(array: Described) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _own_copy(leaf: Any) -> np.ndarray:
    """On a CPU device, and for NumPy, `np.asarray` is a view of memory that the next step may reuse."""
    on_device = isinstance(leaf, jax.Array) and leaf.sharding.memory_kind == "device"
    if on_device and all(device.platform != "cpu" for device in leaf.sharding.device_set):
        return np.asarray(leaf, order="C")
    return np.array(leaf, order="C", copy=True)


@functools.cache
def _key_impl(dtype: Any) -> str:
    """The name by which `wrap_key_data` knows a key dtype; JAX tells it of concrete keys only."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(functools.partial(jax.random.key, 0, impl=impl)).dtype == dtype:
            return impl
    raise ValueError(f"unknown kind of random key: {dtype}")
