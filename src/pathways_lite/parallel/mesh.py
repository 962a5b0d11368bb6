"""The device mesh of a recipe's `Mesh`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from pathways_lite import recipe
from pathways_lite.errors import UserError

AXES = ("pod", "data", "fsdp", "context", "tensor")
"""Outermost first: neighbours along the last axes are neighbours in the machine, slices differ in the first."""


def resolve(shape: recipe.Mesh, devices: int, slices: int = 1) -> tuple[int, ...]:
    """Sizes of `AXES` for so many devices in so many slices.

    Raises UserError where they do not multiply to it, or slices lie along another axis than `pod`.
    """
    sizes = [getattr(shape, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    named = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True) if size not in (1, -1))
    if -1 in sizes:
        if devices % fixed:
            raise UserError(f"mesh {named} does not divide {devices} devices; change one of them, or use more devices")
        sizes[sizes.index(-1)] = devices // fixed
    elif fixed != devices:
        raise UserError(
            f"mesh {named or 'fsdp=1'} has {fixed} places for {devices} devices; set one axis to -1 for the rest"
        )
    if sizes[0] % slices:
        raise UserError(
            f"the devices are {slices} slices, which mesh.pod={sizes[0]} does not follow; set mesh.pod={slices}"
        )
    return tuple(sizes)


def device_mesh(shape: recipe.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The mesh over `devices` (default: all of all processes), laid along the links of a TPU torus where it is one.

    Raises UserError as `resolve` does.
    """
    devices = jax.devices() if devices is None else list(devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = resolve(shape, len(devices), slices)
    return jax.sharding.Mesh(_arranged(devices, sizes, slices), AXES)


def _arranged(devices: Sequence[jax.Device], sizes: tuple[int, ...], slices: int) -> np.ndarray:
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(sizes)  # by process and number, as jax lists them
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    inside = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inside, (slices, *(1 for _ in sizes[1:])), devices, allow_split_physical_axes=True
    )
