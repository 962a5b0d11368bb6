#!/usr/bin/env python3
"""Attention kernels against the alternatives: on the device at hand, or by libtpu's static estimate without any.

    python tools/bench_attention.py --static --chips v5e --head-dims 128     ours against splash, no TPU (extra `tpu`)
    python tools/bench_attention.py --memory                                 vector memory on TPUs, no TPU (extra `tpu`)
    python tools/bench_attention.py --lengths 2048 8192 --head-dims 128      on the GPU, TPU or CPU that JAX sees
    python tools/bench_attention.py --check --lengths 1024                   equality there, instead of times

One JSON line per case. Useful FLOPs count allowed pairs of query and key only: 4 D each forward, 10 D backward (two
and five products). Kinds of rows: full, causal, packed documents (causal, mean length T / 8), prefix-LM (one prefix
per row, uniform over its length) and, on the device, window (causal, the last 1024 keys, of short rows a quarter).

`--static` is for two heads of 4096 tokens in bfloat16. Splash gets the best of several block sizes; for packed rows
segment ids, for prefix-LM a mask as an array, of which it visits the blocks up to the diagonal, and its time is scaled
to the number of those that a prefix makes it visit. Ours is the sum, over the blocks that the spans visit, of what
each costs by the estimate. Splash's backward kernel leaves a partial gradient of q per block of keys, and their sum is
not counted.

On the device, implementations are our backends and those of `attention_peers`; one that refuses says why. The programs
of a length and head dim are compiled side by side, then timed one after another. A time is that of one call in a batch
of calls that take `BATCH_SECONDS`, so that the time between calls does not count where it hides behind the device's
work: the median and the quartiles of `--repeats` batches. The share of peak is of the data sheet's bfloat16 rate.

`--check` compares the output and the gradients of random arrays with the definition in float32. An error is the largest
difference over the largest value, and `allowed` what rounding explains (`ALLOWED`). `same_bits`: two calls agree.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import attention_peers
from attention_static import estimate
from pathways_kernels.attention import Spans, attention
from pathways_kernels.attention.api import BACKENDS
from pathways_kernels.attention.block_sizes import limits
from pathways_kernels.attention.spans import causal, dense_mask, window
from pathways_lite.chips import TPUS, published_peak
from pathways_lite.planner.kernel_estimates import costs
from tune_attention import cycles_per_head, kinds_of_spans

SPLASH_BLOCKS = {
    "splash_forward": [(1024, 2048, 512), (1024, 1024, 512), (512, 1024, 512)],
    "splash_backward": [(1024, 1024, 512), (512, 1024, 512), (1024, 512, 512)],
}
PASSES = {"forward": 4, "backward": 10}  # FLOPs per allowed pair and D
Program = Future[Callable[..., Any]]  # a compiled one, or why there is none
DEFINITION = "definition"  # the implementation that others are compared with
BATCH_SECONDS = 0.02  # that a batch of timed calls takes at least
ALLOWED = {"float32": 2**-7, "bfloat16": 2**-6}  # products of float32 are TF32 on GPUs, of 11 bits
DATA_DEPENDENT = ("packed", "prefix")  # whose spans are not known while a model is traced
SPLASH_MASKS = {"full": "full", "causal": "causal", "packed": "segments", "prefix": "dense"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", action="store_true", help="estimate for TPUs that are not here")
    parser.add_argument("--memory", action="store_true", help="bytes of vector memory the kernels take on each chip")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v5p", "v6e"], choices=list(TPUS), help="for these two")
    parser.add_argument("--head-dims", nargs="+", type=int, default=[128, 256])
    parser.add_argument("--kinds", nargs="+", help="of rows, on the device; default: all")
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=PASSES, help="for --static")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 8192, 32768], help="for all but --static")
    parser.add_argument("--heads", type=int, default=16, help="query heads, on the device")
    parser.add_argument("--key-heads", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32768, help="rows × length, on the device")
    parser.add_argument("--implementations", nargs="+", default=list(BACKENDS), help="on the device")
    parser.add_argument("--repeats", type=int, default=20, help="batches of calls that are timed")
    parser.add_argument("--check", action="store_true", help="compare results with the definition, on the device")
    parser.add_argument("--dtypes", nargs="+", default=list(ALLOWED), choices=ALLOWED, help="for --check")
    parser.add_argument("--interpret", action="store_true", help="run pallas_gpu in Pallas's interpreter")
    arguments = parser.parse_args()
    if arguments.static or arguments.memory:
        jax.config.update("jax_platforms", "cpu")
    attention_peers.register()
    if arguments.interpret:
        attention_peers.interpret_ours()
    on_device = equality_cases if arguments.check else device_cases
    cases = static_cases if arguments.static else memory_cases if arguments.memory else on_device
    for line in cases(arguments):
        print(json.dumps(line), flush=True)


def static_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    T = 4096
    kinds = kinds_of_spans(T)
    for chip in arguments.chips:
        per_cycle = TPUS[chip].bf16_flops / TPUS[chip].clock_hz
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


# ---- on the device ----


class Case(NamedTuple):
    """A call of one implementation."""

    labels: dict[str, Any]
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    flops: float = 0


def device_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    peak = published_peak(jax.devices()[0].device_kind)
    for T in arguments.lengths:
        for D in arguments.head_dims:
            for case, program in compiled(timed_cases(arguments, T, D)):
                yield case.labels | timed(program, case.arguments, case.flops, peak, arguments.repeats)


def timed_cases(arguments: argparse.Namespace, T: int, D: int) -> list[Case]:
    """Return the cases of a length and head dim: every kind of rows, implementation and pass."""
    B, cases = max(1, arguments.tokens // T), []
    q, k, v, _ = random_arrays(arguments, B, T, D, "bfloat16")
    for kind, spans in device_kinds(arguments, T, B).items():
        flops = B * arguments.heads * allowed_pairs(spans) * D
        for name in arguments.implementations:
            run = called_with_spans(kind, spans, name, D)
            for which, call, per_pair in (("forward", run, 4), ("forward+backward", gradients(run), 14)):
                labels = {"device": jax.devices()[0].device_kind, "T": T, "B": B, "heads": arguments.heads}
                labels |= {"key_heads": arguments.key_heads, "head_dim": D, "kind": kind, "pass": which}
                cases.append(Case(labels | {"implementation": name}, call, (q, k, v, *spans), flops * per_pair))
    return cases


def random_arrays(arguments: argparse.Namespace, B: int, T: int, D: int, dtype: str) -> tuple[jax.Array, ...]:
    """Return q, k, v and a cotangent of the output."""
    rng = np.random.default_rng(0)
    heads = (arguments.heads, arguments.key_heads, arguments.key_heads, arguments.heads)
    return tuple(jnp.asarray(rng.standard_normal((B, T, n, D), np.float32), dtype) for n in heads)


def device_kinds(arguments: argparse.Namespace, T: int, B: int) -> dict[str, Spans]:
    """Return the spans `[B, T]` of the chosen kinds of rows."""
    kinds = kinds_of_spans(T, B) | {"window": window(1, T, min(1024, max(1, T // 4)))}
    return {kind: Spans(*(np.broadcast_to(x, (B, T)) for x in kinds[kind])) for kind in arguments.kinds or kinds}


def called_with_spans(kind: str, spans: Spans, implementation: str, D: int) -> Callable[..., jax.Array]:
    """Return attention as a function of q, k, v, start and stop; fixed kinds of spans are known while it is traced."""

    def run(q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array, stop: jax.Array) -> jax.Array:
        given = Spans(start, stop) if kind in DATA_DEPENDENT else spans
        return attention(q, k, v, given, scale=D**-0.5, implementation=implementation)

    return run


def gradients(run: Callable[..., jax.Array]) -> Callable[..., Any]:
    return lambda *args: jax.grad(lambda *args: run(*args).astype(jnp.float32).sum(), (0, 1, 2))(*args)


def compiled(cases: Sequence[Case]) -> list[tuple[Case, Program]]:
    """Compile the cases side by side; all of them before the first is returned, as compilers measure on the device."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = [compile_in(pool, case) for case in cases]
    return list(zip(cases, programs, strict=True))


def compile_in(pool: ThreadPoolExecutor, case: Case) -> Program:
    """Trace the case and start compiling it in the pool; an error of either is the future's."""
    try:
        lowered = jax.jit(case.run).lower(*case.arguments)
    except Exception as error:  # a backend that refuses, or a package of others: the table says which
        failed: Program = Future()
        failed.set_exception(error)
        return failed
    return pool.submit(lowered.compile)


def timed(program: Program, args: Any, flops: float, peak: float | None, repeats: int) -> dict[str, Any]:
    """Seconds per call, TFLOP/s and share of peak; or why it could not run."""
    try:
        call = program.result()
        jax.block_until_ready(call(*args))  # not timed: loads the program
        calls = min(100, math.ceil(BATCH_SECONDS / seconds_per_call(call, args, 1)))
        seconds = [seconds_per_call(call, args, calls) for _ in range(repeats)]
    except Exception as error:  # out of memory too
        return {"error": first_line(error)}
    low, middle, high = np.percentile(seconds, (25, 50, 75))
    line = {"seconds": middle, "tflops_per_s": flops / middle / 1e12}
    line |= {} if peak is None else {"share_of_peak": flops / middle / peak}
    return line | {"seconds_p25": low, "seconds_p75": high, "repeats": repeats, "calls": calls}


def seconds_per_call(call: Callable[..., Any], args: Any, calls: int) -> float:
    """Run a batch of calls, of which each is queued while an earlier one runs."""
    start = time.perf_counter()
    for _ in range(calls):
        result = call(*args)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


# ---- equality ----


def equality_cases(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare each implementation with `reference` in float32 on every kind of rows."""
    for T in arguments.lengths:
        for D in arguments.head_dims:
            for dtype in arguments.dtypes:
                expected: Sequence[Any] = ()
                for case, program in compiled(checked_cases(arguments, T, D, dtype)):
                    if case.labels["implementation"] == DEFINITION:  # the first of a kind
                        expected = jax.device_get(program.result()(*case.arguments))
                    else:
                        yield case.labels | compared(program, case.arguments, expected, ALLOWED[dtype])


def checked_cases(arguments: argparse.Namespace, T: int, D: int, dtype: str) -> list[Case]:
    """Return the cases of a length, head dim and type: for every kind of rows the definition, then the others."""
    B, cases = max(1, arguments.tokens // T), []
    arrays = random_arrays(arguments, B, T, D, dtype)
    for kind, spans in device_kinds(arguments, T, B).items():
        for name in (DEFINITION, *arguments.implementations):
            run = called_with_spans(kind, spans, "reference" if name == DEFINITION else name, D)
            call = partial(in_float32 if name == DEFINITION else output_and_gradients, run)
            labels = {"check": "equality", "T": T, "B": B, "heads": arguments.heads, "key_heads": arguments.key_heads}
            labels |= {"head_dim": D, "dtype": dtype, "kind": kind, "implementation": name}
            cases.append(Case(labels, call, (*arrays, *spans)))
    return cases


def output_and_gradients(run: Callable[..., jax.Array], q: Any, k: Any, v: Any, d_out: Any, *spans: Any) -> Any:
    """Return the output and the gradients of q, k and v for one cotangent."""
    out, pullback = jax.vjp(lambda q, k, v: run(q, k, v, *spans), q, k, v)
    return out, *pullback(d_out)


def in_float32(run: Callable[..., jax.Array], *args: Any) -> Any:
    arrays = (x.astype(jnp.float32) for x in args[:4])
    with jax.default_matmul_precision("highest"):
        return output_and_gradients(run, *arrays, *args[4:])


def compared(program: Program, args: Any, expected: Sequence[Any], allowed: float) -> dict[str, Any]:
    """Return the errors of the output and the gradients, and whether two calls agree; or why it could not run."""
    try:
        actual, again = (jax.device_get(program.result()(*args)) for _ in range(2))
    except Exception as error:  # as in `compile_in`
        return {"error": first_line(error)}
    errors = {
        name: relative_error(np.asarray(x, np.float32), y)
        for name, x, y in zip(("output", "d_q", "d_k", "d_v"), actual, expected, strict=True)
    }
    same = all(x.tobytes() == y.tobytes() for x, y in zip(actual, again, strict=True))
    equal = all(error is not None and error <= allowed for error in errors.values())
    return {"equal": equal, "allowed": allowed, "errors": errors, "same_bits": same}


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float | None:
    """Return the largest difference over the largest value; None where that is no finite number."""
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    return error if math.isfinite(error) else None


if __name__ == "__main__":
    main()
