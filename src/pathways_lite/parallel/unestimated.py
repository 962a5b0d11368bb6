"""Operations that the TPU compiler gives no cycles: gathers and scatters by a model, of the rest how many.

A row of a table is padded to whole lanes of 128 elements in memory. A gather reads and writes so many bytes per row; a
scatter reads what it adds, and reads and writes the row. At least so long takes memory at its full bandwidth; that
single rows do not reach it is not modelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from pathways_lite.parallel import hlo
from pathways_lite.parallel.collectives import KINDS

LANES = 128
PASSES = {"gather": 2, "scatter": 3}
"""How often a row crosses the memory's link."""

_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "partition-id", "replica-id", "after-all",
    "while", "conditional", "call",  # what they execute is counted
    "send", "recv", *KINDS,
}  # fmt: skip
_MEANWHILE = ("-start", "-update", "-done")  # copies and collectives that run beside computation


class Lookup(NamedTuple):
    """A gather of rows from a table, or a scatter into one."""

    kind: str
    rows: int
    row_bytes: int  # padded
    times: int  # per step
    op_name: str
    seconds: float  # modelled, per step


class Uncounted(NamedTuple):
    """Operations over arrays that neither the compiler nor a model gives a time."""

    operations: int  # executions per step
    bytes: int  # of their results, per step


def lookups(sites: Iterable[hlo.Site], hbm_bytes_per_second: float) -> tuple[Lookup, ...]:
    """Those without cycles, the longest first."""
    found = []
    for site in sites:
        kind = _lookup_kind(site)
        if kind is None or not _without_cycles(site):
            continue
        array = site.instruction.arrays[0]
        row_bytes = -(-array.shape[-1] // LANES) * LANES * hlo.bits(array.dtype) // 8
        rows = _rows(site)
        seconds = site.times * rows * row_bytes * PASSES[kind] / hbm_bytes_per_second
        found.append(Lookup(kind, rows, row_bytes, site.times, site.op_name, seconds))
    return tuple(sorted(found, key=lambda one: -one.seconds))


def uncounted(sites: Iterable[hlo.Site], module: hlo.Module) -> Uncounted:
    """What is left: neither estimated nor modelled, and more than a scalar."""
    operations = size = 0
    for site in sites:
        if _without_cycles(site) and _lookup_kind(site) is None and _computes(site.instruction, module):
            operations += site.times
            size += site.times * site.instruction.bytes
    return Uncounted(operations, size)


def _without_cycles(site: hlo.Site) -> bool:
    return site.fusion is None and site.instruction.cycles is None


def _lookup_kind(site: hlo.Site) -> str | None:
    """By the opcode, or by what a fusion was made for: its calls may be the compiler's own."""
    one = site.instruction
    name = one.op_name.rsplit("/", 1)[-1] if one.opcode == "fusion" else one.opcode
    return next((kind for kind in PASSES if name.startswith(kind) and one.arrays and one.arrays[0].shape), None)


def _rows(site: hlo.Site) -> int:
    """As many as the operand of indices has; without one as many as the result."""
    operands = [site.computation[name] for name in site.instruction.operands if name in site.computation]
    arrays = [array for operand in operands for array in operand.arrays]
    indices = [math.prod(array.shape) for array in arrays if array.dtype in ("s32", "u32")]
    return max(indices, default=math.prod(site.instruction.arrays[0].shape[:-1]))


def _computes(one: hlo.Instruction, module: hlo.Module) -> bool:
    if one.opcode in _FREE or one.opcode.endswith(_MEANWHILE) or one.kernel is not None:
        return False
    if one.opcode == "custom-call" and ("AllocateBuffer" in one.attributes or "Bitcast" in one.attributes):
        return False
    inside = module.computations.get(one.attribute("calls") or "", {}).values()
    if any(part.opcode.removesuffix("-start") in KINDS for part in inside):
        return False
    return any(array.shape for array in one.arrays)
