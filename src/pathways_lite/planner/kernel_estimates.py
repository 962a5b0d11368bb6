"""Cost of our attention kernels on a TPU, from libtpu's static estimates: repeatable numbers without a TPU.

libtpu (extra `tpu`) walks the final instruction bundles of a kernel, follows loops whose trip counts it can compute,
and models the copies between memories, but not other chips. Values loaded from memory are unknown to it, so a loop or
branch that depends on them must be given constants for the estimate. Estimates of large matmuls are within 6 % of
measurements on chips. Compare like with like, and do not base a choice on less than 10 %.

    python -m pathways_lite.planner.kernel_estimates \
        '{"kernel": "forward", "chip": "v5e", "T": 4096, "S": 4096, "D": 128, "limits": [512, 512, 4], "runs": 2}'

prints the estimated cycles of one call, in a process of its own because libtpu estimates once per process. For each
block of queries the kernel visits a fixed number of blocks of keys: `runs` of unmasked blocks (the last of `limits` is
the number in a run), `pairs` and `singles` of masked ones. A real call visits blocks that depend on data; its cost is
the sum of these components.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from pathways_kernels.attention import pallas_tpu, pallas_tpu_backward, pallas_tpu_forward
from pathways_kernels.attention.block_ranges import key_block_ranges, padded_spans
from pathways_kernels.attention.block_sizes import TUNED, Limits, largest_divisor
from pathways_kernels.attention.pallas_tpu_parts import run_of_blocks
from pathways_kernels.attention.spans import Spans, causal
from pathways_lite.planner.chips import abstract_on_device, described_device, quiet_libtpu, tracing_for
from pathways_lite.planner.disk_cache import KERNELS, cached

# ---- any Pallas kernel ----

Build = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
"""Returns a function that calls the kernel, and its arguments (abstract or real arrays)."""


def kernel_cycles(build: Build, *, chip: str, kernel: str) -> int:
    """Return the estimated cycles of one call of a Pallas kernel.

    Args:
        build: is called after libtpu's flags are set, as the first computation in a process may load libtpu.
        chip: a key of `TPUS`. Not v4, for which libtpu estimates no kernels.
        kernel: its name in the compiled program, without the number: the `name` passed to `pallas_call`, perhaps with
            a prefix such as `jvp_` and a suffix.

    Call it in a process of its own: libtpu reads its flags once, and aborts if it cannot model an operation.

    Raises:
        LookupError: libtpu wrote nothing for such a kernel.
    """
    only = {"xla_jf_dump_only_matching_hlo": f"{kernel}.1"}
    text = _compile_and_read_dump(
        build, chip, "*_static_llo_profile.textproto", xla_jf_dump_static_llo_profile_to="{}", **only
    )
    match = re.search(rf'hlo_op_name: "{re.escape(kernel)}\.1".*?estimated_cycles: (\d+)', text, re.DOTALL)
    if match is None:
        raise LookupError(f"libtpu estimated no cycles for {kernel!r}.")
    return int(match.group(1))


def kernel_vector_memory(build: Build, *, chip: str, kernel: str) -> int:
    """Return the bytes of vector memory that a Pallas kernel uses: windows, scratch and spilled registers.

    Arguments and errors are those of `kernel_cycles`, but `kernel` may be a substring of the name; works for v4 too.
    """
    stage = "registers-and-allocations"
    flags = {"xla_jf_dump_llo_text": "true", "xla_jf_dump_llo_pass_label_regex": f".*{stage}.*"}
    text = _compile_and_read_dump(build, chip, f"*{kernel}*{stage}*", xla_jf_dump_to="{}", **flags)
    return sum(int(size, 16) for size in re.findall(r"space=vmem, size = (0x[0-9a-f]+)", text))


def _compile_and_read_dump(build: Build, chip: str, files: str, **flags: str) -> str:
    """Compile, and return the text of the `files` that libtpu dumped into the directory that replaces {} in flags."""
    directory = Path(tempfile.mkdtemp(prefix="static_profile_"))
    try:
        quiet_libtpu(**{name: value.format(directory) for name, value in flags.items()})
        function, arguments = build()
        with tracing_for(chip):
            lowered = jax.jit(function).lower(*abstract_on_device(arguments, described_device(chip)))
        # Operands stay in main memory, as in a real step, instead of being placed in vector memory ahead of the kernel.
        compiled = lowered.compile(compiler_options={"xla_msa_enable": "false"})
        text = "".join(path.read_text(errors="replace") for path in directory.rglob(files))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not text:
        names = re.findall(r'%(\S+) = [^\n]*custom_call_target="tpu_custom_call"', compiled.as_text() or "")
        raise LookupError(f"libtpu wrote no {files}; the program's kernels: {', '.join(names)}.")
    return text


# ---- our attention kernels ----

KERNEL_NAMES = {"forward": "interval_attention_forward", "backward": "transpose_jvp_interval_attention_backward__"}
"""Names of our kernels in a compiled program that runs one of them."""

SAME_CYCLES = {"v4": "v5p"}
"""Chips for which libtpu estimates no kernels, and the chips used instead, which also have two cores."""

# Errors that would recur: out of vector memory, and an abort at an operation that libtpu cannot model.
_PERMANENT_FAILURE = re.compile(r"RESOURCE_EXHAUSTED.*vmem|memory space vmem|Check failed", re.IGNORECASE | re.DOTALL)


@cache
def estimate(kernel: str, **job: Any) -> int | None:
    """Return the cycles of a job as above; None if it does not compile (vector memory) or has no estimate."""
    text = json.dumps({"kernel": kernel, **job}, sort_keys=True)

    def run() -> int | None:
        done = subprocess.run([sys.executable, "-m", __name__, text], capture_output=True, text=True)
        if done.returncode == 0:
            return int(done.stdout.split()[-1])
        if _PERMANENT_FAILURE.search(done.stderr):
            return None
        raise ChildProcessError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])

    try:
        cycles: int | None = cached("kernels", {"job": text}, run, code=KERNELS)
    except ChildProcessError as error:
        warnings.warn(f"no estimate of the {kernel} attention kernel this time: {error}", stacklevel=2)
        return None
    return cycles


class Costs(NamedTuple):
    """Estimated cycles of a kernel's components, per head; the blocks that spans visit determine their cost."""

    per_key: float  # once per row and head
    block: float  # per block of queries
    run: float  # per run of `unroll` whole blocks of keys
    pair: float  # per pair of masked blocks
    single: float  # per single masked block

    def cycles(self, visited: np.ndarray, n_keys: int, unroll: int) -> float:
        """Return the cycles of one row and head; visited: [query blocks, 4] from `block_ranges.key_block_ranges`."""
        first, whole, ragged, last = visited.T
        runs = (ragged - whole) // unroll
        rest = last - first - runs * unroll
        pairs = rest // 2 if unroll > 1 else 0 * rest
        blocks = self.run * runs + self.pair * pairs + self.single * (rest - 2 * pairs)
        return float(self.per_key * n_keys + (self.block + blocks).sum())


def costs(kernel: str, chip: str, D: int, limits: Limits) -> Costs | None:
    """Derive a kernel's costs from the estimates of a few small cases; None if the kernel does not fit the chip.

    No loop of these cases runs once: the compiler would unroll it, which it cannot if the count is data.
    """
    rows, keys, unroll = limits
    S = 2 * unroll * keys

    def cycles(blocks: int, runs: int, pairs: int = 0, singles: int = 0) -> float:
        counts = {"runs": runs, "pairs": pairs, "singles": singles}
        estimated = estimate(kernel, chip=chip, D=D, limits=limits, T=blocks * rows, S=S, **counts)
        if estimated is None:
            raise LookupError(counts)
        return estimated / 2  # heads

    try:
        four_blocks = cycles(4, 2)
        loading = max(0.0, 2 * cycles(2, 2) - four_blocks)  # of the keys, once
        run, pair, single = ((cycles(4, *counts) - four_blocks) / 8 for counts in ((4, 0, 0), (2, 2, 0), (2, 0, 2)))
    except LookupError:
        return None
    return Costs(loading / S, (four_blocks - loading) / 4 - 2 * run, run, pair, single)


def causal_cycles(kernel: str, chip: str, shape: tuple[int, ...], keys: int) -> float | None:
    """Return the estimated cycles of a call for causal rows of one document each, the most expensive causal rows.

    Args:
        kernel: "forward" or "backward".
        shape: of the queries as the kernel sees them, [B, P, G, T, D]: P blocks of G heads that share a key head.
        keys: S; if it is more than T, the queries are one chunk of the sequence, and cost the average of its chunks.

    None if there is no estimate. Takes minutes the first time for a chip and head dim; then it is cached.
    """
    B, P, G, T, D = shape
    chip = SAME_CYCLES.get(chip, chip)
    limits = TUNED[chip, 128 if D <= 128 else 256][kernel == "backward"]
    kernel_costs = costs(kernel, chip, D, limits)
    if kernel_costs is None:
        return None
    queries, block = largest_divisor(T, limits.rows // G), largest_divisor(keys, limits.keys)
    visited = np.asarray(key_block_ranges(padded_spans(causal(1, keys), keys, keys), queries, block))[0]
    return B * P * kernel_costs.cycles(visited, keys, limits.unroll) * T / keys


# ---- the command that estimates one case ----


def main() -> None:
    """Print the estimated cycles of the job given on the command line."""
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="a JSON object, see above")
    job = parser.parse_args().job
    print(estimate_own_kernel(job.pop("kernel"), **job))


def estimate_own_kernel(
    kernel: str, chip: str, T: int, D: int, S: int, limits: list[int], runs: int, pairs: int = 0, singles: int = 0
) -> int:
    """Estimate one of our kernels for two heads, T queries, S keys and limits (rows, keys, unroll)."""

    def over_keys(seen: Any, scores: Any, absorb: Any, unroll: int) -> None:
        for count, size, masked in ((runs, unroll, False), (pairs, 2, True), (singles, 1, True)):

            def visit(i: Any, _: None, size: int = size, masked: bool = masked) -> None:
                blocks = [lax.rem(i * size + u, S // limits[1]) for u in range(size)]
                run_of_blocks(blocks, masked, scores, absorb)

            if count:
                lax.fori_loop(0, count, visit, None)

    pallas_tpu_forward.over_keys = pallas_tpu_backward.over_keys = over_keys
    build = partial(attention_program, kernel, T, S, D, (Limits(*limits),) * 2)
    return kernel_cycles(build, chip=chip, kernel=KERNEL_NAMES[kernel])


def attention_program(
    kernel: str, T: int, S: int, D: int, limits: tuple[Limits, Limits] | None
) -> tuple[Any, tuple[Any, ...]]:
    """Return a function that runs our kernels over two heads, and its arguments."""

    def run(q: Any, k: Any, v: Any, start: Any, stop: Any, d_out: Any) -> Any:
        def f(q: Any, k: Any, v: Any) -> Any:
            return pallas_tpu.pallas_tpu(q, k, v, Spans(start, stop), scale=D**-0.5, limits=limits)

        return f(q, k, v) if kernel == "forward" else jax.vjp(f, q, k, v)[1](d_out)

    queries, keys = (jax.ShapeDtypeStruct((1, length, 2, D), jnp.bfloat16) for length in (T, S))
    bound = jax.ShapeDtypeStruct((1, T), jnp.int32)
    return run, (queries, keys, keys, bound, bound, queries)


if __name__ == "__main__":
    main()
