#!/usr/bin/env python3
"""Measure the speed of a whole train step. Prints one JSON line.

    python tools/bench_train.py --shape S --dtype float32
    python tools/bench_train.py --shape M --dtype bfloat16 --steps 3

The step is the one `pathways-lite train` runs: forward, backward, clipping, AdamW on float32 parameters, with its
state donated. Tokens are random, as text would take the same time. The shapes are GPT-2-like decoders of serial blocks,
multi-head attention and tied embeddings, causal attention over the whole sequence:

    shape  layers  d_model  heads  sequence  batch  vocabulary
    S          8      256       8       256     16        8192
    M         12      768      12       512      4       32768
    1.3B      24     2048      16      2048      8       50304   (GPT-3 XL, for an accelerator of 80 GB or more)
    tiny       2       64       4        64      2         256   (to try the script)

SwiGLU has three matrices where GPT-2's MLP has two, so d_ff = 8/3 d_model (to the nearest multiple of 16) gives the
12 d_model^2 parameters per layer of the original.

Fields of the line:

    tokens_per_s         of the median step, without compilation and the first step
    best_tokens_per_s    of the fastest step: the better number to compare on a shared machine
    first_step_s         from tracing to the end of the first step
    peak_rss_mb          peak of the process, compiler included
    model_flops_per_s    tokens_per_s * (6 N + 12 L H Q T): PaLM appendix B, N with embeddings
    share_of_peak        model_flops_per_s / peak_flops_per_s, and best_share_of_peak of the fastest step
    mfu                  model_flops_per_s / the data sheet's bfloat16 rate, where `pathways_lite.chips` has the device
    peak_flops_per_s     the fastest matmul in this process right before and right after the steps, over the layouts
                         a @ b, a @ b.T, a.T @ b, in float32 or in the step's dtype, whichever is faster: 2048^3 on
                         CPUs, 8192^3 on accelerators, where the time of starting a smaller one would count
    device_peak_mb       the most device memory in use at a time, where the device tells
    cpu_s_per_step       CPU seconds of all threads, the least of all steps: cores * seconds where every core is busy
    share_of_peak_by_cpu_time
                         the same share in model FLOPs per CPU second of step and matmul: much steadier where
                         other processes take turns on the cores, but blind to a core left idle
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pathways_lite.chips import published_peak
from pathways_lite.host_memory import keep_freed_memory, runs_on_cpu_only

SHAPES = {
    # layers, d_model, heads, sequence, batch, vocabulary
    "S": (8, 256, 8, 256, 16, 8192),
    "M": (12, 768, 12, 512, 4, 32768),
    "1.3B": (24, 2048, 16, 2048, 8, 50304),
    "tiny": (2, 64, 4, 64, 2, 256),
}


class Timing(NamedTuple):
    """Wall-clock seconds, and CPU seconds of all threads together, of several runs."""

    seconds: list[float]
    cpu_seconds: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--steps", type=int, default=5, help="to time, after the first")
    parser.add_argument("--remat", choices=("none", "full", "attention", "up", "dots", "offload"), default="none")
    parser.add_argument("--batch", type=int, help="sequences per step; default: the shape's")
    parser.add_argument("--unroll", action="store_true", help="unroll the layers instead of scanning them")
    parser.add_argument("--attention", help="implementation; default: the platform's own choice")
    parser.add_argument("--plain-malloc", action="store_true", help="return freed memory to the kernel at each step")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: at least 1 is needed")
    if arguments.batch is not None and arguments.batch < 1:
        parser.error(f"--batch {arguments.batch}: at least 1 is needed")
    if not arguments.plain_malloc and runs_on_cpu_only():
        keep_freed_memory()
    print(json.dumps(measure(arguments)))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the contents of the JSON line."""
    import jax

    from pathways_lite.models.accounting import flops_per_token, parameter_count

    model, (_, _, _, seq_len, batch_size, _) = model_of(arguments), SHAPES[arguments.shape]
    batch_size = arguments.batch or batch_size
    run, first_step = prepare(model, seq_len, batch_size)
    size = 256 if arguments.shape == "tiny" else None
    before = matmul_rates(arguments.dtype, size)
    timing = timed(run, arguments.steps)
    peak, peak_by_cpu_time = map(max, before, matmul_rates(arguments.dtype, size))

    device = jax.devices()[0]
    published = published_peak(device.device_kind)
    memory = device.memory_stats() or {}
    tokens, flops = batch_size * seq_len, flops_per_token(model, seq_len)
    median, best = (tokens / f(timing.seconds) for f in (statistics.median, min))
    return {
        "shape": arguments.shape,
        "dtype": arguments.dtype,
        "attention": arguments.attention,
        "tokens_per_s": round(median, 1),
        "best_tokens_per_s": round(best, 1),
        "first_step_s": round(first_step, 2),
        "batch": batch_size,
        "seq_len": seq_len,
        "step_s": round(statistics.median(timing.seconds), 4),
        "device_peak_mb": memory["peak_bytes_in_use"] // 2**20 if "peak_bytes_in_use" in memory else None,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "model_flops_per_s": round(median * flops),
        "share_of_peak": round(median * flops / peak, 3),
        "best_share_of_peak": round(best * flops / peak, 3),
        "mfu": None if published is None else round(median * flops / published, 3),
        "peak_flops_per_s": round(peak),
        "cpu_s_per_step": round(min(timing.cpu_seconds), 3),
        "share_of_peak_by_cpu_time": round(tokens * flops / min(timing.cpu_seconds) / peak_by_cpu_time, 3),
        "parameters": parameter_count(model),
        "flops_per_token": flops,
        "formula": "6 N + 12 L H Q T per token, N with embeddings (PaLM appendix B)",
        "d_ff": model.d_ff,
        "remat": arguments.remat,
        "steps": arguments.steps,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "device": f"{device.device_kind}, {os.cpu_count()} CPU cores, {platform.machine()}",
        "jax": jax.__version__,
        "command": shlex.join(["python", *sys.argv]),
    }


def mlp_width(d_model: int) -> int:
    return round(8 * d_model / 3 / 16) * 16


def model_of(arguments: argparse.Namespace) -> Any:
    from pathways_lite.recipe import Model

    n_layers, d_model, n_heads, _, _, vocab_size = SHAPES[arguments.shape]
    return Model(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=d_model // n_heads,
        d_ff=mlp_width(d_model),
        vocab_size=vocab_size,
        block="serial",
        dtype=arguments.dtype,
        scan_layers=not arguments.unroll,
        remat=arguments.remat,
        attention=arguments.attention,
    )


def prepare(model: Any, seq_len: int, batch_size: int) -> tuple[Callable[[], None], float]:
    """Return a function that takes one step and waits for it, and the seconds of compiling and the first step."""
    run, compiling = compile_step(model, seq_len, batch_size)
    return run, compiling + timed(run, 1).seconds[0]


def compile_step(model: Any, seq_len: int, batch_size: int) -> tuple[Callable[[], None], float]:
    """Return a function that takes one step and waits for it, and the seconds of compiling it."""
    import jax

    from pathways_lite import models
    from pathways_lite.ledger import Timeline
    from pathways_lite.models.accounting import flops_per_token, parameter_count
    from pathways_lite.recipe import AdamW, Ramp, Steps
    from pathways_lite.training import optimizers
    from pathways_lite.training.step import init_state, make_train_step

    ramp, flops = Ramp(steps=((0, batch_size),)), flops_per_token(model, seq_len)
    timeline = Timeline(ramp, seq_len, flops, parameter_count(model), Steps(n=1000))
    optimizer = optimizers.build_optimizer(AdamW(), timeline, models.logical_axes(model))
    step = make_train_step(
        functools.partial(token_losses, model),
        optimizer,
        learning_rate=optimizers.learning_rate_fn(AdamW(), timeline),
        z_loss=1e-4,
    )
    batch = jax.device_put(random_batch(batch_size, seq_len, model.vocab_size))
    state = init_state(models.init(model, jax.random.key(0)), optimizer, jax.random.key(1))
    clock = jax.device_put(timeline.clock(0))
    jax.block_until_ready((state, batch, clock))

    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch, clock)
    compiled = lowered.compile()
    compiling = time.perf_counter() - start

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, batch, clock)
        jax.block_until_ready((state, metrics))

    return run, compiling


def token_losses(model: Any, params: Any, batch: Any, key: Any) -> Any:
    from pathways_lite import models

    return models.token_losses(model, params, batch, dropout_key=key)


def random_batch(batch_size: int, seq_len: int, vocab_size: int) -> Any:
    """Make a causal batch of random tokens with one document per row."""
    import numpy as np

    from pathways_kernels.attention import Spans
    from pathways_lite.batch import Batch

    tokens = np.random.default_rng(0).integers(0, vocab_size, (batch_size, seq_len + 1), dtype=np.int32)
    positions = np.tile(np.arange(seq_len, dtype=np.int32), (batch_size, 1))
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        loss_weights=np.ones((batch_size, seq_len), np.float32),
        positions=positions,
        spans=Spans(np.zeros_like(positions), positions + 1),
        domain=np.zeros(batch_size, np.int32),
        sample_id=np.zeros((batch_size, 2), np.uint32),
    )


def timed(run: Callable[[], None], steps: int) -> Timing:
    seconds, cpu_seconds = [], []
    for _ in range(steps):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return Timing(seconds, cpu_seconds)


def matmul_rates(dtype: str, size: int | None = None, runs: int = 5) -> tuple[float, float]:
    """Measure FLOPs per second, and per CPU second, of the fastest of three layouts in float32 or `dtype`.

    `size`: of the square arrays; None: 2048 on CPUs, 8192 on accelerators.
    """
    import jax

    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    timings = []
    for layout in (lambda a, b: a @ b, lambda a, b: a @ b.T, lambda a, b: a.T @ b):
        for kind in {"float32", dtype}:
            x = jax.random.normal(jax.random.key(0), (size, size), kind)  # GPUs are faster on constant arrays
            product = jax.jit(layout).lower(x, x).compile()
            timings.append(timed(functools.partial(_wait, product, x), runs + 1))
    seconds, cpu_seconds = (min(map(min, column)) for column in zip(*timings, strict=True))
    return 2 * size**3 / seconds, 2 * size**3 / cpu_seconds


def _wait(product: Any, x: Any) -> Any:
    return product(x, x).block_until_ready()


if __name__ == "__main__":
    main()
