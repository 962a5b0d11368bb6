"""Sharding rules: map logical axis names to mesh axes.

`RULES` is the table; `Layout` applies it on a mesh; `pathways-lite plan RECIPE --rules` prints it with every parameter.

Parameters are always sharded over `fsdp`, `context` and `tensor`, and the optimizer's moments like them. A layer's
weights are gathered over `fsdp` and `context` where they are used, in the dtype of the computation, and their gradients
are scattered back. Activations are sharded over the batch, over the sequence, and over heads, MLP or the width of the
residual stream (the finalized 2D sharding of GSPMD, Xu et al. 2021, arXiv 2105.04663, section 4.1; PaLM, section 4).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.errors import UserError, counted

LogicalAxes = tuple[str | None, ...]
"""A logical name for every axis of an array; None: not sharded."""

Rules = Mapping[str, tuple[str, ...]]
"""The mesh axes that shard each logical axis; (): not sharded."""

RULES: Rules = MappingProxyType(
    {
        # parameters
        "layers": (),
        "embed": ("fsdp", "context"),
        "heads": ("tensor",),
        "kv": ("tensor",),
        "head_dim": (),
        "mlp": ("tensor",),
        "vocab": ("tensor",),
        # activations, which have heads, kv and mlp too
        "batch": ("pod", "data", "fsdp"),
        "seq": ("context",),
        "residual": ("tensor",),
    }
)

REPLICATED_IF_UNEVEN = frozenset({"kv"})
"""Logical axes that are replicated if their mesh axes do not divide them: devices then share key/value heads."""

_TOKENS: LogicalAxes = ("batch", "seq")
BATCH_AXES = Batch(
    tokens=_TOKENS, targets=_TOKENS, loss_weights=_TOKENS, positions=_TOKENS, spans=Spans(_TOKENS, _TOKENS),
    domain=("batch",), sample_id=("batch", None),
)  # fmt: skip


@dataclass(frozen=True)
class BatchShard:
    """The rows of every batch that a process reads: of `total` equal shards of a batch, those numbered `shards`."""

    shards: tuple[int, ...] = (0,)
    total: int = 1

    def rows(self, sequences: int) -> np.ndarray:
        """Return row numbers, ascending. Raises UserError if the batch cannot be split evenly."""
        if sequences % self.total:
            raise UserError(
                f"a batch of {counted(sequences, 'sequence')} cannot be spread evenly over {self.total} devices "
                f"(pod x data x fsdp); use a multiple of {self.total}, or set mesh.tensor or mesh.context"
            )
        return np.arange(sequences).reshape(self.total, -1)[list(self.shards)].reshape(-1)


FULL_BATCH = BatchShard()


@dataclass(frozen=True)
class Layout:
    """The sharding rules applied on a mesh.

    Without a mesh, or on one device, nothing is sharded and arrays pass through unchanged.
    """

    mesh: Mesh | None = None
    rules: Rules = RULES

    def __hash__(self) -> int:
        """Return a hash, so that a layout can be a static argument of compiled functions."""
        return hash((self.mesh, tuple(self.rules.items())))

    @property
    def is_sharded(self) -> bool:
        """True if there is more than one device."""
        return self.mesh is not None and self.mesh.size > 1

    def size(self, logical: str) -> int:
        """Return the number of devices that shard a logical axis."""
        return math.prod(self.sizes[axis] for axis in self.rules[logical])

    @functools.cached_property
    def sizes(self) -> Mapping[str, int]:
        """The number of devices along each mesh axis."""
        return {axis: 1 for axes in self.rules.values() for axis in axes} if self.mesh is None else self.mesh.shape

    @property
    def abstract_mesh(self) -> AbstractMesh:
        """The mesh's shape and device kind, for tracing without devices."""
        return AbstractMesh((), ()) if self.mesh is None else self.mesh.abstract_mesh

    # ---- shardings of arrays ----

    def mesh_axes(self, logical: str | None) -> tuple[str, ...]:
        """Return the mesh axes of more than one device that shard a logical axis."""
        return () if logical is None else tuple(axis for axis in self.rules[logical] if self.sizes[axis] > 1)

    def shard_if_divisible(self, mesh_axes: tuple[str, ...], size: int) -> tuple[str, ...]:
        """Return `mesh_axes` if the product of their sizes divides `size`, else ()."""
        return () if size % self._n_shards(mesh_axes) else mesh_axes

    def _n_shards(self, mesh_axes: tuple[str, ...]) -> int:
        return math.prod(self.sizes[axis] for axis in mesh_axes)

    def spec(self, axes: LogicalAxes, shape: tuple[int, ...], name: str = "an array") -> PartitionSpec:
        """Return the PartitionSpec of an array with these logical axes.

        Raises UserError if two of its axes need the same mesh axis, or if one cannot be split evenly.
        """
        entries: list[tuple[str, ...]] = []
        for axis, size in zip(axes, shape, strict=True):
            wanted = self.mesh_axes(axis)
            entry = self.shard_if_divisible(wanted, size)
            if entry != wanted and axis not in REPLICATED_IF_UNEVEN:
                raise UserError(_uneven(name, axis, size, wanted, self._n_shards(wanted)))
            entries.append(entry)
        used = [mesh_axis for entry in entries for mesh_axis in entry]
        if repeated := {mesh_axis for mesh_axis in used if used.count(mesh_axis) > 1}:
            raise UserError(
                f"{name} with axes {axes} has two axes on the mesh axis {', '.join(sorted(repeated))}; "
                "give one of them another rule"
            )
        return _partition_spec(entries)

    def parameter_spec(self, axes: LogicalAxes, shape: tuple[int, ...], name: str = "a parameter") -> PartitionSpec:
        """Return `spec`, but replicate norm scales: gathering them would take as long and save nothing."""
        is_vector = len(axes) - (axes[:1] == ("layers",)) < 2
        return PartitionSpec() if is_vector else self.spec(axes, shape, name)

    def sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        """Return the NamedSharding of `spec` on this mesh; None without a mesh."""
        return None if self.mesh is None else NamedSharding(self.mesh, spec)

    def abstract_parameters(self, abstract: Any, axes: Any) -> Any:
        """Add shardings to parameters given as `jax.ShapeDtypeStruct`s, by their logical axes."""

        def shard(path: Any, leaf: Any, names: LogicalAxes) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            sharding = self.sharding(self.parameter_spec(names, leaf.shape, name))
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree_util.tree_map_with_path(shard, abstract, axes)

    def abstract_like_parameters(self, tree: Any, parameters: Any) -> Any:
        """Return `tree`, e.g. an optimizer's state, as `jax.ShapeDtypeStruct`s sharded like the parameters.

        A leaf is sharded like the parameter whose path is the end of its own path and that has the same number of axes.
        LogicalAxes that the mesh does not divide (packed masks, numbers per layer) and all other leaves (counts) are
        replicated.
        """
        parameter_of = {tuple(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(parameters)[0]}

        def shard(path: Any, leaf: Any) -> Any:
            suffixes = (tuple(path[start:]) for start in range(len(path)))
            candidates = (parameter_of[suffix] for suffix in suffixes if suffix in parameter_of)
            parameter = next((candidate for candidate in candidates if len(candidate.shape) == len(leaf.shape)), None)
            has_sharding = parameter is not None and parameter.sharding is not None
            spec = self._spec_like(parameter, leaf.shape) if has_sharding else PartitionSpec()
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(spec))

        return jax.tree_util.tree_map_with_path(shard, tree)

    def _spec_like(self, parameter: Any, shape: tuple[int, ...]) -> PartitionSpec:
        """Return the spec of `parameter` for an array of another shape; axes that do not divide are replicated."""
        if parameter.shape == shape:
            return parameter.sharding.spec
        padding = [None] * (len(shape) - len(parameter.sharding.spec))
        entries = [_entry_axes(entry) for entry in (*parameter.sharding.spec, *padding)]
        return _partition_spec([self.shard_if_divisible(entry, n) for entry, n in zip(entries, shape, strict=True)])

    # ---- inside a jitted function ----

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """Constrain `x` to the sharding of its logical axes."""
        if not self.is_sharded:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(self.spec(axes, x.shape)))

    def constrain_batch(self, batch: Batch) -> Batch:
        """Constrain the arrays of a batch to the sharding of `BATCH_AXES`."""
        return jax.tree.map(lambda x, axes: self.constrain(x, *axes), batch, BATCH_AXES)

    # ---- batches ----

    @functools.cached_property
    def batch_shard(self) -> BatchShard:
        """The rows of every batch that this process reads."""
        if self.mesh is None:
            return FULL_BATCH
        total = self.size("batch")
        shard_of_device = np.arange(total).repeat(self.mesh.size // total)
        is_local = [device.process_index == jax.process_index() for device in self.mesh.devices.flat]
        return BatchShard(tuple(np.unique(shard_of_device[is_local]).tolist()), total)

    def abstract_batch(self, abstract: Batch) -> Batch:
        """Add shardings to a batch of `jax.ShapeDtypeStruct`s."""

        def shard(x: Any, axes: LogicalAxes) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._batch_sharding(axes, x.shape))

        return jax.tree.map(shard, abstract, BATCH_AXES)

    def place_batch(self, batch: Batch, share: BatchShard | None = None) -> Batch:
        """Return the global arrays of a batch whose rows `share` (default: this process's) are given in NumPy."""
        if self.mesh is None:
            return batch
        share = share or self.batch_shard
        sequences = len(batch.tokens) * share.total // len(share.shards)
        rows = share.rows(sequences)

        def global_array(local: np.ndarray, axes: LogicalAxes) -> jax.Array:
            def read_shard(index: Any) -> np.ndarray:  # a slice for each axis
                first, last, _ = index[0].indices(sequences)
                start = int(np.searchsorted(rows, first))
                return local[(slice(start, start + last - first), *index[1:])]

            shape = (sequences, *local.shape[1:])
            return jax.make_array_from_callback(shape, self._batch_sharding(axes, shape), read_shard)

        return jax.tree.map(global_array, batch, BATCH_AXES)

    def _batch_sharding(self, axes: LogicalAxes, shape: tuple[int, ...]) -> Any:
        return self.sharding(self.spec(axes, shape, "a batch"))

    # ---- results ----

    def fetch(self, tree: Any) -> Any:
        """Return arrays in NumPy, whole and the same in all processes, which call it together."""
        leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
        if not all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves):
            tree = _replicate(self.mesh)(tree)
        return jax.tree.map(np.asarray, tree)


@functools.lru_cache(maxsize=8)
def _replicate(mesh: Mesh) -> Any:
    """Return the compiled function that gives every device of a mesh a copy of arrays."""
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))


def _partition_spec(entries: Sequence[tuple[str, ...]]) -> PartitionSpec:
    return PartitionSpec(*(entry if len(entry) > 1 else entry[0] if entry else None for entry in entries))


def _entry_axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the mesh axes that one entry of a PartitionSpec names."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)


def _uneven(name: str, axis: str | None, size: int, mesh_axes: tuple[str, ...], n_shards: int) -> str:
    over = " x ".join(f"mesh.{mesh_axis}" for mesh_axis in mesh_axes)
    return f"{name}: {n_shards} devices ({over}) do not divide the {size} of its axis {axis!r}; change one of them"
