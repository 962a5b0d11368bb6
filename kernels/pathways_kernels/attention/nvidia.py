"""Whether the GPU backends may be chosen. Light: imports no kernel, since every trace on every machine asks.

A GPU kernel is compiled for a generation. The choice between platforms waits until lowering, but by then a backend can
no longer refuse; so, while tracing, a GPU backend is offered only if a GPU that can run it is in sight: the process has
one, or the mesh in context names one (`jax.sharding.AbstractDevice`, to compile for a GPU that is elsewhere). Without
that knowledge the program for GPUs is plain XLA, which runs on all of them.
"""

from __future__ import annotations

import importlib.util
import os

from pathways_kernels.attention.request import Request, platform_in_sight
from pathways_kernels.attention.static_kinds import Causal, Full, Window

OLDEST = 80  # Ampere: bfloat16 on the tensor cores, asynchronous copies to shared memory
SMALL = (86, 89, 120, 121)  # 99 KiB of shared memory, of which head dims beyond 128 take more


def compute_capability() -> int | None:
    """That of the NVIDIA GPU in sight, 90 for 9.0; None: there is none, or not known."""
    if platform_in_sight() not in ("gpu", "cuda"):
        return None
    from jax.experimental.pallas import triton  # slow to import

    try:
        return triton.get_gpu_info().compute_capability or None  # 0: AMD
    except ValueError:
        return None


def pallas_gpu_refuses(request: Request) -> str | None:
    """Why `pallas_gpu` cannot serve a request, or None."""
    D, dtype = request.q.shape[3], request.q.dtype.name
    if D > 256:
        return f"the head dim is {D}; it serves up to 256."
    if dtype not in ("float16", "bfloat16", "float32"):
        return f"the arrays are {dtype}; it serves float16, bfloat16 and float32."
    if D > 128 and compute_capability() in SMALL:
        return f"the head dim is {D}; on this GPU, with its small shared memory, it serves up to 128."
    return _too_old()


def cudnn_refuses(request: Request) -> str | None:
    """Why `cudnn` cannot serve a request exactly, or None. The limits are those of jax's own cuDNN attention."""
    (_, T, _, D), S = request.q.shape, request.k.shape[1]
    if request.q.dtype.name not in ("float16", "bfloat16"):
        return f"the arrays are {request.q.dtype.name}; it serves float16 and bfloat16."
    if D > 128 or D % 8:
        return f"the head dim is {D}; it serves multiples of 8 up to 128."
    if request.logits_soft_cap is not None:
        return "it has no soft cap of the logits."
    match request.kind:
        case Full():
            pass
        case Causal(0) | Window(_, 0) if T == S:
            pass
        case _:
            return (
                "it serves spans that are known while tracing (NumPy arrays) and full, or causal or a sliding window "
                f"with as many keys as queries; these are {request.kind or 'others'}, {T} queries and {S} keys."
            )
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return "cuDNN is not installed (pathways-lite[cuda13])."
    return _too_old() or _any_order()


def _too_old() -> str | None:
    capability = compute_capability()
    if capability is None:
        return "no NVIDIA GPU is in sight (jax.devices(), or an abstract device of the mesh in context)."
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability / 10}; it needs {OLDEST / 10} or newer."
    return None


def _any_order() -> str | None:
    """cuDNN's backward pass sums in any order unless XLA is asked for the same bits every time (openxla/xla#14125)."""
    flags = [flag.removesuffix("=true") for flag in os.environ.get("XLA_FLAGS", "").split()]
    wanted = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")
    if any(flag in wanted for flag in flags):
        return None
    return f"its gradients are not the same bits every time unless XLA_FLAGS has {wanted[0]}=true."
