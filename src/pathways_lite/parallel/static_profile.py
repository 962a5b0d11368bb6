"""libtpu's static estimate of a Pallas kernel's cycles: a repeatable number with no TPU (extra `tpu`).

libtpu walks the final instruction bundles of a kernel, follows loops whose trip counts it can compute, and models
the copies between memories; it leaves out other chips. Values loaded from memory are unknown to it, so a loop or
branch that depends on them must be given constants for the estimate. Large matmuls come out within 6 % of what chips
do. Compare like with like, and do not choose by it under 10 %.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pathways_lite.parallel.described import device, place, quiet_libtpu, traced_for


def kernel_cycles(build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]], *, chip: str, kernel: str) -> int:
    """Estimated cycles of one Pallas kernel, per call.

    Args:
        build: gives a function that calls the kernel, and its arguments, abstract or real arrays. It is called once
            libtpu's flags are set: the first computation in a process may load libtpu.
        chip: a key of `CHIPS`. Not v4, for which libtpu estimates no kernels.
        kernel: the `name` that it was given in `pallas_call`.

    Run it in a process of its own: libtpu reads its flags once, and aborts where it cannot model an operation.

    Raises:
        LookupError: no estimate was written for such a kernel.
    """
    directory = Path(tempfile.mkdtemp(prefix="static_profile_"))
    try:
        quiet_libtpu(xla_jf_dump_static_llo_profile_to=str(directory), xla_jf_dump_only_matching_hlo=f"{kernel}.1")
        function, arguments = build()
        with traced_for(chip):
            lowered = jax.jit(function).lower(*place(arguments, device(chip)))
        # Operands stay in main memory, as in a real step, instead of being placed in vector memory ahead of the kernel.
        compiled = lowered.compile(compiler_options={"xla_msa_enable": "false"})
        text = "".join(path.read_text(errors="replace") for path in directory.rglob("*_static_llo_profile.textproto"))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    pattern = rf'hlo_op_name: "{re.escape(kernel)}\.1".*?estimated_cycles: (\d+)'
    found = re.search(pattern, text, re.DOTALL)
    if found is None:
        names = re.findall(r'%(\S+) = [^\n]*custom_call_target="tpu_custom_call"', compiled.as_text() or "")
        raise LookupError(f"libtpu wrote no estimate for {kernel!r}; the program's kernels: {', '.join(names)}.")
    return int(found.group(1))
