#!/usr/bin/env python3
"""Cross-entropy backends: on the device at hand, or by libtpu's estimates for TPUs that are not here (extra `tpu`).

    python tools/bench_cross_entropy.py --static --chips v6e --embeds 2048 --vocabs 32768
    python tools/bench_cross_entropy.py --static --scheduled --chips v6e --embeds 2048 --vocabs 8192 --tokens 4096
    python tools/bench_cross_entropy.py --tokens 4096 --embeds 256 --vocabs 8192 --dtype float32     what JAX sees

One JSON line per case: N tokens (one row), embed E, vocabulary V, forward or forward+backward. Useful FLOPs
are 2 N V E forward and 4 N V E backward; the logits that the backward pass computes again (2 N V E) count as overhead,
so that no backend which keeps no logits can have a share above 0.75 forward+backward.

`--static` compiles ahead of time and adds up the cycles of every operation, times the trip counts of the loops around
it, over the chip's clock; the share is useful FLOPs over that time, of the peak in bfloat16. The cycles are the
compiler's cost model (`estimated_cycles`), which is up to 40 % too slow for products with reductions fused into them
and more for passes over memory. With `--scheduled` they are, where libtpu gives them, those of the final instruction
bundles and copies (its static profile), within 6 % of chips for large products. That takes two minutes per million
cycles: take a small vocabulary, but more tokens than one chunk has (4096), since both passes of one chunk would share
its logits. On the device: medians and quartiles of seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pathways_kernels.cross_entropy import cross_entropy
from pathways_lite.chips import TPUS
from pathways_lite.planner import hlo
from pathways_lite.planner.chips import abstract_on_device, described_device, quiet_libtpu, tracing_for

FLOPS_PER_LOGIT = {"forward": 2, "forward+backward": 6}  # times E


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", action="store_true", help="estimate for TPUs that are not here")
    parser.add_argument("--scheduled", action="store_true", help="from instruction bundles; with --static; slow")
    parser.add_argument("--chips", nargs="+", default=["v5e", "v5p", "v6e"], choices=list(TPUS), help="for --static")
    parser.add_argument("--embeds", nargs="+", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--vocabs", nargs="+", type=int, default=[32768, 131072, 262144])
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--passes", nargs="+", default=list(FLOPS_PER_LOGIT), choices=list(FLOPS_PER_LOGIT))
    parser.add_argument("--dtype", default="bfloat16", help="of hidden states and head")
    parser.add_argument("--implementation", default="chunked")
    parser.add_argument("--soft-cap", type=float)
    parser.add_argument("--repeats", type=int, default=10, help="on the device")
    arguments = parser.parse_args()
    if arguments.scheduled and not arguments.static:
        parser.error("--scheduled is a kind of --static estimate; give both")
    with tempfile.TemporaryDirectory(prefix="static_profile_") as folder:
        if arguments.static:
            quiet_libtpu(**({"xla_jf_dump_static_llo_profile_to": folder} if arguments.scheduled else {}))
        lines(arguments, Path(folder) if arguments.scheduled else None)


def lines(arguments: argparse.Namespace, profile: Path | None) -> None:
    """Print the line of every case."""
    for chip in arguments.chips if arguments.static else [jax.devices()[0].device_kind]:
        for E in arguments.embeds:
            for V in arguments.vocabs:
                for which in arguments.passes:
                    line = {"device": chip, "tokens": arguments.tokens, "embed": E, "vocab": V, "pass": which}
                    line |= {"implementation": arguments.implementation, "soft_cap": arguments.soft_cap}
                    flops = FLOPS_PER_LOGIT[which] * arguments.tokens * V * E
                    case = function(which, arguments), shapes(arguments, E, V), flops
                    found = estimated(*case, chip, profile) if arguments.static else measured(*case, arguments.repeats)
                    print(json.dumps(line | found), flush=True)


def function(which: str, arguments: argparse.Namespace) -> Callable[..., Any]:
    def forward(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> Any:
        options = {"implementation": arguments.implementation, "soft_cap": arguments.soft_cap}
        return cross_entropy(hidden, head, targets, logit_scale=hidden.shape[-1] ** -0.5, **options)

    def both(hidden: jax.Array, head: jax.Array, targets: jax.Array, *cotangents: jax.Array) -> Any:
        values, pull_back = jax.vjp(lambda h, w: forward(h, w, targets), hidden, head)
        return values, pull_back(cotangents)

    return both if which == "forward+backward" else lambda h, w, t, *_: forward(h, w, t)


def shapes(arguments: argparse.Namespace, E: int, V: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """hidden, head, targets, cotangents of loss and log Z."""
    rows = 1, arguments.tokens
    per_token = jax.ShapeDtypeStruct(rows, jnp.float32)
    wide = (jax.ShapeDtypeStruct((*shape, E), jnp.dtype(arguments.dtype)) for shape in (rows, (V,)))
    return *wide, jax.ShapeDtypeStruct(rows, jnp.int32), per_token, per_token


def estimated(run: Callable[..., Any], abstract: Any, flops: float, chip: str, profile: Path | None) -> dict[str, Any]:
    """By the cost model, or where libtpu writes its static profile into a folder, by that."""
    with tracing_for(chip):
        # Where operands are placed in vector memory ahead of an operation, libtpu cannot schedule some copies.
        options = {"xla_msa_enable": "false"} if profile else {}
        lowered = jax.jit(run).lower(*abstract_on_device(abstract, described_device(chip)))
        compiled: Any = lowered.compile(compiler_options=options)
    seconds = total_cycles(compiled.as_text(), scheduled(profile) if profile else {}) / TPUS[chip].clock_hz
    return {
        "cycles": "scheduled" if profile else "cost model",
        "ms": round(seconds * 1e3, 2),
        "share_of_peak": round(flops / seconds / TPUS[chip].bf16_flops, 3),
        "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
    }


def scheduled(profile: Path) -> dict[str, int]:
    """Cycles by the operation's name, from what libtpu has written since the last call."""
    found: dict[str, int] = {}
    for path in profile.rglob("*_static_llo_profile.textproto"):
        pattern = r'hlo_op_name: "([^"]+)"\s+estimated_cycles: (\d+)'
        found |= {name: int(cycles) for name, cycles in re.findall(pattern, path.read_text(errors="replace"))}
        path.unlink()
    return found


def total_cycles(text: str, by_name: dict[str, int]) -> int:
    """Of a run of a compiled program, loops rolled up; `by_name` where it knows better than the cost model."""
    module = hlo.parse(text)
    if loops := hlo.unknown_loops(module):
        raise LookupError(f"how often these loops run cannot be told: {', '.join(loops)}")
    sites = (site for site in hlo.executed_sites(module) if site.fusion is None)
    return sum(site.times * by_name.get(site.instruction.name, site.instruction.cycles or 0) for site in sites)


def measured(run: Callable[..., Any], abstract: Any, flops: float, repeats: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    V = abstract[1].shape[0]
    arrays = [
        jnp.asarray(random.integers(0, V, x.shape) if x.dtype == jnp.int32 else random.normal(size=x.shape), x.dtype)
        for x in abstract
    ]
    compiled = jax.jit(run).lower(*arrays).compile()
    jax.block_until_ready(compiled(*arrays))
    clocks = []
    for _repeat in range(repeats):
        start = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arrays))
        clocks.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    low, middle, high = np.percentile(clocks, (25, 50, 75), axis=0)
    found = {"ms": middle[0] * 1e3, "ms_p25": low[0] * 1e3, "ms_p75": high[0] * 1e3, "process_ms": middle[1] * 1e3}
    return {name: round(value, 2) for name, value in found.items()} | {"tflops_per_s": flops / middle[0] / 1e12}


if __name__ == "__main__":
    main()
