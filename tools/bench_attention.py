#!/usr/bin/env python3
"""Attention kernels against the alternatives: on the device at hand, or by libtpu's static estimate without any.

    python tools/bench_attention.py --static --chips v5e --head-dims 128     ours against splash, no TPU (extra `tpu`)
    python tools/bench_attention.py --memory                                 vector memory on TPUs, no TPU (extra `tpu`)
    python tools/bench_attention.py --lengths 2048 8192 --head-dims 128      on the GPU, TPU or CPU that JAX sees

One JSON line per case. Useful FLOPs count allowed pairs of query and key only: 4 D each forward, 10 D backward (two
and five products). Kinds of rows: full, causal, packed documents (causal, mean length T / 8), prefix-LM (one prefix
per row, uniform over its length).

`--static` is for two heads of 4096 tokens in bfloat16. Splash gets the best of several block sizes; for packed rows
segment ids, for prefix-LM a mask as an array, of which it visits the blocks up to the diagonal, and its time is scaled
to the number of those that a prefix makes it visit. Ours is the sum, over the blocks that the spans visit, of what
each costs by the estimate. Splash's backward kernel leaves a partial gradient of q per block of keys, and their sum is
not counted. On the device: the median and the quartiles of `--repeats` calls.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attention_static import estimate
from pathways_kernels.attention import Spans, attention
from pathways_kernels.attention.api import BACKENDS
from pathways_kernels.attention.block_sizes import limits
from pathways_kernels.attention.spans import causal, dense_mask
from pathways_lite.planner.chips import CHIPS
from pathways_lite.planner.kernel_estimates import costs
from tune_attention import cycles_per_head, kinds_of_spans

SPLASH_BLOCKS = {
    "splash_forward": [(1024, 2048, 512), (1024, 1024, 512), (512, 1024, 512)],
    "splash_backward": [(1024, 1024, 512), (512, 1024, 512), (1024, 512, 512)],
}
PASSES = {"forward": 4, "backward": 10}  # FLOPs per allowed pair and D
SPLASH_MASKS = {"full": "full", "causal": "causal", "packed": "segments", "prefix": "dense"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", action="store_true", help="estimate for TPUs that are not here")
    parser.add_argument("--memory", action="store_true", help="bytes of vector memory the kernels take on each chip")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v5p", "v6e"], choices=list(CHIPS), help="for these two")
    parser.add_argument("--head-dims", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES, help="for --static")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 8192, 32768], help="for all but --static")
    parser.add_argument("--heads", type=int, default=16, help="query heads, on the device")
    parser.add_argument("--key-heads", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32768, help="rows × length, on the device")
    parser.add_argument("--implementations", nargs="+", default=list(BACKENDS), help="one that refuses says why")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.static or arguments.memory:
        jax.config.update("jax_platforms", "cpu")
    cases = static_cases if arguments.static else memory_cases if arguments.memory else device_cases
    for line in cases(arguments):
        print(json.dumps(line), flush=True)


def static_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    T = 4096
    kinds = kinds_of_spans(T)
    for chip in arguments.chips:
        per_cycle = CHIPS[chip].bf16_flops / CHIPS[chip].clock_hz
        for D in arguments.head_dims:
            for kernel in arguments.passes:
                per_pair, tuned = PASSES[kernel] * D, limits(chip, D)[list(PASSES).index(kernel)]
                found = costs(kernel, chip, D, tuned)
                splash = best_of_splash(f"splash_{kernel}", chip, T, D)
                for kind, spans in kinds.items():
                    useful = 2 * per_pair * allowed_pairs(spans)
                    line: dict[str, Any] = {"chip": chip, "head_dim": D, "pass": kernel, "kind": kind}
                    line |= {"T": T, "heads": 2, "limits": tuned}
                    if found is not None:
                        cycles = 2 * cycles_per_head(found, tuned, spans)
                        line |= {"cycles": round(cycles), "share_of_peak": round(useful / cycles / per_cycle, 3)}
                    if kind in splash:
                        blocks, cycles_splash = splash[kind]
                        if kind == "prefix":
                            cycles_splash = round(cycles_splash * beyond_the_diagonal(spans, *blocks[:2]))
                        share = round(useful / cycles_splash / per_cycle, 3)
                        line |= {"splash_blocks": blocks, "splash_cycles": cycles_splash, "splash_share": share}
                        if found is not None:
                            line |= {"times_splash": round(cycles_splash / cycles, 2)}
                    yield line


def memory_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for chip in arguments.chips:
        for D in arguments.head_dims:
            for T in arguments.lengths:
                line = {"chip": chip, "head_dim": D, "T": T}
                for kernel in ("forward", "backward"):
                    found = estimate(f"{kernel}_memory", chip=chip, T=T, D=D)
                    line[f"{kernel}_mib"] = None if found is None else round(found / 2**20, 1)
                yield line


def best_of_splash(kernel: str, chip: str, T: int, D: int) -> dict[str, tuple[tuple[int, ...], int]]:
    """For each kind the best blocks and their cycles; packed and prefix take the causal one, or the first to fit."""
    best: dict[str, tuple[tuple[int, ...], int]] = {}
    for kind, mask in SPLASH_MASKS.items():
        candidates = SPLASH_BLOCKS[kernel]
        if kind in ("packed", "prefix"):
            candidates = sorted(candidates, key=lambda blocks: blocks != best["causal"][0])
        for blocks in candidates:
            cycles = estimate(kernel, chip=chip, T=T, D=D, blocks=blocks, mask=mask)
            if cycles is not None and (kind not in best or cycles < best[kind][1]):
                best[kind] = (blocks, cycles)
            if cycles is not None and kind in ("packed", "prefix"):
                break
    return best


def beyond_the_diagonal(spans: Spans, queries: int, keys: int) -> float:
    """Blocks that hold an allowed pair, over those up to the diagonal; the mean of the rows."""
    rows, T = spans.start.shape
    held = dense_mask(spans, T).reshape(rows, T // queries, queries, T // keys, keys).any((2, 4))
    lower = dense_mask(causal(1, T), T).reshape(T // queries, queries, T // keys, keys).any((1, 3))
    return float(held.sum((1, 2)).mean() / lower.sum())


def allowed_pairs(spans: Spans) -> float:
    """Per row, the mean."""
    return float(np.maximum(np.asarray(spans.stop) - np.asarray(spans.start), 0).sum(1).mean())


def device_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    device = jax.devices()[0]
    for T in arguments.lengths:
        B = max(1, arguments.tokens // T)
        for D in arguments.head_dims:
            rng = np.random.default_rng(0)
            shapes = (B, T, arguments.heads, D), *[(B, T, arguments.key_heads, D)] * 2
            q, k, v = (jnp.asarray(rng.standard_normal(shape), jnp.bfloat16) for shape in shapes)
            for kind, spans in kinds_of_spans(T, B).items():
                spans = Spans(*(np.broadcast_to(x, (B, T)) for x in spans))
                flops = B * arguments.heads * allowed_pairs(spans) * D
                for name in arguments.implementations:
                    run = partial(attention, spans=spans, scale=D**-0.5, implementation=name)
                    for which, call, pair in (("forward", run, 4), ("forward+backward", gradients(run), 14)):
                        line = {"device": device.device_kind, "T": T, "B": B, "heads": arguments.heads}
                        line |= {"key_heads": arguments.key_heads, "head_dim": D, "kind": kind, "pass": which}
                        yield line | {"implementation": name} | timed(call, (q, k, v), flops * pair, arguments.repeats)


def gradients(run: Callable[..., jax.Array]) -> Callable[..., Any]:
    return lambda *args: jax.grad(lambda *args: run(*args).astype(jnp.float32).sum(), (0, 1, 2))(*args)


def timed(run: Callable[..., Any], args: Any, flops: float, repeats: int) -> dict[str, Any]:
    """Seconds per call and TFLOP/s; or why it could not run."""
    try:
        compiled = jax.jit(run).lower(*args).compile()
        jax.block_until_ready(compiled(*args))
    except Exception as error:  # out of memory, or a backend that refuses: the table says which
        return {"error": str(error).splitlines()[0][:200]}
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*args))
        seconds.append(time.perf_counter() - start)
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    spread = {"seconds_p25": low, "seconds_p75": high, "repeats": repeats}
    return {"seconds": middle, "tflops_per_s": flops / middle / 1e12, **spread}


if __name__ == "__main__":
    main()
