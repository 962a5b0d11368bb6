"""Accelerator specifications: one table for TPUs and one for GPUs, from the makers' public data sheets.

The profiler takes a device's peak from here (`published_peak`), the planner everything else. A multiply-add counts as
two FLOPs. Bandwidths are bytes per second in one direction. Imports no JAX.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Tpu(NamedTuple):
    """What one TPU chip can do.

    Peaks and memory bandwidths are the maker's. The clock reproduces the peak. `hbm_bytes` is what the compiler lets a
    program use. The other bandwidths are assumptions: 45 or 90 GB/s per ICI link (the published 50 and 100, less a
    tenth); for the data-center network (DCN) one 100 Gbit/s card per host of four chips on v4 (PaLM, section 4.1, saw
    105 Gbit/s per pair of hosts) and v5e, two on v5p, four on v6e; to the host's memory 16 lanes of PCIe per chip, of
    the third (v4, v5e) or fourth generation.
    """

    topology: str  # the smallest slice that libtpu describes
    options: dict[str, Any]
    device_kinds: tuple[str, ...]  # prefixes of jax's `device_kind`; libtpu's own first
    cores: int  # per device
    clock_hz: float
    bf16_flops: float  # dense, per second and device
    hbm_bytes: int
    dimensions: int  # of the torus; two links in each
    link_bytes: float  # per second and link
    host_dcn_bytes: float  # per second and host of four chips
    hbm_bytes_per_second: float
    host_link_bytes: float  # per second and chip

    @property
    def device_kind(self) -> str:
        """Jax's `device_kind` of the devices that libtpu describes."""
        return self.device_kinds[0]


TPUS = {
    "v4": Tpu(
        "v4:2x2x1", {"chip_config_name": "megacore"}, ("TPU v4",), 2, 1.05e9, 275e12, int(30.75 * 2**30), 3, 45e9,
        12.5e9, 1228e9, 16e9,
    ),
    "v5e": Tpu(
        "v5e:2x2", {}, ("TPU v5 lite", "TPU v5e"), 1, 1.5e9, 197e12, int(15.75 * 2**30), 2, 45e9, 12.5e9, 819e9, 16e9
    ),
    "v5p": Tpu(
        "v5p:2x2x1", {}, ("TPU v5", "TPU v5p"), 2, 1.75e9, 459e12, int(95.73 * 2**30), 3, 90e9, 25e9, 2765e9, 32e9
    ),
    "v6e": Tpu(
        "v6e:2x2", {}, ("TPU v6 lite", "TPU v6e"), 1, 1.75e9, 918e12, int(31.24 * 2**30), 2, 90e9, 50e9, 1640e9, 32e9
    ),
}  # fmt: skip

CHIPS_PER_HOST = 4  # TPU chips


class Gpu(NamedTuple):
    """What one GPU (SXM module) can do; the network bandwidth is that of usual servers."""

    device_kinds: tuple[str, ...]  # prefixes of jax's `device_kind`
    bf16_flops: float  # dense, per second
    hbm_bytes: int
    nvlink_bytes: float
    network_bytes: float  # per GPU
    host_link_bytes: float  # assumed: PCIe


GPUS = {
    "a100": Gpu(("NVIDIA A100",), 312e12, 80 * 10**9, 300e9, 25e9, 32e9),
    "h100": Gpu(("NVIDIA H100",), 989e12, 80 * 10**9, 450e9, 50e9, 64e9),
    "h200": Gpu(("NVIDIA H200",), 989e12, 141 * 10**9, 450e9, 50e9, 64e9),
    "b200": Gpu(("NVIDIA B200",), 2250e12, 180 * 10**9, 900e9, 50e9, 64e9),
}

# Devices whose kind begins like one above, but that have another rate. None: the rate is unknown.
_VARIANTS: dict[str, float | None] = {
    "TPU v4 lite": None,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": None,
}

_PEAKS: dict[str, float | None] = {
    **{kind: tpu.bf16_flops for tpu in TPUS.values() for kind in tpu.device_kinds},
    **{kind: gpu.bf16_flops for gpu in GPUS.values() for kind in gpu.device_kinds},
    **_VARIANTS,
}


def published_peak(device_kind: str) -> float | None:
    """Return the dense bf16 FLOP/s of one device by its data sheet; None if this table does not have it.

    The longest prefix of jax's `device_kind` wins: a "TPU v5 lite" (v5e) is not a "TPU v5" (v5p), and a PCIe card is
    not an SXM module.
    """
    prefixes = [kind for kind in _PEAKS if device_kind.startswith(kind)]
    return _PEAKS[max(prefixes, key=len)] if prefixes else None
