"""Which accelerators this machine has, found out before JAX starts, so that no library looks for one in vain."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import MutableMapping
from pathlib import Path

PCI_DEVICES = Path("/sys/bus/pci/devices")
_GOOGLE = "0x1ae0"
# Classes of PCI devices (their first byte) that Google's virtual machines have besides TPUs: disks and networks.
_NO_ACCELERATOR = ("0x01", "0x02")

QUIET_LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""Settings that keep libtpu from looking for a TPU, from locking itself, and from telling what it did not find."""


def tpu_is_attached() -> bool:
    """Return whether the machine has a device by Google that may be a TPU."""
    for vendor in PCI_DEVICES.glob("*/vendor"):
        try:
            is_google = vendor.read_text().strip() == _GOOGLE
            if is_google and not vendor.with_name("class").read_text().startswith(_NO_ACCELERATOR):
                return True
        except OSError:
            continue
    return False


def leave_out_missing_tpu(environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep JAX from starting libtpu where that is installed but there is no TPU. Call it before JAX starts.

    libtpu would print pages about hosts and workers, in every process. A platform that the user has chosen, and other
    accelerators, stay as they are. `JAX_FORCE_TPU_INIT` is JAX's own way to start libtpu in any case.
    """
    if environment.get("JAX_PLATFORMS") or environment.get("JAX_FORCE_TPU_INIT"):
        return
    if importlib.util.find_spec("libtpu") is None or tpu_is_attached():
        return
    if importlib.util.find_spec("jax_plugins") is None:
        environment["JAX_PLATFORMS"] = "cpu"
        return
    # A GPU may be there or not, and of platforms that are named JAX requires each.
    for name, value in QUIET_LIBTPU.items():
        environment.setdefault(name, value)


def visible_devices(platform: str, count: int) -> str:
    """Return the setting by which a process has the first `count` devices of its machine; "" where there is none."""
    listed = ",".join(map(str, range(count)))
    return {"cpu": f"JAX_NUM_CPU_DEVICES={count}", "gpu": f"CUDA_VISIBLE_DEVICES={listed}"}.get(platform, "")
