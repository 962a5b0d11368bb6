#!/usr/bin/env python3
"""Say what JAX computes on, and how fast it multiplies and copies. Prints one JSON line.

    python tools/measure_device.py

Fields:

    device, count, platform    as JAX names them
    nvidia_smi                 name, driver, memory, clocks and power limit, where that program is there
    versions                   of Python, JAX, its CUDA plugin, cuDNN as JAX finds it, and others that matter
    matmul_flops_per_s         of the fastest bfloat16 and float32 matmul, as in bench_train.py
    published_flops_per_s      bfloat16, by the data sheet; null where pathways_lite.chips does not have the device
    copy_bytes_per_s           read and written, of the best of three copies
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp

from bench_train import matmul_rates
from pathways_lite.chips import published_peak

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "tokamax", "flax", "numpy")
NVIDIA_SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit,ecc.mode.current"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, help="of the square arrays that are multiplied; default: bench_train.py's")
    size = parser.parse_args().size
    device = jax.devices()[0]
    line = {
        "device": device.device_kind,
        "count": jax.device_count(),
        "platform": device.platform,
        "nvidia_smi": nvidia_smi(),
        "versions": versions(),
        "matmul_flops_per_s": {dtype: round(matmul_rates(dtype, size)[0]) for dtype in ("bfloat16", "float32")},
        "published_flops_per_s": published_peak(device.device_kind),
        "copy_bytes_per_s": round(copy_rate()),
    }
    print(json.dumps(line))


def nvidia_smi() -> dict[str, str] | None:
    """Return what nvidia-smi tells about the first GPU; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={NVIDIA_SMI}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    values = done.stdout.partition("\n")[0].split(", ")
    return dict(zip(NVIDIA_SMI.split(","), values, strict=False)) if done.returncode == 0 else None


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    with suppress(Exception):  # JAX's own way to ask; it fails without cuDNN
        from jax._src.lib import cuda_versions

        if cuda_versions is not None:
            found["cudnn"] = str(cuda_versions.cudnn_get_version())
    return found


def copy_rate() -> float:
    """Return the bytes per second of an addition over an array that no cache holds."""
    size = 2**27 if jax.default_backend() == "cpu" else 2**32  # bytes
    x = jnp.zeros(size // 4, jnp.float32)
    add: Any = jax.jit(lambda x: x + 1).lower(x).compile()
    seconds = []
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        add(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * size / min(seconds[1:])


if __name__ == "__main__":
    main()
