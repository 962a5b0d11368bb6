"""Options of the TPU compiler for the train step: `lowered.compile(compiler_options=step_options(mesh))`.

What they change was seen in programs compiled for described chips (docs/results/plans.md); none has run on a TPU here.
"""

from __future__ import annotations

import jax

# A matrix product of an array that arrives in parts would be cut into as many permutations as there are devices: 14,825
# of them in PaLM 540B's step on 6144 chips.
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}

# A reduce-scatter over 12 devices does not compile as the fusion of an all-reduce and a slice that it becomes.
_PLAIN_REDUCE_SCATTER = {"xla_tpu_enable_all_reduce_scatter_fusion": "false"}

# On chips whose SparseCores can run collectives. Without these options they are the TensorCores' work, and computation
# waits for every one of them; a reduce-scatter over all chips of a slice is an all-reduce of the whole array. MaxText
# sets them for v5p and v6e (its benchmarks/xla_flags_library.py); they are the default on the generation after.
_ON_SPARSE_CORES = {
    f"xla_tpu_enable_sparse_core_collective_offload_{kind}": "true"
    for kind in ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "nd_reduce_scatter", "all_reduce")
}
_WITH_SPARSE_CORES = ("TPU v5", "TPU v6 lite")  # device kinds of v5p and v6e

# Vector memory that one operation may take, in KiB, twice the default: larger tiles, fewer reads of main memory. By the
# compiler's estimate of PaLM 8B's step on 64 v5p 17 % fewer cycles. More than this (of a core's 64 MiB on a v5p) makes
# the compiler search for longer: over ten minutes instead of six. A v4 has none to spare.
_VECTOR_MEMORY = {"TPU v5": "32768", "TPU v6 lite": "32768"}


def step_options(mesh: jax.sharding.Mesh | None) -> dict[str, str]:
    """For a train step on a mesh, by its devices; nothing for other devices than TPUs, or without a mesh."""
    if mesh is None:
        return {}
    device = mesh.devices.flat[0]
    if device.platform != "tpu":
        return {}
    options = dict(_WHOLE_PRODUCTS)
    if any(size & (size - 1) for size in mesh.devices.shape):
        options |= _PLAIN_REDUCE_SCATTER
    if device.device_kind in _WITH_SPARSE_CORES:
        options |= _ON_SPARSE_CORES
    if device.device_kind in _VECTOR_MEMORY:
        options["xla_tpu_scoped_vmem_limit_kib"] = _VECTOR_MEMORY[device.device_kind]
    return options


# Options of XLA's CPU backend.


def run_once_options() -> dict[str, str]:
    """For `lowered.compile(compiler_options=...)` of a program that runs once, such as the initialisation.

    On a CPU, where compiling it takes longer than running it, less optimisation: a third of the time, the same bits.
    Nothing on any other platform.
    """
    return {"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else {}
