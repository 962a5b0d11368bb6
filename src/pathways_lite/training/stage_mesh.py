"""The mesh of a stage: how many devices each axis gets, and whether they divide its model and its batches.

Training, its dry run and plans for other machines ask here, so that they refuse the same meshes with the same words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from pathways_lite.accelerators import visible_devices
from pathways_lite.errors import UserError, counted
from pathways_lite.parallel.mesh import AXES, count_slices, device_mesh, resolve_axis_sizes
from pathways_lite.parallel.sharding import REPLICATED_IF_UNEVEN, RULES
from pathways_lite.recipe import Mesh, Model, Stage
from pathways_lite.training.stage import effective_reweighting, microbatch_at, reference_model, stage_timeline

AxisSizes = Mapping[str, int]
"""The number of devices along each of `AXES`."""

_SHOWN = 3  # meshes
_SMALL = 16  # devices: up to here every smaller number is tried too


class Extent(NamedTuple):
    """A size of a stage that the devices of one logical axis must divide."""

    text: str  # for people, with the size, e.g. `model.vocab_size=257`
    size: int
    logical: str  # an axis of `RULES`

    def is_divided(self, shards: int, size: int | None = None) -> bool:
        """Return whether so many devices can share it; `size`: another one in its place."""
        size = size or self.size
        return size % shards == 0 or (self.logical in REPLICATED_IF_UNEVEN and shards % size == 0)

    def divided_sizes(self, shards: int) -> list[int]:
        """Return the nearest sizes that so many devices can share: the one below, where there is one, and above."""
        below = next((size for size in range(self.size - 1, 0, -1) if self.is_divided(shards, size)), None)
        above = next(size for size in itertools.count(self.size + 1) if self.is_divided(shards, size))
        # A tokenizer has its ids, so that a vocabulary can only grow.
        return [above] if below is None or self.logical == "vocab" else [below, above]


def stage_mesh(stage: Stage, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Build the stage's mesh over `devices` (default: all devices of all processes); see `stage_axis_sizes`."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = stage_axis_sizes(stage, len(devices), count_slices(devices))
    return device_mesh(Mesh(**sizes), devices)


def stage_axis_sizes(stage: Stage, n_devices: int, n_slices: int = 1) -> AxisSizes:
    """Return the sizes of the axes of the stage's mesh on a number of devices in a number of slices.

    Where `fsdp` takes the rest of the devices, it takes as many as divide the width of the model, and `data` the others
    (`mesh_note` says so).

    Raises UserError if the sizes do not multiply to the number of devices, or do not match the slices.
    """
    try:
        sizes = dict(zip(AXES, resolve_axis_sizes(stage.mesh, n_devices, n_slices), strict=True))
    except UserError as error:
        raise UserError(f"stage {stage.name!r}: {error}") from error
    if stage.mesh.fsdp == -1 and stage.mesh.data == 1:
        rest = sizes["fsdp"]
        fitting = [n for n in _divisors(rest) if stage.model.d_model % (n * sizes["context"]) == 0]
        sizes["fsdp"] = max(fitting, default=rest)
        sizes["data"] = rest // sizes["fsdp"]
    return sizes


def uneven_extents(stage: Stage, sizes: AxisSizes) -> list[Extent]:
    """List what the devices of some axis do not divide."""
    return [extent for extent in stage_extents(stage) if not extent.is_divided(_shards(sizes, extent.logical))]


def require_mesh(stage: Stage, n_devices: int, n_slices: int = 1, platform: str | None = None) -> AxisSizes:
    """Return `stage_axis_sizes`, with which the stage can be trained; `platform`: of the devices of this process.

    Raises UserError, with sizes and meshes that work, if the mesh does not fit the devices, or the devices of an axis
    do not divide what they share of the model, its sequences or its batches.
    """
    sizes = stage_axis_sizes(stage, n_devices, n_slices)
    if uneven := uneven_extents(stage, sizes):
        raise UserError(
            f"stage {stage.name!r} cannot be spread over {counted(n_devices, 'device')}: "
            f"{_describe_uneven(uneven, sizes)}; {_describe_ways(stage, n_devices, n_slices, platform)}"
        )
    return sizes


def require_mesh_here(stage: Stage) -> AxisSizes:
    """Return `require_mesh` for the devices of all processes of this program."""
    devices = jax.devices()
    platform = devices[0].platform if len({device.process_index for device in devices}) == 1 else None
    return require_mesh(stage, len(devices), count_slices(devices), platform)


def mesh_problem(stage: Stage) -> str:
    """Say why the stage cannot be trained on the devices of all processes; "" where it can."""
    try:
        require_mesh_here(stage)
    except UserError as error:
        return str(error)
    return ""


def mesh_note(stage: Stage, sizes: AxisSizes) -> str:
    """Say where `fsdp` could not take the rest of the devices, so that `data` has some; "" where it has them all."""
    if stage.mesh.fsdp != -1 or stage.mesh.data != 1 or sizes["data"] == 1:
        return ""
    rest = sizes["data"] * sizes["fsdp"]
    return (
        f"the mesh is data={sizes['data']}, fsdp={sizes['fsdp']}, as {rest} devices do not divide "
        f"model.d_model={stage.model.d_model}"
    )


def stage_extents(stage: Stage) -> list[Extent]:
    """List what the devices of a mesh must divide: sizes of the models, of sequences and of batches."""
    timeline, extents = stage_timeline(stage), _model_extents("model", stage.model)
    if (reference := reference_model(stage)) is not None:
        extents += _model_extents("the reference's model", reference)
    rule, is_constant = effective_reweighting(stage), len(timeline.batch_phases) == 1
    for phase in timeline.batch_phases:
        n, seq_len = phase.sequences, phase.seq_len
        extents.append(
            Extent(f"data.seq_len={seq_len}" if is_constant else f"sequences of {seq_len} tokens", seq_len, "seq")
        )
        extents.append(Extent(f"batch_size={n}" if is_constant else f"batches of {n} sequences", n, "batch"))
        if (microbatch := microbatch_at(stage, seq_len)) is not None:
            extents.append(Extent(f"microbatch={microbatch}", microbatch, "batch"))
        if rule is not None and (kept := rule.num_kept_rows(n)) < n:
            extents.append(Extent(f"the {kept} sequences of a batch that reweighting keeps", kept, "batch"))
    return list(dict.fromkeys(extents))


def _model_extents(owner: str, model: Model) -> list[Extent]:
    fields = [("d_model", "embed"), ("d_model", "residual"), ("n_heads", "heads"), ("n_kv_heads", "kv")]
    fields += [("d_ff", "mlp"), ("vocab_size", "vocab")]
    sizes = [(field, getattr(model, field), logical) for field, logical in fields]
    return [Extent(f"{owner}.{field}={size}", size, logical) for field, size, logical in sizes]


def _shards(sizes: AxisSizes, logical: str) -> int:
    return math.prod(sizes[axis] for axis in RULES[logical])


# ---- sentences ----


def _describe_uneven(uneven: Sequence[Extent], sizes: AxisSizes) -> str:
    """Say which axes do not divide what, and which sizes they would divide."""
    by_axes: dict[tuple[str, ...], list[Extent]] = {}
    for extent in uneven:
        by_axes.setdefault(tuple(axis for axis in RULES[extent.logical] if sizes[axis] > 1), []).append(extent)
    clauses = []
    for axes, extents in by_axes.items():
        named = " x ".join(f"mesh.{axis}={sizes[axis]}" for axis in axes)
        things = dict.fromkeys(_with_working_sizes(extent, _shards(sizes, extent.logical)) for extent in extents)
        clauses.append(f"{named} {'does' if len(axes) == 1 else 'do'} not divide {' or '.join(things)}")
    return ", and ".join(clauses)


def _with_working_sizes(extent: Extent, shards: int) -> str:
    working = extent.divided_sizes(shards)
    return f"{extent.text} ({' or '.join(map(str, working))} work{'s' * (len(working) == 1)})"


def _describe_ways(stage: Stage, n_devices: int, n_slices: int, platform: str | None) -> str:
    """Say which meshes of so many devices divide all extents; where none does, how many devices have one."""
    extents = stage_extents(stage)
    if meshes := list(itertools.islice(_working_meshes(extents, n_devices, n_slices), _SHOWN)):
        return f"of {counted(n_devices, 'device')}, {' or '.join(meshes)} works for it"
    fewer = {*range(1, min(n_devices, _SMALL)), *_divisors(n_devices)} - {n_devices}
    count = next(n for n in sorted(fewer, reverse=True) if next(_working_meshes(extents, n, 1), None))
    setting = "" if platform is None else visible_devices(platform, count)
    how = f": write {setting} before the command, as in {setting} pathways-lite train RECIPE" if setting else ""
    return f"no mesh of {counted(n_devices, 'device')} works for it, but one of {count} does{how}"


def _working_meshes(extents: Sequence[Extent], n_devices: int, n_slices: int) -> Iterator[str]:
    """Yield the meshes of so many devices that divide all extents as recipes write them, the plainest first."""
    per_slice = n_devices // n_slices
    splits = [
        (fsdp, data, tensor, per_slice // (fsdp * data * tensor))
        for fsdp in _divisors(per_slice)
        for data in _divisors(per_slice // fsdp)
        for tensor in _divisors(per_slice // (fsdp * data))
    ]
    splits.sort(key=lambda split: (sum(size > 1 for size in split), split[3], split[2], split[1]))
    for fsdp, data, tensor, context in splits:
        sizes = {"pod": n_slices, "data": data, "fsdp": fsdp, "context": context, "tensor": tensor}
        if all(extent.is_divided(_shards(sizes, extent.logical)) for extent in extents):
            yield " with ".join(f"mesh.{axis}={size}" for axis, size in sizes.items() if size > 1) or "mesh.fsdp=1"


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
