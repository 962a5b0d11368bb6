"""Devices → mesh: resolve the sizes of the mesh axes and arrange the devices along them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from pathways_lite import recipe
from pathways_lite.errors import UserError, counted

AXES = ("pod", "data", "fsdp", "context", "tensor")
"""Mesh axes, outermost first: along the last axes devices are neighbors in the machine; slices differ in `pod`."""


def resolve_axis_sizes(shape: recipe.Mesh, n_devices: int, n_slices: int = 1) -> tuple[int, ...]:
    """Return the sizes of `AXES` for a number of devices in a number of slices; an axis of -1 takes the rest.

    Raises UserError if the sizes do not multiply to the number of devices, or if `pod` is not a multiple of the slices.
    """
    sizes = [getattr(shape, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True) if size not in (1, -1))
    there_are = f"there {'is' if n_devices == 1 else 'are'} {n_devices}"
    if -1 in sizes:
        if n_devices % fixed:
            raise UserError(
                f"mesh {named} is for a multiple of {counted(fixed, 'device')}, but {there_are}; change the mesh, or "
                "use more devices"
            )
        sizes[sizes.index(-1)] = n_devices // fixed
    elif fixed != n_devices:
        raise UserError(
            f"mesh {named or 'fsdp=1'} needs {counted(fixed, 'device')}, but {there_are}; "
            "set one axis to -1 for the rest"
        )
    if sizes[0] % n_slices:
        raise UserError(
            f"the devices form {counted(n_slices, 'slice')}, which mesh.pod={sizes[0]} does not match; set "
            f"mesh.pod={n_slices}"
        )
    return tuple(sizes)


def device_mesh(shape: recipe.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Build the mesh over `devices` (default: all devices of all processes); on TPUs it follows the torus links.

    Raises UserError as `resolve_axis_sizes` does.
    """
    devices = jax.devices() if devices is None else list(devices)
    n_slices = count_slices(devices)
    sizes = resolve_axis_sizes(shape, len(devices), n_slices)
    return jax.sharding.Mesh(_arrange(devices, sizes, n_slices), AXES)


def count_slices(devices: Sequence[jax.Device]) -> int:
    """Return how many slices, joined by the data-center network, the devices are in."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def _arrange(devices: Sequence[jax.Device], sizes: tuple[int, ...], n_slices: int) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(sizes)  # by process and number, as jax lists them
    if n_slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    within_slice = (sizes[0] // n_slices, *sizes[1:])
    across_slices = (n_slices, *(1 for _ in sizes[1:]))
    return mesh_utils.create_hybrid_device_mesh(within_slice, across_slices, devices, allow_split_physical_axes=True)
