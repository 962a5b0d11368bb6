"""libtpu's static estimate of a Pallas kernel's cycles and memory: repeatable numbers with no TPU (extra `tpu`).

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

Build = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


def kernel_cycles(build: Build, *, chip: str, kernel: str) -> int:
    """Estimated cycles of one Pallas kernel, per call.

    Args:
        build: gives a function that calls the kernel, and its arguments, abstract or real arrays. It is called once
            libtpu's flags are set: the first computation in a process may load libtpu.
        chip: a key of `CHIPS`. Not v4, for which libtpu estimates no kernels.
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
