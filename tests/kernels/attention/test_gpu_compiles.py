"""The Pallas kernels, through Triton and ptxas to machine code of an H100, on a machine without one.

Needs the compiler, which is in two wheels (400 MB): `make install EXTRA=cuda13-compiler`.
"""

import importlib.util
import warnings
from functools import partial

import jax
import pytest
from jax._src import xla_bridge
from jax.experimental import topologies

from helpers.attention_contract import SCALE
from helpers.gpu_target import H100, lower_for_gpu
from pathways_kernels.attention import Spans, attention
from pathways_kernels.attention.pallas_gpu import Tile, default_tiles, pallas_gpu

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_plugins.xla_cuda13"))),
    reason="the CUDA compiler is not installed (make install EXTRA=cuda13-compiler)",
)

TARGET = f"""
platform_name: "CUDA"
device_description_str: "{H100}"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
}}
"""
# Do not autotune, since there is no GPU to measure on; a register that spills is an error.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_fail_ptx_compilation_on_register_spilling": True}


@pytest.fixture(scope="module")
def h100():
    with pytest.MonkeyPatch.context() as patch:
        # jax looks for a "gpu" among the running platforms (jax-ml/jax#23971).
        canonicalize = xla_bridge.canonicalize_platform
        patch.setattr(xla_bridge, "canonicalize_platform", lambda name: "cuda" if name == "gpu" else canonicalize(name))
        yield topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1").devices[0]


def compiled(device, attend, B, T, H, K, D, dtype):
    sharding = jax.sharding.SingleDeviceSharding(device)
    q, k, ends = (
        jax.ShapeDtypeStruct(shape, kind, sharding=sharding)
        for shape, kind in (((B, T, H, D), dtype), ((B, T, K, D), dtype), ((B, T), "int32"))
    )

    def both(q, k, v, d_out, spans):
        out, pullback = jax.vjp(lambda q, k, v: attend(q, k, v, spans, scale=SCALE), q, k, v)
        return out, *pullback(d_out)

    with lower_for_gpu(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pallas's Triton
        lowered = jax.jit(both).lower(q, k, k, q, Spans(ends, ends))
    return lowered.compile(compiler_options=OPTIONS)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("D", [64, 128, 256])
def test_compiles_without_spilling(D, dtype, h100):
    B, T, H = 2, 2048, 8
    program = compiled(h100, attention, B, T, H, 2, D, dtype)
    text = program.as_text()
    assert all(kernel in text for kernel in ("forward_kernel", "dq_kernel", "dkv_kernel"))
    # Linear in T: the output, delta and the partial dk and dv, but no [T, T] of any head.
    assert program.memory_analysis().temp_size_in_bytes < 4 * B * H * T * T


def test_a_spill_would_be_seen(h100):
    tiles = default_tiles(128, "float32")._replace(dkv=Tile(32, 64, 4))
    with pytest.raises(jax.errors.JaxRuntimeError, match="spill"):
        compiled(h100, partial(pallas_gpu, tiles=tiles), 2, 2048, 8, 2, 128, "float32")
