#!/usr/bin/env python3
"""What `bench_attention.py` compares our kernels' cycles with: those of JAX's splash attention; and memory of ours.

    python tools/attention_static.py '{"kernel": "splash_forward", "chip": "v5e", "T": 4096, "D": 128,
                                       "blocks": [1024, 1024, 512], "mask": "causal"}'

prints libtpu's estimate of the cycles of one call of splash ("splash_forward", "splash_backward"). `blocks`: queries,
keys, keys at once; `mask`: "full", "causal", "segments" (causal, with segment ids) or "dense" (a bool array of which it
visits the blocks of the lower triangle). Our own cycles: `pathways_lite.planner.kernel_estimates`.

"forward_memory" and "backward_memory", of a chip, T and D, print the bytes of vector memory that our kernels take.

A process each, because libtpu estimates once per process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from pathways_lite.planner.kernel_estimates import attention_program, kernel_cycles, kernel_vector_memory


@cache
def _run(job: str) -> int | None:
    done = subprocess.run([sys.executable, __file__, job], capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def estimate(kernel: str, **job: Any) -> int | None:
    """The estimate for a job, see above; None where it does not compile (vector memory) or cannot be estimated."""
    return _run(json.dumps({"kernel": kernel, **job}, sort_keys=True))


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="a JSON object, see above")
    job = parser.parse_args().job
    kind = job.pop("kernel")
    if "splash" in kind:
        print(splash(backward=kind == "splash_backward", **job))
    else:
        print(memory(kind.removesuffix("_memory"), **job))


def memory(kernel: str, chip: str, T: int, D: int) -> int:
    """Vector memory in bytes, for two heads of T tokens and the chip's own block sizes."""
    return kernel_vector_memory(
        partial(attention_program, kernel, T, T, D, None), chip=chip, kernel=f"interval_attention_{kernel}"
    )


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
