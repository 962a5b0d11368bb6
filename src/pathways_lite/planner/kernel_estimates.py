"""What an attention kernel of ours costs on a TPU, from libtpu's static estimates of its parts.

    python -m pathways_lite.planner.kernel_estimates \
        '{"kernel": "forward", "chip": "v5e", "T": 4096, "S": 4096, "D": 128, "limits": [512, 512, 4], "runs": 2}'

prints the estimated cycles of one call: a process each, because libtpu estimates once per process. The kernel takes
for each block of queries a fixed number of blocks of keys: `runs` of as many whole ones as `limits` says, `pairs` and
`singles` with a mask. Which ones a real call visits is data; its cost is put together from these parts.
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
from pathways_kernels.attention.block_ranges import of_keys, padded_spans
from pathways_kernels.attention.block_sizes import TUNED, Limits, largest_divisor
from pathways_kernels.attention.pallas_tpu_parts import run_of_blocks
from pathways_kernels.attention.spans import Spans, causal
from pathways_lite.planner.chips import device, place, quiet_libtpu, traced_for
from pathways_lite.planner.disk_cache import KERNELS, cached

# libtpu's static estimate of a Pallas kernel's cycles and memory: repeatable numbers with no TPU (extra `tpu`).
#
# libtpu walks the final instruction bundles of a kernel, follows loops whose trip counts it can compute, and models
# the copies between memories; it leaves out other chips. Values loaded from memory are unknown to it, so a loop or
# branch that depends on them must be given constants for the estimate. Large matmuls come out within 6 % of what chips
# do. Compare like with like, and do not choose by it under 10 %.


Build = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


def kernel_cycles(build: Build, *, chip: str, kernel: str) -> int:
    """Estimated cycles of one Pallas kernel, per call.

    Args:
        build: gives a function that calls the kernel, and its arguments, abstract or real arrays. It is called once
            libtpu's flags are set: the first computation in a process may load libtpu.
        chip: a key of `TPUS`. Not v4, for which libtpu estimates no kernels.
        kernel: its name in the compiled program, without the number: the `name` that it was given in `pallas_call`,
            perhaps with `jvp_` and the like around it.

    Run it in a process of its own: libtpu reads its flags once, and aborts where it cannot model an operation.

    Raises:
        LookupError: nothing was written for such a kernel.
    """
    only = {"xla_jf_dump_only_matching_hlo": f"{kernel}.1"}
    text = _dumped(build, chip, "*_static_llo_profile.textproto", xla_jf_dump_static_llo_profile_to="{}", **only)
    found = re.search(rf'hlo_op_name: "{re.escape(kernel)}\.1".*?estimated_cycles: (\d+)', text, re.DOTALL)
    if found is None:
        raise LookupError(f"libtpu estimated no cycles for {kernel!r}.")
    return int(found.group(1))


def kernel_vector_memory(build: Build, *, chip: str, kernel: str) -> int:
    """Bytes of vector memory that the compiler gives a Pallas kernel: windows, scratch and spilled registers.

    Arguments and errors as of `kernel_cycles`, but `kernel` may be a part of the name; v4 too.
    """
    stage = "registers-and-allocations"
    flags = {"xla_jf_dump_llo_text": "true", "xla_jf_dump_llo_pass_label_regex": f".*{stage}.*"}
    text = _dumped(build, chip, f"*{kernel}*{stage}*", xla_jf_dump_to="{}", **flags)
    return sum(int(size, 16) for size in re.findall(r"space=vmem, size = (0x[0-9a-f]+)", text))


def _dumped(build: Build, chip: str, files: str, **flags: str) -> str:
    """What libtpu wrote, into the directory that replaces {} in the flags, while it compiled."""
    directory = Path(tempfile.mkdtemp(prefix="static_profile_"))
    try:
        given = {name: value.format(directory) for name, value in flags.items()}
        quiet_libtpu(**given)
        function, arguments = build()
        with traced_for(chip):
            lowered = jax.jit(function).lower(*place(arguments, device(chip)))
        # Operands stay in main memory, as in a real step, instead of being placed in vector memory ahead of the kernel.
        compiled = lowered.compile(compiler_options={"xla_msa_enable": "false"})
        text = "".join(path.read_text(errors="replace") for path in directory.rglob(files))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not text:
        names = re.findall(r'%(\S+) = [^\n]*custom_call_target="tpu_custom_call"', compiled.as_text() or "")
        raise LookupError(f"libtpu wrote no {files}; the program's kernels: {', '.join(names)}.")
    return text


# Of our kernels, in the compiled program of one.
NAMES = {"forward": "interval_attention_forward", "backward": "transpose_jvp_interval_attention_backward__"}

SAME_CYCLES = {"v4": "v5p"}
"""Chips for which libtpu estimates no kernels, and those whose cycles stand in: both have two cores alike."""


# The compiler ran out of vector memory; libtpu aborted over an operation that it cannot model. It would again.
_IMPOSSIBLE = re.compile(r"RESOURCE_EXHAUSTED.*vmem|memory space vmem|Check failed", re.IGNORECASE | re.DOTALL)


@cache
def estimate(kernel: str, **job: Any) -> int | None:
    """Cycles, see above; None where the kernel does not compile (vector memory) or cannot be estimated."""
    text = json.dumps({"kernel": kernel, **job}, sort_keys=True)

    def run() -> int | None:
        done = subprocess.run([sys.executable, "-m", __name__, text], capture_output=True, text=True)
        if done.returncode == 0:
            return int(done.stdout.split()[-1])
        if _IMPOSSIBLE.search(done.stderr):
            return None
        raise ChildProcessError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])

    try:
        found: int | None = cached("kernels", {"job": text}, run, code=KERNELS)
    except ChildProcessError as error:
        warnings.warn(f"no estimate of the {kernel} attention kernel, for this time: {error}", stacklevel=2)
        return None
    return found


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


def causal_cycles(kernel: str, chip: str, shape: tuple[int, ...], keys: int) -> float | None:
    """Estimated cycles of a call for causal rows without documents, the most that such spans cost.

    Args:
        kernel: "forward" or "backward".
        shape: of the queries as the kernel sees them, [B, P, G, T, D]: P blocks of G heads that share a key head.
        keys: S; where it is more than T the queries are a part of the sequence, and cost the average of its parts.

    None where there is no estimate. Minutes, but at once the second time for a chip and head dim.
    """
    B, P, G, T, D = shape
    chip = SAME_CYCLES.get(chip, chip)
    limits = TUNED[chip, 128 if D <= 128 else 256][kernel == "backward"]
    found = costs(kernel, chip, D, limits)
    if found is None:
        return None
    queries, block = largest_divisor(T, limits.rows // G), largest_divisor(keys, limits.keys)
    visited = np.asarray(of_keys(padded_spans(causal(1, keys), keys, keys), queries, block))[0]
    return B * P * found.cycles(visited, keys, limits.unroll) * T / keys


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=json.loads, help="a JSON object, see above")
    job = parser.parse_args().job
    print(ours(job.pop("kernel"), **job))


def ours(
    kernel: str, chip: str, T: int, D: int, S: int, limits: list[int], runs: int, pairs: int = 0, singles: int = 0
) -> int:
    """Two heads, T queries, S keys; limits: rows, keys, unroll."""

    def over_keys(seen: Any, scores: Any, absorb: Any, unroll: int) -> None:
        for count, size, masked in ((runs, unroll, False), (pairs, 2, True), (singles, 1, True)):

            def some(i: Any, _: None, size: int = size, masked: bool = masked) -> None:
                blocks = [lax.rem(i * size + u, S // limits[1]) for u in range(size)]
                run_of_blocks(blocks, masked, scores, absorb)

            if count:
                lax.fori_loop(0, count, some, None)

    pallas_tpu_forward.over_keys = pallas_tpu_backward.over_keys = over_keys
    build = partial(program, kernel, T, S, D, (Limits(*limits),) * 2)
    return kernel_cycles(build, chip=chip, kernel=NAMES[kernel])


def program(kernel: str, T: int, S: int, D: int, limits: tuple[Limits, Limits] | None) -> tuple[Any, tuple[Any, ...]]:
    """A function that runs our kernels, over two heads, and its arguments."""

    def run(q: Any, k: Any, v: Any, start: Any, stop: Any, d_out: Any) -> Any:
        def f(q: Any, k: Any, v: Any) -> Any:
            return pallas_tpu.pallas_tpu(q, k, v, Spans(start, stop), scale=D**-0.5, limits=limits)

        return f(q, k, v) if kernel == "forward" else jax.vjp(f, q, k, v)[1](d_out)

    queries, keys = (jax.ShapeDtypeStruct((1, length, 2, D), jnp.bfloat16) for length in (T, S))
    bound = jax.ShapeDtypeStruct((1, T), jnp.int32)
    return run, (queries, keys, keys, bound, bound, queries)


if __name__ == "__main__":
    main()
