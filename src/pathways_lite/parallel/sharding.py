"""Which part of every array lies on which device: one table from logical axes to mesh axes, and what follows from it.

Parameters are spread over `fsdp`, `context` and `tensor` at all times, the optimizer's moments like them. A layer's
weights are gathered over `fsdp` and `context` where they are used, in the computation's dtype, and their gradients are
scattered back. Activations are spread over the batch, over the sequence, and over heads, MLP or the residual stream's
width (the finalized 2D sharding of GSPMD, Xu et al. 2021, arXiv 2105.04663, section 4.1, which PaLM uses, section 4).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from pathways_kernels.attention import Spans
from pathways_lite.batch import Batch
from pathways_lite.errors import UserError

Axes = tuple[str | None, ...]
"""A logical name for every axis of an array; None: whole."""

Rules = Mapping[str, tuple[str, ...]]

RULES: Rules = MappingProxyType(
    {
        # of parameters
        "layers": (),
        "embed": ("fsdp", "context"),
        "heads": ("tensor",),
        "kv": ("tensor",),
        "head_dim": (),
        "mlp": ("tensor",),
        "vocab": ("tensor",),
        # of activations, which have heads, kv and mlp too
        "batch": ("pod", "data", "fsdp"),
        "seq": ("context",),
        "residual": ("tensor",),
    }
)

FSDP_AXES = RULES["embed"]
"""Mesh axes over which a weight is gathered where it is used."""

REPLICATED_IF_UNEVEN = frozenset({"kv"})
"""Logical axes that stay whole where their mesh axes do not divide them: devices then share key/value heads."""

_TOKENS: Axes = ("batch", "seq")
BATCH_AXES = Batch(
    tokens=_TOKENS, targets=_TOKENS, loss_weights=_TOKENS, positions=_TOKENS, spans=Spans(_TOKENS, _TOKENS),
    domain=("batch",), sample_id=("batch", None),
)  # fmt: skip


@dataclass(frozen=True)
class BatchShard:
    """The rows of every batch that a process reads: batches are cut into `of` equal parts, these are its `parts`."""

    shards: tuple[int, ...] = (0,)
    total: int = 1

    def rows(self, sequences: int) -> np.ndarray:
        """Row numbers, ascending. Raises UserError where the batch cannot be cut evenly."""
        if sequences % self.total:
            raise UserError(
                f"a batch of {sequences} sequences cannot be spread evenly over {self.total} devices "
                f"(pod x data x fsdp); use a multiple of {self.total}, or fewer of them by mesh.tensor or mesh.context"
            )
        return np.arange(sequences).reshape(self.total, -1)[list(self.shards)].reshape(-1)


FULL_BATCH = BatchShard()


@dataclass(frozen=True)
class Layout:
    """The rules on a mesh. Without a mesh, or on one device, nothing is spread and arrays pass through unchanged."""

    mesh: Mesh | None = None
    rules: Rules = RULES

    @property
    def is_spread(self) -> bool:
        """Whether there is more than one device."""
        return self.mesh is not None and self.mesh.size > 1

    def size(self, logical: str) -> int:
        """Over how many devices a logical axis is spread."""
        return math.prod(self.sizes[axis] for axis in self.rules[logical])

    @functools.cached_property
    def sizes(self) -> Mapping[str, int]:
        """Devices along each mesh axis."""
        return {axis: 1 for axes in self.rules.values() for axis in axes} if self.mesh is None else self.mesh.shape

    @property
    def abstract_mesh(self) -> AbstractMesh:
        """The mesh's shape and the kind of its devices, for what is traced for them."""
        return AbstractMesh((), ()) if self.mesh is None else self.mesh.abstract_mesh

    # ---- where an array lies ----

    def spec(self, axes: Axes, shape: tuple[int, ...], name: str = "an array") -> PartitionSpec:
        """Mesh axes of every axis of an array.

        Raises UserError where two of its axes want the same mesh axis, and where one cannot be cut evenly.
        """
        places: list[tuple[str, ...]] = []
        for axis, size in zip(axes, shape, strict=True):
            place = tuple(m for m in self.rules[axis] if self.sizes[m] > 1) if axis is not None else ()
            parts = math.prod(self.sizes[m] for m in place)
            if size % parts:
                if axis not in REPLICATED_IF_UNEVEN:
                    raise UserError(_uneven(name, axis, size, place, parts))
                place = ()
            places.append(place)
        taken = [m for place in places for m in place]
        if twice := {m for m in taken if taken.count(m) > 1}:
            raise UserError(
                f"{name} with axes {axes} has two axes on the mesh axis {', '.join(sorted(twice))}; "
                "give one of them another rule"
            )
        return PartitionSpec(*(place if len(place) > 1 else place[0] if place else None for place in places))

    def parameter_spec(self, axes: Axes, shape: tuple[int, ...], name: str = "a parameter") -> PartitionSpec:
        """As `spec`, but scales of norms stay whole: gathering them would take as long and save nothing."""
        vector = len(axes) - (axes[:1] == ("layers",)) < 2
        return PartitionSpec() if vector else self.spec(axes, shape, name)

    def sharding(self, spec: PartitionSpec) -> NamedSharding | None:
        """On this mesh; None without one."""
        return None if self.mesh is None else NamedSharding(self.mesh, spec)

    def abstract_parameters(self, abstract: Any, axes: Any) -> Any:
        """Parameters as `jax.ShapeDtypeStruct`s with their shardings, from those without and their logical axes."""

        def place(path: Any, leaf: Any, names: Axes) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            sharding = self.sharding(self.parameter_spec(names, leaf.shape, name))
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree_util.tree_map_with_path(place, abstract, axes)

    def abstract_like_parameters(self, tree: Any, parameters: Any) -> Any:
        """`tree`, e.g. an optimizer's state, as `jax.ShapeDtypeStruct`s with shardings.

        A leaf lies as the parameter whose path ends its own path and that has as many axes, but for axes that the mesh
        does not divide: of packed masks, and of numbers per layer. The rest (counts) is whole.
        """
        placed = {tuple(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(parameters)[0]}

        def place(path: Any, leaf: Any) -> Any:
            ends = (placed.get(tuple(path[start:])) for start in range(len(path)))
            like = next((found for found in ends if found is not None and len(found.shape) == len(leaf.shape)), None)
            spec = PartitionSpec() if like is None or like.sharding is None else self._where_even(like, leaf.shape)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.sharding(spec))

        return jax.tree_util.tree_map_with_path(place, tree)

    def _where_even(self, like: Any, shape: tuple[int, ...]) -> PartitionSpec:
        """The places of `like` for an array of another shape, whole along the axes that they do not divide."""
        if like.shape == shape:
            return like.sharding.spec
        places = [*like.sharding.spec, *[None] * (len(shape) - len(like.sharding.spec))]
        parts = [math.prod(self.sizes[m] for m in _mesh_axes(place)) for place in places]
        return PartitionSpec(
            *(place if size % n == 0 else None for place, size, n in zip(places, shape, parts, strict=True))
        )

    # ---- inside a jitted function ----

    def constrain(self, x: jax.Array, *axes: str | None) -> jax.Array:
        """`x`, lying as its logical axes say."""
        if not self.is_spread:
            return x
        return jax.lax.with_sharding_constraint(x, self.sharding(self.spec(axes, x.shape)))

    def constrain_batch(self, batch: Batch) -> Batch:
        """A batch, lying as a batch does."""
        return jax.tree.map(lambda x, axes: self.constrain(x, *axes), batch, BATCH_AXES)

    # ---- batches ----

    @functools.cached_property
    def batch_shard(self) -> BatchShard:
        """What this process reads."""
        if self.mesh is None:
            return FULL_BATCH
        of = self.size("batch")
        parts = np.arange(of).repeat(self.mesh.size // of)
        mine = [device.process_index == jax.process_index() for device in self.mesh.devices.flat]
        return BatchShard(tuple(sorted({int(part) for part, is_mine in zip(parts, mine, strict=True) if is_mine})), of)

    def abstract_batch(self, abstract: Batch) -> Batch:
        """A batch of `jax.ShapeDtypeStruct`s with shardings."""

        def placed(x: Any, axes: Axes) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._batch_sharding(axes, x.shape))

        return jax.tree.map(placed, abstract, BATCH_AXES)

    def place_batch(self, batch: Batch, share: BatchShard | None = None) -> Batch:
        """Global arrays of a batch's rows in NumPy: those of `share` (default: this process's) or of all."""
        if self.mesh is None:
            return batch
        share = share or self.batch_shard
        sequences = len(batch.tokens) * share.total // len(share.shards)
        rows = share.rows(sequences)

        def global_array(local: np.ndarray, axes: Axes) -> jax.Array:
            def part(index: Any) -> np.ndarray:  # a slice for each axis
                first, last, _ = index[0].indices(sequences)
                at = int(np.searchsorted(rows, first))
                return local[(slice(at, at + last - first), *index[1:])]

            shape = (sequences, *local.shape[1:])
            return jax.make_array_from_callback(shape, self._batch_sharding(axes, shape), part)

        return jax.tree.map(global_array, batch, BATCH_AXES)

    def _batch_sharding(self, axes: Axes, shape: tuple[int, ...]) -> Any:
        return self.sharding(self.spec(axes, shape, "a batch"))


def _mesh_axes(place: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """What one entry of a PartitionSpec names."""
    return place if isinstance(place, tuple) else () if place is None else (place,)


def _uneven(name: str, axis: str | None, size: int, place: tuple[str, ...], parts: int) -> str:
    over = " x ".join(f"mesh.{m}" for m in place)
    return f"{name}: {parts} devices ({over}) do not divide the {size} of its axis {axis!r}; change one of them"
