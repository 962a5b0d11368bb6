"""Reading an optimised HLO module (`compiled.as_text()`): what runs, how often, with which estimate.

Pure functions over text. Loops are rolled up: an instruction in a scan of 5 layers counts 5, in a scan in a scan of 4
it counts 20. Trip counts are the compiler's `known_trip_count`, or else read off the loop's counter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

_SPECIAL_BITS = {"pred": 8, "token": 0, "opaque": 0}


class Array(NamedTuple):
    """One array of an instruction's result, as one device holds it."""

    dtype: str  # "bf16", "f32", "s32", ..
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return -(-math.prod(self.shape) * bits(self.dtype) // 8)


def bits(dtype: str) -> int:
    """Bits of one element: bf16 16, f8e4m3fn 8, s4 4, c64 64, pred 8."""
    found = re.match(r"[a-z]+(\d+)", dtype)
    return _SPECIAL_BITS.get(dtype, int(found.group(1)) if found else 0)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    type: str  # as written, with layouts
    opcode: str
    operands: tuple[str, ...]  # names in the same computation; of constants and parameters what stands in the brackets
    attributes: str  # the rest of the line
    is_root: bool = False

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, those of a tuple one after another."""
        found = re.findall(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]", self.type)
        return tuple(Array(dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in found)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @cached_property
    def op_name(self) -> str:
        """Where in the traced program it comes from, e.g. "jit(step)/jvp()/while/body/dot_general"; "" if unknown."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    @cached_property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate for one execution; None where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found.group(1)) if found else None

    @property
    def kernel(self) -> str | None:
        """The name of a Pallas TPU kernel without its number: "interval_attention_forward"; None for all else."""
        is_kernel = self.opcode == "custom-call" and '"tpu_custom_call"' in self.attributes
        return re.sub(r"(\.\d+|\.clone)+$", "", self.name) if is_kernel else None

    def attribute(self, name: str) -> str | None:
        """The computation that an attribute such as `calls`, `body`, `to_apply` names."""
        found = re.search(rf"\b{name}=\{{?%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None


Computation = Mapping[str, Instruction]
"""Instructions by name, in the order of the text."""


@dataclass(frozen=True)
class Module:
    computations: Mapping[str, Computation]
    entry: str


class Site(NamedTuple):
    """An instruction where it runs."""

    instruction: Instruction
    computation: Computation
    times: int  # executions per run of the module
    fusion: Instruction | None  # the fusion or asynchronous operation that it is part of
    around: Computation  # what stands around the fusion; without one the computation itself
    loop: Instruction | None  # the innermost loop around it

    @property
    def op_name(self) -> str:
        """Where it comes from; where that was lost, where what is around it comes from."""
        around = (self.instruction, self.fusion, self.loop)
        return next((one.op_name for one in around if one is not None and one.op_name), "")


def parse(text: str) -> Module:
    """Raises ValueError for a text without an ENTRY computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                current = computations[header.group(2)] = {}
                entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):  # perhaps with the thread that executes it
            current = None
        elif found := _instruction(line):
            current[found.name] = found
    if not entry:
        raise ValueError("no ENTRY computation in the HLO text")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    call = rest[end:].lstrip()
    opening = call.index("(")
    closing = _closing(call, opening)
    inside = call[opening + 1 : closing]
    names = re.findall(r"%([\w.\-]+)", inside)
    operands = tuple(names) if names else tuple(filter(None, (inside.strip(),)))
    return Instruction(head.group(2), rest[:end], call[:opening], operands, call[closing + 1 :], bool(head.group(1)))


def _closing(text: str, opening: int) -> int:
    """Index of the bracket that closes the one at `opening`; the end of the text where none does."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found.group() == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def executed(module: Module) -> Iterator[Site]:
    """Every instruction that a run of the module executes, with how often.

    Instructions inside fusions are listed too, with the fusion. A loop with an unknown trip count is taken to run
    once (`unknown_loops` names such), and of a conditional every branch.
    """
    yield from _executed(module, module.entry, 1, None, None, None)


def unknown_loops(module: Module) -> list[str]:
    """Names of the executed loops whose trip count cannot be told."""
    return [
        site.instruction.name
        for site in executed(module)
        if site.instruction.opcode == "while" and trip_count(module, site.instruction, site.computation) is None
    ]


def _executed(
    module: Module,
    name: str,
    times: int,
    fusion: Instruction | None,
    around: Computation | None,
    loop: Instruction | None,
) -> Iterator[Site]:
    computation = module.computations[name]
    for instruction in computation.values():
        yield Site(instruction, computation, times, fusion, around or computation, loop)
        for called, count, part_of, within in _calls(module, instruction, computation):
            outside = around or (computation if part_of else None)
            yield from _executed(module, called, times * count, fusion or part_of, outside, within or loop)


def _calls(
    module: Module, instruction: Instruction, computation: Computation
) -> Iterator[tuple[str, int, Instruction | None, Instruction | None]]:
    """What an instruction executes: a computation, how often, and itself as a fusion or as a loop."""
    if instruction.opcode == "while":
        count = trip_count(module, instruction, computation)
        yield instruction.attribute("body") or "", 1 if count is None else count, None, instruction
    elif instruction.opcode == "conditional":
        for branch in _branches(instruction):
            yield branch, 1, None, None
    elif instruction.opcode == "call":
        yield instruction.attribute("to_apply") or "", 1, None, None
    elif instruction.opcode == "fusion" or instruction.opcode.endswith("-start"):
        called = instruction.attribute("calls") or instruction.attribute("called_computations")
        if called:
            yield called, 1, instruction, None


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed.group(1))
    named = (instruction.attribute(f"{which}_computation") for which in ("true", "false"))
    return [name for name in named if name]


# ---- how often a loop runs ----


def trip_count(module: Module, loop: Instruction, around: Computation) -> int | None:
    """Iterations of a `while` that stands in the computation `around`; None where the text does not tell.

    The TPU compiler drops `known_trip_count` from its final text; there a counter from a constant, by a constant, up to
    a constant tells.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    condition, body = (module.computations.get(loop.attribute(name) or "") for name in ("condition", "body"))
    if condition is None or body is None:
        return None
    test = _through_copies(condition, _root(condition))
    direction = re.search(r"direction=(\w+)", test.attributes)
    if test.opcode == "fusion":  # the comparison alone, wrapped
        inner = module.computations[test.attribute("calls") or ""]
        direction = re.search(r"direction=(\w+)", _root(inner).attributes)
    sides = [_through_copies(condition, condition[name]) for name in test.operands if name in condition]
    if direction is None or direction.group(1) != "LT" or len(sides) != 2:
        return None
    index, stop = _tuple_index(sides[0]), _constant(condition, sides[1])
    if index is None or stop is None:
        return None
    start, step = _initial(around, loop, index), _step(module, body, index)
    return None if start is None or not step else max(0, -(-(stop - start) // step))


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _through_copies(computation: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode in ("copy", "bitcast", "convert", "reshape") and instruction.operands[0] in computation:
        instruction = computation[instruction.operands[0]]
    return instruction


def _tuple_index(instruction: Instruction) -> int | None:
    found = re.search(r"\bindex=(\d+)", instruction.attributes)
    return int(found.group(1)) if instruction.opcode == "get-tuple-element" and found else None


def _constant(computation: Computation, instruction: Instruction) -> int | None:
    instruction = _through_copies(computation, instruction)
    if instruction.opcode == "constant" and re.fullmatch(r"-?\d+", "".join(instruction.operands)):
        return int(instruction.operands[0])
    return None


def _initial(around: Computation, loop: Instruction, index: int) -> int | None:
    initial = around[loop.operands[0]]
    if initial.opcode != "tuple":
        return None
    return _constant(around, around[initial.operands[index]])


def _step(module: Module, body: Computation, index: int) -> int | None:
    """What the loop adds to its counter."""
    root = _root(body)
    if root.opcode != "tuple":
        return None
    update = _through_copies(body, body[root.operands[index]])
    terms = [body[name] for name in update.operands if name in body]
    constants = [value for term in terms if (value := _constant(body, term)) is not None]
    if update.opcode == "fusion":  # the addition alone, wrapped; its constant may be inside
        inner = module.computations[update.attribute("calls") or ""]
        constants += [value for term in inner.values() if (value := _constant(inner, term)) is not None]
        update = _root(inner)
    return constants[0] if update.opcode == "add" and len(constants) == 1 else None
