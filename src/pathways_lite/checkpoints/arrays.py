"""Convert between a pytree of arrays, on any number of devices and hosts, and named arrays in host memory.

An array's name is its path in the tree, `params.layers.wq`. Names come from dictionary keys, named-tuple fields and
positions alone, so a tree may be restored into other container types, and empty nodes (optax's EmptyState) vanish.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pathways_lite.checkpoints.manifest import ArraySpec
from pathways_lite.distributed import coordination

_MAX_DIFFERENCES = 20  # printed; a wrong model differs in all of its arrays


@dataclass(frozen=True)
class HostArray(ArraySpec):
    """A copy of a leaf, or of this process's shards of it, in host memory that nobody else writes to.

    `data` is a NumPy array if the primary process writes all of it, and a `jax.Array` in host memory if the processes
    write the shards that they hold. For typed keys it is the keys' data.
    """

    data: np.ndarray | jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.data.shape) * self.data.dtype.itemsize

    def shards(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """Yield the shards that this process writes, each with its start position. Shards do not overlap."""
        if isinstance(self.data, jax.Array):
            for shard in self.data.addressable_shards:
                if shard.replica_id == 0:
                    yield start_position(shard.index), np.asarray(shard.data)
        elif coordination.is_primary():
            yield (0,) * self.data.ndim, self.data


def named_leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves by name, in tree order.

    Raises ValueError for a name that would be empty, ambiguous, or not usable as a directory name.
    """
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        if any(not key or "." in key or "/" in key for key in keys):
            raise ValueError(f"cannot name the array at {keys}: keys must not be empty or contain '.' or '/'")
        name = ".".join([prefix, *keys] if prefix else keys)
        if not name or name in leaves:
            raise ValueError(f"the array name {name!r} is empty or not unique; save a dictionary of arrays")
        leaves[name] = leaf
    return leaves


def array_spec(leaf: Any) -> ArraySpec:
    """Return the spec of a concrete or abstract leaf, or of a Python number."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return ArraySpec(tuple(leaf.shape), str(leaf.dtype))


def snapshot(tree: Any) -> dict[str, HostArray]:
    """Copy all leaves to the host, so that the tree's buffers may be donated or overwritten afterwards.

    No process copies more than its own devices hold. Raises ValueError for an empty array of random keys.
    """
    leaves = named_leaves(tree)
    data = {name: jax.random.key_data(leaf) if _is_key(leaf) else leaf for name, leaf in leaves.items()}
    for name, leaf in data.items():
        if isinstance(leaf, jax.Array) and not _is_sharded(leaf):
            leaf.copy_to_host_async()
        if _is_key(leaves[name]) and not leaf.size:
            raise ValueError(f"{name} is an empty array of random keys; leave it out")
    copies = {name: _copy_shards(leaf) if _is_sharded(leaf) else _copy_whole(leaf) for name, leaf in data.items()}
    specs = {name: array_spec(leaf) for name, leaf in leaves.items()}
    return {name: HostArray(specs[name].shape, specs[name].dtype, copy) for name, copy in copies.items()}


def differences(
    stored: Mapping[str, ArraySpec], expected: Mapping[str, ArraySpec], place: str = "the checkpoint"
) -> list[str]:
    """Return one line for each array that is missing, not expected, or of another shape or dtype.

    `place`: what has the stored ones, for the lines.
    """
    lines = []
    for name in [*expected, *(name for name in stored if name not in expected)]:
        if name not in stored:
            lines.append(f"{name}: not in {place}, expected {expected[name]}")
        elif name not in expected:
            lines.append(f"{name}: {stored[name]} in {place}, not expected")
        elif str(stored[name]) != str(expected[name]):
            lines.append(f"{name}: {stored[name]} in {place}, expected {expected[name]}")
    more = len(lines) - _MAX_DIFFERENCES
    return lines if more <= 0 else [*lines[:_MAX_DIFFERENCES], f"… and {more} more"]


ReadSlice = Callable[[tuple[slice, ...]], np.ndarray]
"""Reads a slice of a stored array into host memory."""


def load_array(shape: tuple[int, ...], dtype: np.dtype, read: ReadSlice, target: Any) -> Any:
    """Load a stored array as the type that `target` has: a typed key, a NumPy array or a JAX array.

    If `target` has a sharding, the array gets it, and only the slices that this process's devices need are read, each
    once. 64-bit content stays a NumPy array where JAX has no 64-bit types, instead of losing half of its bits.

    Args:
      shape, dtype: of the stored array; of a typed key, those of its data.
      read: reads a slice of the stored array.
      target: concrete or abstract array.
    """
    whole = (slice(None),) * len(shape)
    if not isinstance(target, jax.Array | jax.ShapeDtypeStruct) or jax.dtypes.canonicalize_dtype(dtype) != dtype:
        return read(whole)
    sharding = getattr(target, "sharding", None)
    if sharding is None:
        array = jax.numpy.asarray(read(whole))
    else:
        shards: dict[tuple[int, ...], np.ndarray] = {}

        def read_shard(index: tuple[slice, ...] | None) -> np.ndarray:
            index = whole if index is None else index
            start = start_position(index)  # the shards of one sharding are equal in size
            if start not in shards:
                shards[start] = read(index)
            return shards[start]

        array = jax.make_array_from_callback(shape, sharding, read_shard)
    return jax.random.wrap_key_data(array, impl=_key_impl(target.dtype)) if _is_key(target) else array


def start_position(index: tuple[slice, ...]) -> tuple[int, ...]:
    """Return the position in the whole array of a slice's first element."""
    return tuple(axis.start or 0 for axis in index)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _is_sharded(leaf: Any) -> bool:
    """True if devices hold different slices of the leaf."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_replicated


def _copy_whole(leaf: Any) -> np.ndarray:
    """Copy a leaf that the primary process writes alone. The others need its shape and dtype only."""
    if not coordination.is_primary():
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)
    if isinstance(leaf, jax.Array) and not _is_on_cpus(leaf) and leaf.sharding.memory_kind == "device":
        return np.asarray(leaf, order="C")
    # On a CPU device, and for NumPy, `np.asarray` would be a view of memory that the next step may reuse.
    return np.array(leaf, order="C", copy=True)


def _copy_shards(leaf: jax.Array) -> jax.Array:
    """Copy a sharded array to host memory without moving shards between hosts."""
    if _is_on_cpus(leaf):
        sharding = leaf.sharding
        shards = [jax.numpy.array(shard.data, copy=True) for shard in leaf.addressable_shards]
    else:
        sharding = leaf.sharding.with_memory_kind("pinned_host")
        on_host = functools.partial(jax.sharding.SingleDeviceSharding, memory_kind="pinned_host")
        shards = [jax.device_put(shard.data, on_host(shard.device)) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)


def _is_on_cpus(leaf: jax.Array) -> bool:
    devices: set[Any] = leaf.sharding.device_set
    return all(device.platform == "cpu" for device in devices)


@functools.cache
def _key_impl(dtype: Any) -> str:
    """Return the name by which `wrap_key_data` knows a key dtype; JAX has it for concrete keys only."""
    for impl in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(functools.partial(jax.random.key, 0, impl=impl)).dtype == dtype:
            return impl
    raise ValueError(f"unknown kind of random key: {dtype}")
