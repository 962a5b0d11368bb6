"""Which calls each backend supports. Imports no kernel, since every trace on every machine asks.

A TPU or GPU kernel is compiled for one generation of chips. The choice between platforms waits until lowering, but by
then a backend can no longer refuse a call. So while tracing, a backend for a chip is offered only if such a chip is
known to be the target: the process has one, or the mesh in context names one (`jax.sharding.AbstractDevice`, to compile
for a chip that is elsewhere). Otherwise the program is plain XLA, which runs on all of them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
from pathlib import Path
from typing import NamedTuple

import jax

from pathways_kernels.attention.static_kinds import Causal, Full, SpanKind, Window

CPU_LIBRARY = Path(__file__).with_name("_cpu.so")
OLDEST = 80  # Ampere: bfloat16 on the tensor cores, asynchronous copies to shared memory
SMALL = (86, 89, 120, 121)  # 99 KiB of shared memory, too little for head dims beyond 128


class Request(NamedTuple):
    """Everything about a call that is known while tracing."""

    q: jax.core.ShapedArray
    k: jax.core.ShapedArray
    v: jax.core.ShapedArray
    logits_soft_cap: float | None
    span_kind: SpanKind | None = None


# ---- target platform ----


def platform_of_mesh() -> str | None:
    """Return the platform of the abstract device of the mesh in context; None if there is none."""
    abstract = jax.sharding.get_abstract_mesh().abstract_device
    return None if abstract is None else abstract.platform


def target_platform() -> str:
    """Return the platform that is compiled for, as far as it is known while tracing: the mesh's, else JAX's default."""
    return platform_of_mesh() or jax.default_backend()


def compute_capability() -> int | None:
    """Return the compute capability of the target NVIDIA GPU, 90 for 9.0; None if there is none or it is unknown."""
    if target_platform() not in ("gpu", "cuda"):
        return None
    from jax.experimental.pallas import triton  # slow to import

    try:
        return triton.get_gpu_info().compute_capability or None  # 0: AMD
    except ValueError:
        return None


@functools.cache
def cpu_library() -> ctypes.CDLL:
    """Load the compiled `cpu.cc`. Raises OSError where there is none."""
    return ctypes.CDLL(str(CPU_LIBRARY))


@functools.cache
def cpu_library_reason() -> str | None:
    """Return why the compiled `cpu.cc` cannot be used on this machine; None if it can."""
    source = CPU_LIBRARY.with_name("cpu.cc")
    try:
        library = cpu_library()
    except OSError:
        return "it was not compiled when the package was built (no C++ compiler, or no x86-64 processor)."
    compiled = getattr(library, "attention_source", None)
    if compiled is not None:
        compiled.restype = ctypes.c_char_p
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if compiled is None or compiled().decode() != digest:
        return "it was compiled from another version of cpu.cc; install the package again (make install)."
    return None if library.attention_is_supported() else "the processor has no AVX2."


# ---- backends: the reason why a request is not supported, or None ----


def pallas_tpu_unsupported_reason(request: Request) -> str | None:
    D, dtype = request.q.shape[3], request.q.dtype.name
    if D > 256:
        return f"the head dim is {D}; it supports up to 256."
    if dtype not in ("bfloat16", "float32"):
        return f"the arrays are {dtype}; it supports bfloat16 and float32."
    if target_platform() != "tpu":
        return "no TPU is in sight (jax.devices(), or an abstract device of the mesh in context)."
    return None


def cpu_unsupported_reason(request: Request) -> str | None:
    del request  # it supports all
    if (reason := cpu_library_reason()) is not None:
        return reason
    if target_platform() != "cpu":
        return "the program is for another platform."
    return None


def pallas_gpu_unsupported_reason(request: Request) -> str | None:
    D, dtype = request.q.shape[3], request.q.dtype.name
    if D > 256:
        return f"the head dim is {D}; it supports up to 256."
    if dtype not in ("float16", "bfloat16", "float32"):
        return f"the arrays are {dtype}; it supports float16, bfloat16 and float32."
    if D > 128 and compute_capability() in SMALL:
        return f"the head dim is {D}; on this GPU, with its small shared memory, it supports up to 128."
    return _gpu_unsupported_reason()


def cudnn_unsupported_reason(request: Request) -> str | None:
    """Return why `cudnn` cannot compute a request exactly. The limits are those of jax's own cuDNN attention."""
    (_, T, _, D), S = request.q.shape, request.k.shape[1]
    if request.q.dtype.name not in ("float16", "bfloat16"):
        return f"the arrays are {request.q.dtype.name}; it supports float16 and bfloat16."
    if D > 128 or D % 8:
        return f"the head dim is {D}; it supports multiples of 8 up to 128."
    if request.logits_soft_cap is not None:
        return "it has no soft cap of the logits."
    match request.span_kind:
        case Full():
            pass
        case Causal(0) | Window(_, 0) if T == S:
            pass
        case _:
            return (
                "it supports spans that are known while tracing (NumPy arrays) and full, or causal or a sliding window "
                f"with as many keys as queries; these are {request.span_kind or 'others'}, {T} queries and {S} keys."
            )
    if not any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
        return "cuDNN is not installed (pathways-lite[cuda13])."
    return _gpu_unsupported_reason() or _nondeterministic_reason()


def _gpu_unsupported_reason() -> str | None:
    capability = compute_capability()
    if capability is None:
        return "no NVIDIA GPU is in sight (jax.devices(), or an abstract device of the mesh in context)."
    if capability < OLDEST:
        return f"the GPU's compute capability is {capability / 10}; it needs {OLDEST / 10} or newer."
    return None


def _nondeterministic_reason() -> str | None:
    """cuDNN's backward pass sums in any order unless XLA is asked for determinism (openxla/xla#14125)."""
    enabled = [flag.removesuffix("=true") for flag in os.environ.get("XLA_FLAGS", "").split()]
    deterministic = ("--xla_gpu_deterministic_ops", "--xla_gpu_exclude_nondeterministic_ops")
    if any(flag in deterministic for flag in enabled):
        return None
    return f"its gradients are not the same bits every time unless XLA_FLAGS has {deterministic[0]}=true."
