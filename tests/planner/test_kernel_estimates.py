"""Described TPUs, and libtpu's estimates of kernels for them (needs the extra `tpu`)."""

import subprocess
import sys

import jax
import pytest

from pathways_kernels.attention import block_sizes
from pathways_lite.chips import TPUS
from pathways_lite.planner.chips import tracing_for


@pytest.mark.parametrize("chip", TPUS)
def test_kernels_see_the_chip_they_are_traced_for(chip):
    assert block_sizes.chip()[0] == ""
    with tracing_for(chip):
        assert block_sizes.chip()[0] == chip
        assert block_sizes.TUNED[chip, 128] == block_sizes.limits(chip, 64)
    assert jax.sharding.get_abstract_mesh().empty


DEVICES = """
from pathways_lite.chips import TPUS
from pathways_lite.planner.chips import described_device, quiet_libtpu
quiet_libtpu()
for name, chip in TPUS.items():
    described = described_device(name)
    assert described.device_kind == chip.device_kind, (name, described.device_kind)
    assert described.num_cores == chip.cores, (name, described.num_cores)
"""

PROFILE = """
import sys
import jax, jax.numpy as jnp
from jax.experimental import pallas as pl
from pathways_lite.planner.kernel_estimates import kernel_cycles, kernel_vector_memory

def build(n):
    def double(x_ref, y_ref):
        y_ref[...] = x_ref[...] * 2
    x = jax.ShapeDtypeStruct((n, 128), jnp.float32)
    block = pl.BlockSpec((1024, 128), lambda i: (i, 0))
    grid = (n // 1024,)
    return pl.pallas_call(double, grid=grid, in_specs=[block], out_specs=block, out_shape=x, name="double"), (x,)

measure, n, kernel = kernel_cycles if sys.argv[1] == "cycles" else kernel_vector_memory, int(sys.argv[2]), sys.argv[3]
print(measure(lambda: build(n), chip="v5e", kernel=kernel))
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=200)


@pytest.mark.libtpu
def test_described_devices_match_the_table():
    done = run(DEVICES)
    assert done.returncode == 0, done.stderr


@pytest.mark.libtpu
def test_the_estimate_grows_with_the_work():
    """Rows read and written are limited by main memory: 819 GB/s at 1.5 GHz, 0.9 cycles each way if they overlap."""
    short, long = (int(run(PROFILE, "cycles", n, "double").stdout) for n in ("8192", "16384"))
    assert 8192 * 0.9 < long - short < 8192 * 2


@pytest.mark.libtpu
def test_vector_memory_is_two_blocks_in_and_two_out():
    blocks = 4 * 1024 * 128 * 4
    assert blocks <= int(run(PROFILE, "memory", "8192", "double").stdout) < 1.1 * blocks


@pytest.mark.libtpu
def test_a_missing_kernel_is_answered_with_those_there_are():
    assert "the program's kernels: double.1" in run(PROFILE, "cycles", "8192", "triple").stderr
