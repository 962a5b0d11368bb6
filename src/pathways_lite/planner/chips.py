"""Machines by description, to compile or estimate for: "v5p:4x4x4", two slices of "v4:12x16x16", "gpu:4x8xh100".

TPUs are compiled for with libtpu (extra `tpu`), which needs no TPU; what a chip can do is in `pathways_lite.chips`.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, SingleDeviceSharding

from pathways_lite.accelerators import QUIET_LIBTPU
from pathways_lite.chips import GPUS, TPUS, Gpu, Tpu
from pathways_lite.errors import UserError
from pathways_lite.extras import install_command

# ---- machines ----

_CUBE = 4  # v4 and v5p: optical switches join cubes of 4x4x4 chips, and close the rings
_RING = 16  # v5e and v6e: a side of 16 chips, a pod's, is a ring


@dataclass(frozen=True)
class GpuCluster:
    """Servers of GPUs, with NVLink inside a server and a network between servers."""

    text: str
    servers: int
    per_server: int
    gpu: Gpu

    @property
    def chips(self) -> int:
        return self.servers * self.per_server


@dataclass(frozen=True)
class TpuSlices:
    """One slice of a TPU torus, or several equal ones joined by the data-center network."""

    text: str
    chip_name: str
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Tpu:
        return TPUS[self.chip_name]

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def wrap(self) -> tuple[bool, ...]:
        """For each side, whether it is a ring."""
        if self.chip.dimensions == 3:
            return (all(side % _CUBE == 0 for side in self.shape),) * 3
        return tuple(side == _RING for side in self.shape)

    def devices(self) -> list[jax.Device]:
        """Return the described devices of all slices, for the compiler.

        Raises UserError without libtpu, and for a shape that libtpu rejects.
        """
        from jax.experimental import topologies

        require_libtpu()
        quiet_libtpu()
        options = dict(self.chip.options)
        if self.slices > 1:
            options |= {"num_slices": self.slices, "chips_per_host_bounds": (2, 2, 1)}
        # Without wrap-around links every all-gather over a slice would become an all-reduce of the whole array.
        wrap = (*self.wrap, *(False for _ in range(3 - len(self.shape))))
        try:
            topology = topologies.get_topology_desc(platform="tpu", topology_name=self.text, wrap=wrap, **options)
        except Exception as error:  # of a type that jax does not document
            raise UserError(f"libtpu does not describe {self.text}: {error}") from error
        return list(topology.devices)


def parse_machine(text: str, slices: int = 1) -> TpuSlices | GpuCluster:
    """Parse the description of a machine. Raises UserError for an unknown one, with a list of the known forms."""
    name, _, shape = text.lower().partition(":")
    if name == "gpu" and slices == 1:
        match = re.fullmatch(r"(?:(?:(\d+)x)?(\d+)x)?([a-z]\w*)", shape)
        servers, per_server = (int(match[1] or 1), int(match[2] or 1)) if match else (0, 0)
        if match and match[3] in GPUS and servers * per_server > 0:
            return GpuCluster(text, servers, per_server, GPUS[match[3]])
    elif name in TPUS and re.fullmatch(r"\d+(x\d+)+", shape):
        sides = tuple(int(side) for side in shape.split("x"))
        if len(sides) == TPUS[name].dimensions and min(sides) > 0 and slices > 0:
            return TpuSlices(text.lower(), name, sides, slices)
    raise UserError(f"unknown machine {text!r}{f' x {slices}' if slices != 1 else ''}; write one of\n{_MACHINES}")


_MACHINES = f"""  v4:AxBxC, v5p:AxBxC      slices of a 3D torus, e.g. v5p:4x4x4 (64 chips), v4:12x16x16
  v5e:AxB, v6e:AxB         slices of a 2D torus, e.g. v5e:4x4, v6e:16x16
  gpu:[SERVERSx]NxKIND     N GPUs per server, KIND of {", ".join(GPUS)}; e.g. gpu:8xh100, gpu:4x8xh100
with --slices N for several slices of a torus, joined by the data-center network"""


# ---- libtpu and the devices that it describes ----


def require_libtpu() -> None:
    """Raise UserError if libtpu, the compiler for TPUs, is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"compiling for TPUs needs libtpu, which runs without a TPU: {install_command('tpu')}")


def quiet_libtpu(**flags: str) -> None:
    """Set the environment variables that keep libtpu from looking for a TPU and from locking itself.

    Call it before libtpu is first used, when it reads them. `flags` are libtpu's own, e.g. `xla_jf_dump_to="dir"`.
    """
    for name, value in QUIET_LIBTPU.items():
        os.environ.setdefault(name, value)
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([given, *(f"--{name}={value}" for name, value in flags.items())]).strip()


def described_device(chip: str) -> jax.Device:
    """Return one described device. Raises KeyError for a chip that is not in `TPUS`, RuntimeError without libtpu."""
    from jax.experimental import topologies

    tpu = TPUS[chip]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=tpu.topology, **tpu.options)
    return topology.devices[0]


def abstract_on_device(tree: Any, on: jax.Device) -> Any:
    """Return abstract arrays with the sharding that makes `jit(f).lower(...)` compile for a described device."""
    sharding = SingleDeviceSharding(on)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def tracing_for(chip: str) -> Any:
    """Return a context in which kernels that ask for the chip they are traced for get this one."""
    tpu = TPUS[chip]
    abstract = AbstractDevice(device_kind=tpu.device_kind, num_cores=tpu.cores, platform="tpu")
    mesh = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=abstract)
    return jax.sharding.use_abstract_mesh(mesh)
