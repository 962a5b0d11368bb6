"""Between a pytree of arrays, on however many devices and hosts, and named arrays in host memory.

An array's name is its path in the tree, `params.layers.wq`. Names come from dictionary keys, named-tuple fields
and positions alone, so a tree may be restored into other containers, and empty nodes (optax's EmptyState) vanish.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import numpy as np

from pathways_lite.distributed import coordination

_SHOWN = 20  # differences printed; a wrong model differs in all of its arrays


class Described(Protocol):
    """Anything with a logical shape and the name of a dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class ArraySpec:
    """Shape and dtype of a leaf; of a typed PRNG key, the key's own (`key<fry>[]`), not those of its data."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class HostArray(ArraySpec):
    """A leaf's content, or this process's part of it, in host memory that nobody else writes to.

    `data` is a NumPy array where one process, the first, writes all of it, and a `jax.Array` in host memory where its
    shards are written by the processes that hold them. For typed keys it is the keys' data.
    """

    data: np.ndarray | jax.Array

    @property
    def nbytes(self) -> int:
        """Of the whole array."""
        return math.prod(self.data.shape) * self.data.dtype.itemsize

    def pieces(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """What this process writes: pieces that do not overlap, each after the position where it begins."""
        if isinstance(self.data, jax.Array):
            for shard in self.data.addressable_shards:
                if shard.replica_id == 0:
                    yield start_of(shard.index), np.asarray(shard.data)
        elif coordination.is_primary():
            yield (0,) * self.data.ndim, self.data


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


def spec(leaf: Any) -> ArraySpec:
    """Of a concrete or abstract leaf, or of a Python number."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return ArraySpec(tuple(leaf.shape), str(leaf.dtype))


def snapshot(tree: Any) -> dict[str, HostArray]:
    """Copy all leaves to the host: after it returns, the tree's buffers may be donated or overwritten.

    No process copies more than its own devices hold. Raises ValueError for random keys without elements.
    """
    leaves = named_leaves(tree)
    data = {name: _data(leaf) for name, leaf in leaves.items()}
    for name, leaf in data.items():
        if isinstance(leaf, jax.Array) and not _is_spread(leaf):
            leaf.copy_to_host_async()
        if _is_key(leaves[name]) and not leaf.size:
            raise ValueError(f"{name} is an array of no random keys; leave it out")
    copies = {name: _spread_copy(leaf) if _is_spread(leaf) else _own_copy(leaf) for name, leaf in data.items()}
    specs = {name: spec(leaf) for name, leaf in leaves.items()}
    return {name: HostArray(specs[name].shape, specs[name].dtype, copy) for name, copy in copies.items()}


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


Read = Callable[[tuple[slice, ...]], np.ndarray]
"""Gives a part of a stored array."""


def place(shape: tuple[int, ...], dtype: np.dtype, read: Read, like: Any) -> Any:
    """The stored array of which `read` gives parts, as what `like` is: a typed key, a NumPy array or a JAX array.

    With the sharding of `like`, where it has one: then no more is read than this process's devices need, and once.
    64-bit content stays a NumPy array where JAX has no 64-bit types, instead of losing half of its bits.
    `shape` and `dtype` are the stored ones; of a typed key, those of its data.
    """
    everything = (slice(None),) * len(shape)
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct) or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        return read(everything)
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        placed = jax.numpy.asarray(read(everything))
    else:
        parts: dict[tuple[int, ...], np.ndarray] = {}

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            index = everything if index is None else index
            start = start_of(index)  # the shards of one sharding are equal in size
            if start not in parts:
                parts[start] = read(index)
            return parts[start]

        placed = jax.make_array_from_callback(shape, sharding, part)
    return jax.random.wrap_key_data(placed, impl=_key_impl(like.dtype)) if _is_key(like) else placed


def start_of(index: tuple[slice, ...]) -> tuple[int, ...]:
    """The position where a part of an array begins."""
    return tuple(axis.start or 0 for axis in index)


def _text(array: Described) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_spread(leaf: Any) -> bool:
    """Whether devices hold different parts of it."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_replicated


def _own_copy(leaf: Any) -> np.ndarray:
    """On a CPU device, and for NumPy, `np.asarray` is a view of memory that the next step may reuse."""
    if not coordination.is_primary():  # which writes it; the others need its shape and dtype alone
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)
    if isinstance(leaf, jax.Array) and not _on_cpus(leaf) and leaf.sharding.memory_kind == "device":
        return np.asarray(leaf, order="C")
    return np.array(leaf, order="C", copy=True)


def _spread_copy(leaf: jax.Array) -> jax.Array:
    """The same array in host memory, every shard where it was."""
    if _on_cpus(leaf):
        sharding = leaf.sharding
        shards = [jax.numpy.array(shard.data, copy=True) for shard in leaf.addressable_shards]
    else:
        sharding = leaf.sharding.with_memory_kind("pinned_host")
        place = lambda device: jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")  # noqa: E731
        shards = [jax.device_put(shard.data, place(shard.device)) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _on_cpus(leaf: jax.Array) -> bool:
    devices: set[Any] = leaf.sharding.device_set
    return all(device.platform == "cpu" for device in devices)


@functools.cache
def _key_impl(dtype: Any) -> str:
    """The name by which `wrap_key_data` knows a key dtype; JAX tells it of concrete keys only."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(functools.partial(jax.random.key, 0, impl=impl)).dtype == dtype:
            return impl
    raise ValueError(f"unknown kind of random key: {dtype}")
