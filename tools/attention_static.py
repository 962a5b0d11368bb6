#!/usr/bin/env python3
"""One static estimate of an attention kernel, ours or splash's: `bench_attention.py` and `tune_attention.py` ask.

    python tools/attention_static.py '{"kernel": "forward", "chip": "v5e", "T": 4096, "S": 4096, "D": 128,
                                       "limits": [512, 512, 4], "runs": 2}'

prints the estimated cycles of one call. A process each, because libtpu estimates once per process.

Ours ("forward", "backward") takes for each block of queries a fixed number of blocks of keys: `runs` of as many whole
ones as `limits` says, `pairs` and `singles` with a mask.
"forward_memory" and "backward_memory", of a chip, T and D, print bytes of vector memory instead. JAX's splash
attention ("splash_forward", "splash_backward") takes `blocks` (queries, keys, keys at once) and a `mask`: "full",
"causal", "segments" (causal, with segment ids) or "dense" (a bool array of which it visits the blocks of the lower
triangle).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from pathways_kernels.attention import pallas_tpu, pallas_tpu_backward, pallas_tpu_forward
from pathways_kernels.attention.block_sizes import Limits
from pathways_kernels.attention.pallas_tpu_parts import run_of_blocks
from pathways_kernels.attention.spans import Spans
from pathways_lite.parallel.static_profile import kernel_cycles, kernel_vector_memory

# Of our kernels, in the compiled program.
NAMES = {"forward": "interval_attention_forward", "backward": "transpose_jvp_interval_attention_backward__"}


@cache
def _run(job: str) -> int | None:
    done = subprocess.run([sys.executable, __file__, job], capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def estimate(kernel: str, **job: Any) -> int | None:
    """The estimate for a job, see above; None where it does not compile (vector memory) or cannot be estimated."""
    return _run(json.dumps({"kernel": kernel, **job}, sort_keys=True))


class Costs(NamedTuple):
    """Estimated cycles of the parts of a kernel, per head: what any spans cost follows from the blocks they visit."""

    per_key: float  # once per row and head
    block: float  # per block of queries
    run: float  # per run of `unroll` whole blocks of keys
    pair: float  # per pair of masked ones
    single: float

    def cycles(self, visited: np.ndarray, n_keys: int, unroll: int) -> float:
        """For one row and head that visits `[blocks of queries, 4]`: `block_ranges.of_keys`, `over_keys`."""
        first, whole, ragged, last = visited.T
        runs = (ragged - whole) // unroll
        rest = last - first - runs * unroll
        pairs = rest // 2 if unroll > 1 else 0 * rest
        blocks = self.run * runs + self.pair * pairs + self.single * (rest - 2 * pairs)
        return float(self.per_key * n_keys + (self.block + blocks).sum())


def costs(kernel: str, chip: str, D: int, limits: Limits) -> Costs | None:
    """From the estimates of a few small cases. None where the kernel does not fit the chip.

    No loop of these cases runs once: the compiler would dissolve it, as it cannot where the count is data.
    """
    rows, keys, unroll = limits
    S = 2 * unroll * keys

    def cycles(blocks: int, runs: int, pairs: int = 0, singles: int = 0) -> float:
        counts = {"runs": runs, "pairs": pairs, "singles": singles}
        found = estimate(kernel, chip=chip, D=D, limits=limits, T=blocks * rows, S=S, **counts)
        if found is None:
            raise LookupError(counts)
        return found / 2  # heads

    try:
        four = cycles(4, 2)
        loaded = max(0.0, 2 * cycles(2, 2) - four)
        run, pair, single = ((cycles(4, *counts) - four) / 8 for counts in ((4, 0, 0), (2, 2, 0), (2, 0, 2)))
    except LookupError:
        return None
    return Costs(loaded / S, (four - loaded) / 4 - 2 * run, run, pair, single)


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="a JSON object, see above")
    job = parser.parse_args().job
    kind = job.pop("kernel")
    if "splash" in kind:
        print(splash(backward=kind == "splash_backward", **job))
    elif "memory" in kind:
        print(memory(kind.removesuffix("_memory"), **job))
    else:
        print(ours(kind, **job))


def ours(
    kernel: str, chip: str, T: int, D: int, S: int, limits: list[int], runs: int, pairs: int = 0, singles: int = 0
) -> int:
    """Two heads, T queries, S keys; limits: rows, keys, unroll."""

    def over_keys(_: Any, scores: Any, absorb: Any, unroll: int) -> None:
        for count, size, masked in ((runs, unroll, False), (pairs, 2, True), (singles, 1, True)):

            def some(i: Any, _: None, size: int = size, masked: bool = masked) -> None:
                blocks = [lax.rem(i * size + u, S // limits[1]) for u in range(size)]
                run_of_blocks(blocks, masked, scores, absorb)

            if count:
                lax.fori_loop(0, count, some, None)

    pallas_tpu_forward.over_keys = pallas_tpu_backward.over_keys = over_keys
    build = partial(program, kernel, T, S, D, (Limits(*limits),) * 2)
    return kernel_cycles(build, chip=chip, kernel=NAMES[kernel])


def memory(kernel: str, chip: str, T: int, D: int) -> int:
    """Vector memory in bytes, for two heads of T tokens and the chip's own block sizes."""
    return kernel_vector_memory(
        partial(program, kernel, T, T, D, None), chip=chip, kernel=f"interval_attention_{kernel}"
    )


def program(kernel: str, T: int, S: int, D: int, limits: tuple[Limits, Limits] | None) -> tuple[Any, tuple[Any, ...]]:
    """A function that runs our kernels, over two heads, and its arguments."""

    def run(q: Any, k: Any, v: Any, start: Any, stop: Any, d_out: Any) -> Any:
        def f(q: Any, k: Any, v: Any) -> Any:
            return pallas_tpu.pallas_tpu(q, k, v, Spans(start, stop), scale=D**-0.5, limits=limits)

        return f(q, k, v) if kernel == "forward" else jax.vjp(f, q, k, v)[1](d_out)

    queries, keys = (jax.ShapeDtypeStruct((1, length, 2, D), jnp.bfloat16) for length in (T, S))
    bound = jax.ShapeDtypeStruct((1, T), jnp.int32)
    return run, (queries, keys, keys, bound, bound, queries)


def splash(chip: str, T: int, D: int, blocks: list[int], mask: str, backward: bool) -> int:
    """JAX's splash attention, two heads; blocks: queries, keys, keys at once."""
    queries, keys, at_once = blocks

    def which_next(h: Any, i: Any, j: Any, *lists: Any, next_i: bool = False) -> Any:
        """Splash's own predicate, computed from the grid's indices where it would be loaded from memory."""
        mask_block = i * (T // keys) + j if lists[2] is not None else None
        if mask == "full":
            return (i if next_i else j), mask_block, True, False
        run = j * keys <= i * queries + queries - 1
        skipped_to = lax.div(j * keys, queries) if next_i else 0
        return jnp.where(run, i if next_i else j, skipped_to), mask_block, run, False

    splash_attention_kernel._next_nonzero = which_next
    sizes = splash_attention_kernel.BlockSizes(
        block_q=queries, block_kv=keys, block_kv_compute=at_once, use_fused_bwd_kernel=True,
        block_q_dkv=queries, block_kv_dkv=keys, block_kv_dkv_compute=at_once,
    )  # fmt: skip
    masks = {
        "full": lambda: splash_attention_mask.FullMask((T, T)),
        "dense": lambda: splash_attention_mask.NumpyMask(np.random.default_rng(0).random((T, T)) < 0.5),
    }

    def build() -> tuple[Any, tuple[Any, ...]]:
        one = masks.get(mask, lambda: splash_attention_mask.CausalMask((T, T)))()
        segments = splash_attention_kernel.SegmentIds(*[jnp.zeros(T, jnp.int32)] * 2) if mask == "segments" else None
        attend = splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([one] * 2), head_shards=1, q_seq_shards=1, block_sizes=sizes
        )

        def run(q: Any, k: Any, v: Any, d_out: Any) -> Any:
            def f(q: Any, k: Any, v: Any) -> Any:
                return attend(q, k, v, segments)

            return jax.vjp(f, q, k, v)[1](d_out) if backward else f(q, k, v)

        return run, (jax.ShapeDtypeStruct((2, T, D), jnp.bfloat16),) * 4

    segmented = "_segmented" if mask == "segments" else ""
    name = f"splash_mha_{'dkv' if backward else 'fwd'}{segmented}_no_residuals"
    return kernel_cycles(build, chip=chip, kernel=name)


if __name__ == "__main__":
    main()
