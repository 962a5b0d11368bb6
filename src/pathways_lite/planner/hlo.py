"""HLO parser: the executed instructions of an optimized module (`compiled.as_text()`), their counts and estimates.

Pure functions on text. Counts include loops: an instruction in a scan over 5 layers counts 5, inside an inner scan of 4
it counts 20. Trip counts are the compiler's `known_trip_count`, or else derived from the loop's counter.
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
    """One array of an instruction's result: its shard on one device."""

    dtype: str  # "bf16", "f32", "s32", ..
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return -(-math.prod(self.shape) * bits(self.dtype) // 8)


def bits(dtype: str) -> int:
    """Return the bits of one element: bf16 16, f8e4m3fn 8, s4 4, c64 64, pred 8."""
    match = re.match(r"[a-z]+(\d+)", dtype)
    return _SPECIAL_BITS.get(dtype, int(match.group(1)) if match else 0)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    type: str  # as written, with layouts
    opcode: str
    operands: tuple[str, ...]  # names in the same computation; for constants and parameters the text in parentheses
    attributes: str  # the rest of the line
    is_root: bool = False

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result; those of a tuple in order."""
        matches = re.findall(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]", self.type)
        return tuple(Array(dtype, tuple(int(n) for n in shape.split(",") if n)) for dtype, shape in matches)

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @cached_property
    def op_name(self) -> str:
        """Its origin in the traced program, e.g. "jit(step)/jvp()/while/body/dot_general"; "" if unknown."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match.group(1) if match else ""

    @cached_property
    def cycles(self) -> int | None:
        """The TPU compiler's estimate for one execution; None if there is none."""
        match = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(match.group(1)) if match else None

    @property
    def kernel(self) -> str | None:
        """The name of a Pallas TPU kernel, without its number: "interval_attention_forward"; else None."""
        is_kernel = self.opcode == "custom-call" and '"tpu_custom_call"' in self.attributes
        return re.sub(r"(\.\d+|\.clone)+$", "", self.name) if is_kernel else None

    def attribute(self, name: str) -> str | None:
        """Return the name of the computation in an attribute such as `calls`, `body` or `to_apply`."""
        match = re.search(rf"\b{name}=\{{?%?([\w.\-]+)", self.attributes)
        return match.group(1) if match else None


Computation = Mapping[str, Instruction]
"""Instructions by name, in the order of the text."""


@dataclass(frozen=True)
class Module:
    """A parsed HLO module: its computations by name, and the name of the entry computation."""

    computations: Mapping[str, Computation]
    entry: str


class Site(NamedTuple):
    """An instruction in the context in which it is executed."""

    instruction: Instruction
    computation: Computation
    times: int  # executions per run of the module
    fusion: Instruction | None  # the fusion or asynchronous operation that contains it
    around: Computation  # the computation that contains the fusion; without a fusion `computation`
    loop: Instruction | None  # the innermost loop around it

    @property
    def op_name(self) -> str:
        """The instruction's `op_name`; if it has none, that of its fusion or loop."""
        candidates = (self.instruction, self.fusion, self.loop)
        return next((op.op_name for op in candidates if op is not None and op.op_name), "")


def parse(text: str) -> Module:
    """Parse a module. Raises ValueError for a text without an ENTRY computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                current = computations[header.group(2)] = {}
                entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):  # the name of its execution thread may follow
            current = None
        elif instruction := _parse_instruction(line):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the HLO text")
    return Module(computations, entry)


def _parse_instruction(line: str) -> Instruction | None:
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    call = rest[end:].lstrip()
    opening = call.index("(")
    closing = _closing(call, opening)
    arguments = call[opening + 1 : closing]
    names = re.findall(r"%([\w.\-]+)", arguments)
    operands = tuple(names) if names else tuple(filter(None, (arguments.strip(),)))
    return Instruction(head.group(2), rest[:end], call[:opening], operands, call[closing + 1 :], bool(head.group(1)))


def _closing(text: str, opening: int) -> int:
    """Return the index of the parenthesis that closes the one at `opening`; the length of the text if none does."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    return len(text)


def executed_sites(module: Module) -> Iterator[Site]:
    """Yield every instruction that a run of the module executes, with its number of executions.

    Instructions inside fusions are included, with the fusion. A loop with an unknown trip count is counted once
    (`unknown_loops` names these), and every branch of a conditional is counted.
    """
    yield from _executed(module, module.entry, 1, None, None, None)


def unknown_loops(module: Module) -> list[str]:
    """Return the names of the executed loops whose trip count is unknown."""
    return [
        site.instruction.name
        for site in executed_sites(module)
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
        for called, count, own_fusion, own_loop in _calls(module, instruction, computation):
            outside = around or (computation if own_fusion else None)
            yield from _executed(module, called, times * count, fusion or own_fusion, outside, own_loop or loop)


def _calls(
    module: Module, instruction: Instruction, computation: Computation
) -> Iterator[tuple[str, int, Instruction | None, Instruction | None]]:
    """Yield the computations that an instruction executes: name, count, and the instruction if a fusion or a loop."""
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


# ---- trip counts of loops ----


def trip_count(module: Module, loop: Instruction, around: Computation) -> int | None:
    """Return the iterations of a `while` in the computation `around`; None if they are unknown.

    The TPU compiler drops `known_trip_count` from its final text. There the count follows from a counter with constant
    start, step and limit.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    condition, body = (module.computations.get(loop.attribute(name) or "") for name in ("condition", "body"))
    if condition is None or body is None:
        return None
    test = _skip_copies(condition, _root(condition))
    direction = re.search(r"direction=(\w+)", test.attributes)
    if test.opcode == "fusion":  # a fusion of the comparison alone
        inner = module.computations[test.attribute("calls") or ""]
        direction = re.search(r"direction=(\w+)", _root(inner).attributes)
    sides = [_skip_copies(condition, condition[name]) for name in test.operands if name in condition]
    if direction is None or direction.group(1) != "LT" or len(sides) != 2:
        return None
    index, stop = _tuple_index(sides[0]), _constant(condition, sides[1])
    if index is None or stop is None:
        return None
    start, step = _initial_value(around, loop, index), _increment(module, body, index)
    return None if start is None or not step else max(0, -(-(stop - start) // step))


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _skip_copies(computation: Computation, instruction: Instruction) -> Instruction:
    while instruction.opcode in ("copy", "bitcast", "convert", "reshape") and instruction.operands[0] in computation:
        instruction = computation[instruction.operands[0]]
    return instruction


def _tuple_index(instruction: Instruction) -> int | None:
    """Return the index of a get-tuple-element; None for other instructions."""
    match = re.search(r"\bindex=(\d+)", instruction.attributes)
    return int(match.group(1)) if instruction.opcode == "get-tuple-element" and match else None


def _constant(computation: Computation, instruction: Instruction) -> int | None:
    """Return the value of an integer constant; None for other instructions."""
    instruction = _skip_copies(computation, instruction)
    if instruction.opcode == "constant" and re.fullmatch(r"-?\d+", "".join(instruction.operands)):
        return int(instruction.operands[0])
    return None


def _initial_value(around: Computation, loop: Instruction, index: int) -> int | None:
    """Return the constant that entry `index` of the loop's state starts from; None if it is not a constant."""
    initial = around[loop.operands[0]]
    if initial.opcode != "tuple":
        return None
    return _constant(around, around[initial.operands[index]])


def _increment(module: Module, body: Computation, index: int) -> int | None:
    """Return the constant that the loop's body adds to its counter; None if it does not add one."""
    root = _root(body)
    if root.opcode != "tuple":
        return None
    update = _skip_copies(body, body[root.operands[index]])
    terms = [body[name] for name in update.operands if name in body]
    constants = [value for term in terms if (value := _constant(body, term)) is not None]
    if update.opcode == "fusion":  # a fusion of the addition alone; its constant may be inside
        inner = module.computations[update.attribute("calls") or ""]
        constants += [value for term in inner.values() if (value := _constant(inner, term)) is not None]
        update = _root(inner)
    return constants[0] if update.opcode == "add" and len(constants) == 1 else None
