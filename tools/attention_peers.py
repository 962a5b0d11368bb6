#!/usr/bin/env python3
"""Attention of other packages behind our arguments, to test and time ours against: `register` makes them backends.

    python tools/attention_peers.py     one JSON line: why tokamax cannot be used here, null if it can

The backends, for `bench_attention.py --implementations`:

    jax_cudnn       `jax.nn.dot_product_attention` by cuDNN, without our restriction to deterministic programs; spans
                    that are neither full, causal nor a window are a dense mask, made in the call: quadratic in memory
    tokamax_triton  tokamax's kernels in Pallas (Triton)
    tokamax_mosaic  tokamax's kernels in Pallas (Mosaic GPU), of compute capability 9.0 and newer

tokamax (openxla/tokamax) takes a start and an end per query, as we do, through a class that its public function hides.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from pathways_kernels.attention import Spans, api
from pathways_kernels.attention.cudnn import cudnn
from pathways_kernels.attention.pallas_gpu import Tile, Tiles, pallas_gpu
from pathways_kernels.attention.spans import dense_mask
from pathways_kernels.attention.static_kinds import Causal, Full, Window, static_kind
from pathways_kernels.attention.support import Request

TOKAMAX = "tokamax._src.ops.attention"
_INTERPRETED_TILES = Tiles(*(Tile(32, 32),) * 3)


def register() -> None:
    """Add the peers to the backends of `attention`; one whose package is missing refuses every call with the reason."""
    api.BACKENDS["jax_cudnn"] = api.Backend(jax_cudnn, ("cuda",))
    for name in ("triton", "mosaic"):
        api.BACKENDS[f"tokamax_{name}"] = api.Backend(partial(tokamax, name), ("cuda",), _tokamax_unsupported_reason)


def interpret_ours() -> None:
    """Let the backend `pallas_gpu` run in Pallas's interpreter, on any platform."""
    api.BACKENDS["pallas_gpu"] = api.Backend(partial(pallas_gpu, interpret=True, tiles=_INTERPRETED_TILES))


def jax_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, spans: Spans, *, scale: float, logits_soft_cap: float | None = None
) -> jax.Array:
    """See `attention`. Raises what jax raises where cuDNN does not support the call."""
    S = k.shape[1]
    if isinstance(static_kind(spans, S), Full | Causal | Window) or logits_soft_cap is not None:
        return cudnn(q, k, v, spans, scale=scale, logits_soft_cap=logits_soft_cap)
    # XLA would compute the mask of known spans while it compiles, and keep it in the program.
    start, stop = lax.optimization_barrier((jnp.asarray(spans.start), jnp.asarray(spans.stop)))
    mask = dense_mask(Spans(start, stop), S)[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation="cudnn")


def tokamax(
    name: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    spans: Spans,
    *,
    scale: float,
    logits_soft_cap: float | None = None,
) -> jax.Array:
    """See `attention`. `name`: "triton" or "mosaic". Raises what tokamax raises for what it does not support."""
    implementations = importlib.import_module(f"{TOKAMAX}.api").IMPLEMENTATIONS
    key = {"triton": "triton", "mosaic": "mosaic_gpu"}[name]
    if key not in implementations:
        raise NotImplementedError(f"this tokamax has no attention by {key}; it has {', '.join(implementations)}.")
    mask = _tokamax_mask(spans, k.shape[1])
    out: jax.Array = implementations[key](q, k, v, mask=mask, logits_scale=scale, logits_soft_cap=logits_soft_cap)
    return out


def _tokamax_mask(spans: Spans, n_keys: int) -> Any:
    """Return tokamax's mask, with its special case for causal spans where they are known to be causal."""
    mask = importlib.import_module(f"{TOKAMAX}.base").Mask
    start, stop = (jnp.asarray(x, jnp.int32)[:, None] for x in spans)
    match static_kind(spans, n_keys):
        case Full():
            return mask()
        case Causal(0):
            return mask(is_causal=True)
        case Window(_, 0):
            return mask(k_start=start, is_causal=True)
    return mask(k_start=start, k_end=stop)


def _do_without_profiler() -> None:
    """Put an empty module where tokamax imports a profiler of 32 MB, which only its own benchmarks use."""
    if importlib.util.find_spec("xprof") is None:
        tools: Any = ModuleType("xprof.cli.tools")
        tools.get_kernel_stats_tool = None
        sys.modules |= {"xprof": ModuleType("xprof"), "xprof.cli": ModuleType("xprof.cli"), "xprof.cli.tools": tools}


def _tokamax_unsupported_reason(request: Request) -> str | None:
    del request
    return tokamax_is_missing()


def tokamax_is_missing() -> str | None:
    """Return why tokamax cannot be used; None if it can."""
    if "xprof" not in sys.modules:
        _do_without_profiler()
    try:
        importlib.import_module(f"{TOKAMAX}.api")
    except ImportError as error:
        return f"tokamax cannot be imported: {error}."
    return None


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(json.dumps({"tokamax": tokamax_is_missing()}))


if __name__ == "__main__":
    main()
