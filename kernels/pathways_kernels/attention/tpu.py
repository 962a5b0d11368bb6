"""Whether the TPU backend may be chosen. Light: imports no kernel, since every trace on every machine asks.

As for GPUs (see `nvidia`), it is offered while tracing only if a TPU is in sight: the process has one, or the mesh in
context names one (`jax.sharding.AbstractDevice`, to compile for a TPU that is elsewhere).
"""

from __future__ import annotations

from pathways_kernels.attention.request import Request, platform_in_sight


def pallas_tpu_refuses(request: Request) -> str | None:
    """Why `pallas_tpu` cannot serve a request, or None."""
    D, dtype = request.q.shape[3], request.q.dtype.name
    if D > 256:
        return f"the head dim is {D}; it serves up to 256."
    if dtype not in ("bfloat16", "float32"):
        return f"the arrays are {dtype}; it serves bfloat16 and float32."
    if platform_in_sight() != "tpu":
        return "no TPU is in sight (jax.devices(), or an abstract device of the mesh in context)."
    return None
