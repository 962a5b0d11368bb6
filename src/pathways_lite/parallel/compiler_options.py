"""XLA compiler options of the train step and of programs that run once, for `lowered.compile(compiler_options=...)`."""

from __future__ import annotations

import jax

# ---- the train step on TPUs ----

# Their effects were seen in programs compiled for described chips (docs/results/plans.md); none has run on a TPU here.

# A matrix product of an array that is gathered would be split into one permutation per device: 14,825 of them in PaLM
# 540B's step on 6144 chips.
_NO_WINDOWED_EINSUM = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# A reduce-scatter over 12 devices becomes a fusion of an all-reduce and a slice, which does not compile.
_NO_REDUCE_SCATTER_FUSION = {"xla_tpu_enable_all_reduce_scatter_fusion": "false"}

# For chips whose SparseCores can run collectives. Without these options the TensorCores run them and computation waits
# for every one, and a reduce-scatter over all chips of a slice is an all-reduce of the whole array. MaxText sets them
# for v5p and v6e (its benchmarks/xla_flags_library.py); they are the default on the next generation.
_SPARSE_CORE_COLLECTIVES = {
    f"xla_tpu_enable_sparse_core_collective_offload_{kind}": "true"
    for kind in ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "nd_reduce_scatter", "all_reduce")
}
_HAVE_SPARSE_CORES = ("TPU v5", "TPU v6 lite")  # device kinds of v5p and v6e

# Vector memory (VMEM) that one operation may use, in KiB, twice the default: larger tiles and fewer reads of main
# memory, by the compiler's estimate 17 % fewer cycles in PaLM 8B's step on 64 v5p. More than this (of a core's 64 MiB
# on a v5p) makes compilation take over ten minutes instead of six. A v4 has none to spare.
_VMEM_LIMIT_KIB = {"TPU v5": "32768", "TPU v6 lite": "32768"}


def step_options(mesh: jax.sharding.Mesh | None) -> dict[str, str]:
    """Return the options of a train step on a mesh, by its devices; none without a mesh or without TPUs."""
    if mesh is None:
        return {}
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return {}
    options = dict(_NO_WINDOWED_EINSUM)
    if any(size & (size - 1) for size in mesh.devices.shape):
        options |= _NO_REDUCE_SCATTER_FUSION
    if device.device_kind in _HAVE_SPARSE_CORES:
        options |= _SPARSE_CORE_COLLECTIVES
    if device.device_kind in _VMEM_LIMIT_KIB:
        options["xla_tpu_scoped_vmem_limit_kib"] = _VMEM_LIMIT_KIB[device.device_kind]
    return options


# ---- programs that run once ----


def run_once_options() -> dict[str, str]:
    """Return the options of a program that runs once, such as the initialization.

    On a CPU, where compiling it takes longer than running it, less optimization: a third of the time, the same bits.
    None on other platforms.
    """
    return {"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else {}
