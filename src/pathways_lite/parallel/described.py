"""TPUs by description: devices to compile for on a machine that has none (extra `tpu`)."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, SingleDeviceSharding


class Chip(NamedTuple):
    """What a chip can do. Multiply-adds count two FLOPs; bytes per second are in one direction.

    Peaks and the bandwidth of the memory are its maker's. The clock reproduces the peak. Memory is what the compiler
    lets a program have. Other bandwidths are assumptions: of ICI 45 or 90 GB/s a link (the published 50 and 100 less a
    tenth), of DCN one card of 100 Gbit/s per host of four chips on v4 (PaLM, section 4.1, saw 105 Gbit/s per pair of
    hosts) and v5e, two on v5p, four on v6e; to the host's memory 16 lanes of PCIe per chip, of the third (v4, v5e) or
    fourth generation.
    """

    topology: str  # the smallest slice that libtpu describes
    options: dict[str, Any]
    device_kind: str
    cores: int  # per device
    clock_hz: float
    bf16_flops: float  # per second and device
    hbm_bytes: int
    dimensions: int  # of the torus; two links in each
    link_bytes: float  # per second and link
    host_dcn_bytes: float  # per second and host of four chips
    hbm_bytes_per_second: float
    host_link_bytes: float  # per second and chip


CHIPS = {
    "v4": Chip(
        "v4:2x2x1", {"chip_config_name": "megacore"}, "TPU v4", 2, 1.05e9, 275e12, int(30.75 * 2**30), 3, 45e9, 12.5e9,
        1228e9, 16e9,
    ),
    "v5e": Chip("v5e:2x2", {}, "TPU v5 lite", 1, 1.5e9, 197e12, int(15.75 * 2**30), 2, 45e9, 12.5e9, 819e9, 16e9),
    "v5p": Chip("v5p:2x2x1", {}, "TPU v5", 2, 1.75e9, 459e12, int(95.73 * 2**30), 3, 90e9, 25e9, 2765e9, 32e9),
    "v6e": Chip("v6e:2x2", {}, "TPU v6 lite", 1, 1.75e9, 918e12, int(31.24 * 2**30), 2, 90e9, 50e9, 1640e9, 32e9),
}  # fmt: skip

CHIPS_PER_HOST = 4


def quiet_libtpu(**flags: str) -> None:
    """Set the environment that libtpu reads when it is first used, so that it neither looks for a TPU nor locks itself.

    Must run before that use, hence once per process. `flags` are libtpu's own, e.g. `xla_jf_dump_to="dir"`.
    """
    defaults = {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    given = os.environ.get("LIBTPU_INIT_ARGS", "")
    os.environ["LIBTPU_INIT_ARGS"] = " ".join([given, *(f"--{name}={value}" for name, value in flags.items())]).strip()


def device(chip: str) -> jax.Device:
    """One described device. Raises KeyError for a chip that is not in `CHIPS`, RuntimeError without libtpu."""
    from jax.experimental import topologies

    described = CHIPS[chip]
    topology = topologies.get_topology_desc(platform="tpu", topology_name=described.topology, **described.options)
    return topology.devices[0]


def place(tree: Any, on: jax.Device) -> Any:
    """Abstract arrays with the sharding that makes `jit(f).lower(...)` compile for a described device."""
    sharding = SingleDeviceSharding(on)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def traced_for(chip: str) -> Any:
    """A context in which kernels that ask, while they are traced, what chip they are for, are told this one."""
    described = CHIPS[chip]
    abstract = AbstractDevice(device_kind=described.device_kind, num_cores=described.cores, platform="tpu")
    mesh = AbstractMesh((1,), ("device",), axis_types=(AxisType.Auto,), abstract_device=abstract)
    return jax.sharding.use_abstract_mesh(mesh)
