"""A compiled program, read from its HLO text: computations, instructions, arrays. What they cost is said elsewhere."""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

TYPE_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "bf16": 16, "f16": 16, "s16": 16, "u16": 16}
TYPE_BITS |= {"s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128, "token": 0}
"""Bits of an element; of all other types 32, but for the 8-bit floats."""

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
ARRAY = re.compile(r"([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:body|calls|true_computation|false_computation)=%?([\w.\-]+)")
APPLIED = re.compile(r"to_apply=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Array(NamedTuple):
    """One array of a shape, as it lies in memory."""

    dtype: str
    dims: tuple[int, ...]
    layout: str = ""
    """What stands in braces: the order of dimensions, tiles, the memory space."""

    @property
    def num_bytes(self) -> int:
        """Of its elements."""
        return math.prod(self.dims) * _bits(self.dtype) // 8

    @property
    def stored_bytes(self) -> int:
        """With what its tiles add: a tile is always whole."""
        tile = re.search(r":T\(([\d,]+)\)", self.layout)
        order = re.match(r"[\d,]*", self.layout)
        if tile is None or order is None or not self.dims:
            return self.num_bytes
        minor_first = [int(d) for d in order[0].split(",") if d]
        dims = [self.dims[d] for d in minor_first] or list(self.dims)
        for place, size in enumerate(reversed([int(d) for d in tile[1].split(",")])):
            if place < len(dims):
                dims[place] = -(-dims[place] // size) * size
        return math.prod(dims) * _bits(self.dtype) // 8

    @property
    def is_fast(self) -> bool:
        """Whether it lies in a memory that is not the main one."""
        return "S(" in self.layout and "S(0)" not in self.layout


class Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    rest: str
    """What stands behind the opening parenthesis: operands and attributes."""
    is_root: bool = False

    @property
    def arrays(self) -> list[Array]:
        """What it gives: one array, or those of a tuple in their order."""
        return arrays_of(self.shape)

    @property
    def operands(self) -> list[str]:
        """Names of the instructions that it reads."""
        return NAME.findall(self.rest[: _closing(self.rest)])

    @property
    def called(self) -> list[str]:
        """Computations that it runs; those applied to elements (`to_apply`) are part of it, but for a call's."""
        branches = BRANCHES.search(self.rest)
        names = NAME.findall(branches[1]) if branches else []
        applied = APPLIED.findall(self.rest) if self.operation == "call" else []
        return names + CALLED.findall(self.rest) + applied

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from: scopes and a primitive, divided by slashes."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found[1] if found else ""

    def attribute(self, pattern: str) -> str | None:
        """The first group of `pattern` in what it says of itself."""
        found = re.search(pattern, self.rest)
        return found[1] if found else None


@dataclass(frozen=True)
class Computation:
    """Instructions in the order in which they run."""

    name: str
    instructions: list[Instruction] = field(default_factory=list)

    @functools.cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    @functools.cached_property
    def root(self) -> Instruction:
        return next((i for i in self.instructions if i.is_root), self.instructions[-1])

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """By their numbers."""
        found = [i for i in self.instructions if i.operation == "parameter"]
        return sorted(found, key=lambda i: int(i.rest.split(")")[0]))

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        found: dict[str, list[Instruction]] = {instruction.name: [] for instruction in self.instructions}
        for instruction in self.instructions:
            for operand in dict.fromkeys(instruction.operands):
                found.setdefault(operand, []).append(instruction)
        return found


@dataclass(frozen=True)
class Module:
    """A program of one device."""

    computations: dict[str, Computation]
    entry: Computation
    given_up: dict[int, int]
    """Results that take the memory of an argument: {number of the result: number of the argument}."""

    def called(self, instruction: Instruction) -> Iterator[Computation]:
        return (self.computations[name] for name in instruction.called if name in self.computations)


def parse(text: str) -> Module:
    """The module of `Compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry = current = Computation("")
    for line in text.splitlines():
        if start := COMPUTATION.match(line):
            current = computations[start[2]] = Computation(start[2])
            entry = current if start[1] else entry
        elif found := INSTRUCTION.match(line):
            root, name, shape, operation, rest = found.groups()
            current.instructions.append(Instruction(name, shape, operation, rest, root is not None))
    pairs = re.findall(r"\{(\d*)\}: \((\d+), \{\}", text.partition("\n")[0])
    return Module(computations, entry, {int(result or 0): int(argument) for result, argument in pairs})


def arrays_of(shape: str) -> list[Array]:
    """The arrays of `f32[8,16]{1,0:T(8,128)}`, or of a tuple of such."""
    found = ARRAY.findall(shape)
    return [Array(kind, tuple(int(d) for d in dims.split(",") if d), layout) for kind, dims, layout in found]


def _bits(dtype: str) -> int:
    return TYPE_BITS.get(dtype, 8 if dtype.startswith("f8") else 32)


def _closing(text: str) -> int:
    """Where the parenthesis that stands open in front of `text` is closed."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place
    return len(text)
