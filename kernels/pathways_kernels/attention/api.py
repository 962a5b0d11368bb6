"""The entry point of attention: check the arguments, choose a backend, call it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention.chunked import chunked
from pathways_kernels.attention.reference import reference
from pathways_kernels.attention.spans import Spans, check_spans
from pathways_kernels.attention.static_kinds import static_kind
from pathways_kernels.attention.support import (
    Request,
    cpu_unsupported_reason,
    cudnn_unsupported_reason,
    pallas_gpu_unsupported_reason,
    pallas_tpu_unsupported_reason,
    platform_of_mesh,
)


class AttentionFn(Protocol):
    """The signature of a backend's function. It may assume that `attention` has checked the arguments."""

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        spans: Spans,
        *,
        scale: float,
        logits_soft_cap: float | None = None,
    ) -> jax.Array: ...


def _supports_all(request: Request) -> str | None:
    del request
    return None


class Backend(NamedTuple):
    """A way to compute attention. It keeps the whole contract or says why it does not support a request."""

    run: AttentionFn
    platforms: tuple[str, ...] = ()  # those it is made for ("tpu", "cuda", "rocm", "cpu"); () for all
    unsupported_reason: Callable[[Request], str | None] = _supports_all  # why it cannot compute a request, or None
    runs_elsewhere: bool = False  # a program that was traced with it may be lowered for any platform


def _import_lazily(name: str) -> AttentionFn:
    """Return the function `name` of the module `name`, imported when it is called: other platforms do not wait."""

    def run(
        q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None
    ) -> jax.Array:
        function: AttentionFn = getattr(importlib.import_module(f"pathways_kernels.attention.{name}"), name)
        return function(q, k, v, spans, scale=scale, logits_soft_cap=logits_soft_cap)

    return run


# In order of preference. A new backend is one file, and one line here.
# On NVIDIA GPUs the order is not measured: NVIDIA's own kernel is first, where it is exact.
BACKENDS: dict[str, Backend] = {
    "pallas_tpu": Backend(_import_lazily("pallas_tpu"), ("tpu",), pallas_tpu_unsupported_reason),
    "cudnn": Backend(_import_lazily("cudnn"), ("cuda",), cudnn_unsupported_reason),
    "pallas_gpu": Backend(_import_lazily("pallas_gpu"), ("cuda",), pallas_gpu_unsupported_reason),
    "cpu": Backend(_import_lazily("cpu"), ("cpu",), cpu_unsupported_reason, runs_elsewhere=True),
    "chunked": Backend(chunked),
    "reference": Backend(reference),
}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spans: Spans,
    *,
    scale: float,
    logits_soft_cap: float | None = None,
    implementation: str | None = None,
) -> jax.Array:
    """Compute softmax attention (Vaswani et al. 2017, arXiv:1706.03762, equation 1) over an interval of keys per query.

    `out[b, t, h] = Σ_s softmax_s(cap(scale · q[b, t, h] · k[b, s, h // (H/K)])) · v[b, s, h // (H/K)]`, s over the keys
    with `start[b, t] <= s < stop[b, t]`, and `cap(x) = c · tanh(x / c)` with a soft cap c (Gemma 2, arXiv:2408.00118).
    A query that sees no key gives zeros, and zero gradients.

    Args:
        q: queries `[B, T, H, D]`.
        k: keys `[B, S, K, D]`; H is a multiple of K (grouped-query attention; K = 1: multi-query). S may differ from T.
        v: values `[B, S, K, D]`.
        spans: which keys each query sees, two integer arrays `[B, T]`.
        scale: the factor of the dot products, usually `D ** -0.5`. A number, not an array.
        logits_soft_cap: c above; None: no cap.
        implementation: the name of a backend. None: on each platform the first of `BACKENDS` that is made for that
            platform and supports the request, else the first that is made for all platforms. TPU and GPU kernels are
            offered only if such a chip is in sight (see `support`); otherwise, and for what they do not support, it is
            `chunked`.

    Returns:
        `[B, T, H, D]` in q's type. Products are accumulated, and the softmax computed, in float32.

    Raises:
        ValueError: arguments do not fit together, or the implementation is unknown or does not support the request.
    """
    q, k, v = jnp.asarray(q), jnp.asarray(k), jnp.asarray(v)
    _check_arrays(q, k, v)
    check_spans(spans, *q.shape[:2])
    _check_numbers(scale, logits_soft_cap)
    span_kind = static_kind(spans, k.shape[1])
    request = Request(jax.typeof(q), jax.typeof(k), jax.typeof(v), logits_soft_cap, span_kind)

    def bind(backend: Backend) -> Callable[..., jax.Array]:
        def run(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:  # spans are no argument: they stay NumPy
            return backend.run(q, k, v, spans, scale=scale, logits_soft_cap=logits_soft_cap)

        return run

    if implementation is not None:
        return bind(_get_backend(implementation, request))(q, k, v)
    default, by_platform = _select_backends(request)
    # Where it can be avoided, no branch per platform: each branch would leave residuals for the backward pass.
    platform = platform_of_mesh()
    if not by_platform or platform in ("cpu", "tpu"):  # "gpu" would not say whose
        return bind(by_platform.get(platform or "", default))(q, k, v)
    if all(backend.runs_elsewhere for backend in by_platform.values()):
        return bind(next(iter(by_platform.values())))(q, k, v)
    branches = {platform: bind(backend) for platform, backend in by_platform.items()}
    return lax.platform_dependent(q, k, v, default=bind(default), **branches)


def _get_backend(name: str, request: Request) -> Backend:
    """Return the backend of that name. Raises ValueError, with alternatives, if it does not support the request."""
    if name not in BACKENDS:
        raise ValueError(f"there is no attention implementation {name!r}; there are: {', '.join(BACKENDS)}.")
    reason = BACKENDS[name].unsupported_reason(request)
    if reason is not None:
        others = [other for other, backend in BACKENDS.items() if backend.unsupported_reason(request) is None]
        raise ValueError(
            f"attention implementation {name!r} does not support this call: {reason} These do: {', '.join(others)}."
        )
    return BACKENDS[name]


def _select_backends(request: Request) -> tuple[Backend, dict[str, Backend]]:
    """Return the backend for any platform, and by platform those that are preferred to it."""
    by_platform: dict[str, Backend] = {}
    for backend in BACKENDS.values():
        if backend.unsupported_reason(request) is not None:
            continue
        if not backend.platforms:
            return backend, by_platform
        for platform in backend.platforms:
            by_platform.setdefault(platform, backend)
    raise ValueError(f"no attention implementation of {', '.join(BACKENDS)} supports {request}.")


def _check_arrays(q: jax.Array, k: jax.Array, v: jax.Array) -> None:
    shapes = ", ".join(f"{name} {x.dtype}{list(x.shape)}" for name, x in (("q", q), ("k", k), ("v", v)))
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape:
        raise ValueError(f"found {shapes}; expected q [B, T, H, D], k and v both [B, S, K, D].")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"found {shapes}; expected the same batch (axis 0) and head dim (axis 3) in all three.")
    if 0 in q.shape or 0 in k.shape:
        raise ValueError(f"found {shapes}; expected every axis to have at least one entry.")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"found {shapes}; expected the {q.shape[2]} query heads to be a multiple of the key heads.")
    if not (q.dtype == k.dtype == v.dtype and jnp.issubdtype(q.dtype, jnp.floating)):
        raise ValueError(f"found {shapes}; expected one floating type for all three.")


def _check_numbers(scale: float, logits_soft_cap: float | None) -> None:
    for name, number in (("scale", scale), ("logits_soft_cap", logits_soft_cap)):
        if name == "logits_soft_cap" and number is None:
            continue
        if isinstance(number, jax.Array) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name} is {number!r}; expected a finite Python number, not an array.")
    if logits_soft_cap is not None and logits_soft_cap <= 0:
        raise ValueError(f"logits_soft_cap is {logits_soft_cap}; expected a positive number, or None for no cap.")
