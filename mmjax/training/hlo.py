"""What a compiled program does, read from its HLO text: collectives, the bytes a device sends, estimated cycles.

Loops count as often as they run. The cycles are the TPU compiler's own estimate of each fusion: right for matrix
products, too high for vector operations in bfloat16, absent for collectives, hand-written kernels and other platforms.
Of kernels there is what they say of themselves.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
TYPE_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
"""Bytes of an element; of all other types, 4."""

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
CALLED = re.compile(r"(?:body|calls|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    name: str
    shape: str
    operation: str
    rest: str


class Collective(NamedTuple):
    """A collective as it stands in the program: how often it runs, and what a device sends each time."""

    operation: str
    repeats: int
    sent_bytes: int


class KernelCost(NamedTuple):
    """What hand-written kernels compute and move, by the estimate that they came with."""

    flops: int
    num_bytes: int


@dataclass(frozen=True)
class Program:
    """A compiled program, of one device."""

    text: str

    @functools.cached_property
    def collectives(self) -> list[Collective]:
        return [
            Collective(_plain(instruction.operation), repeats, _sent_bytes(instruction))
            for repeats, instruction in self._run(self._entry, 1)
            if _plain(instruction.operation) in COLLECTIVES
        ]

    @property
    def collective_counts(self) -> dict[str, int]:
        """How often each collective stands in the program, loops counted once."""
        return dict(Counter(collective.operation for collective in self.collectives))

    @property
    def sent_bytes(self) -> int:
        """All bytes that a device sends."""
        return sum(collective.repeats * collective.sent_bytes for collective in self.collectives)

    @property
    def kernel_cost(self) -> KernelCost:
        """Of all kernels together; 0 where there are none."""
        estimates = [
            (repeats, re.search(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"', instruction.rest))
            for repeats, instruction in self._run(self._entry, 1)
        ]
        found = [(repeats, match) for repeats, match in estimates if match]
        return KernelCost(*(sum(repeats * int(match[group]) for repeats, match in found) for group in (1, 2)))

    @property
    def estimated_cycles(self) -> int | None:
        """The compiler's estimates added up, or None where it gives none."""
        found = [
            repeats * int(match[1])
            for repeats, instruction in self._run(self._entry, 1)
            if (match := re.search(r'"estimated_cycles":"(\d+)"', instruction.rest))
        ]
        return sum(found) if found else None

    def _run(self, computation: str, repeats: int) -> Iterator[tuple[int, Instruction]]:
        """All instructions that run, with how often."""
        for instruction in self._computations[computation]:
            yield repeats, instruction
            times = self._trip_count(instruction) if instruction.operation == "while" else 1
            for called in _called(instruction):
                yield from self._run(called, repeats * times)

    def _trip_count(self, loop: Instruction) -> int:
        """From the annotation, or else from the constant in the condition, which loops of a fixed length compare with.

        Raises:
            ValueError: the condition has no such constant, so that the length is not known.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
        if known:
            return int(known[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        instructions = self._computations[condition[1]] if condition else []
        constants = [i.rest.split(")")[0] for i in instructions if i.operation == "constant"]
        bounds = [int(value) for value in constants if re.fullmatch(r"\d+", value)]
        if not bounds:
            raise ValueError(f"the length of loop {loop.name} is not in its condition")
        return max(bounds)

    @functools.cached_property
    def _computations(self) -> dict[str, list[Instruction]]:
        return self._parsed[0]

    @property
    def _entry(self) -> str:
        return self._parsed[1]

    @functools.cached_property
    def _parsed(self) -> tuple[dict[str, list[Instruction]], str]:
        computations: dict[str, list[Instruction]] = {}
        entry = current = ""
        for line in self.text.splitlines():
            if start := COMPUTATION.match(line):
                current = start[2]
                computations[current] = []
                entry = current if start[1] else entry
            elif found := INSTRUCTION.match(line):
                computations[current].append(Instruction(*found.groups()))
        return computations, entry


def _plain(operation: str) -> str:
    """The name of a collective, also where it is split into a start and an end, of which the start counts."""
    return operation.removesuffix("-start")


def _called(instruction: Instruction) -> list[str]:
    """Computations that an instruction runs; those applied to elements (`to_apply`) are part of it."""
    branches = BRANCHES.search(instruction.rest)
    names = re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
    return names + CALLED.findall(instruction.rest)


def _sent_bytes(instruction: Instruction) -> int:
    """What a device sends in the usual algorithm, a ring, of a group of n devices."""
    arrays, n = _array_bytes(instruction.shape), _group_size(instruction.rest)
    # The start of these has operand and result in its shape, and what it synchronises by.
    starts = instruction.operation in ("collective-permute-start", "all-gather-start")
    result = arrays[1] if starts else sum(arrays)
    match _plain(instruction.operation):
        case "collective-permute":
            return result
        case "all-gather" | "all-to-all":
            return result * (n - 1) // n
        case "reduce-scatter":
            return result * (n - 1)
        case _:
            return 2 * result * (n - 1) // n


def _group_size(rest: str) -> int:
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(listed[1].split(","))
    if written := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(written[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", named[2]))
    return 1


def _array_bytes(shape: str) -> list[int]:
    """Bytes of each array of `f32[8,16]{1,0}` or of a tuple."""
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", shape)
    return [TYPE_BYTES.get(kind, 4) * math.prod(int(d) for d in dims.split(",") if d) for kind, dims in arrays]
