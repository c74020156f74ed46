"""What a compiled program does, operation by operation: FLOPs, bytes, cycles, and how often.

Loops count as often as they run; one whose length is known only when it runs counts once, and is named. The cycles are
the TPU compiler's own estimate of each fusion: right for matrix products, too high for vector operations in bfloat16,
absent for collectives, hand-written kernels and other platforms. Of kernels there is what they say of themselves.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from mmjax.plan import hlo
from mmjax.plan.collectives import kind_of, sent_bytes
from mmjax.plan.hlo import Computation, Instruction
from mmjax.plan.products import passes, product_flops
from mmjax.plan.traffic import moved_bytes

KERNEL = re.compile(r'"cost_estimate":\{"flops":"(\d+)".*?"bytes_accessed":"(\d+)"')


class Collective(NamedTuple):
    """A collective as it stands in the program: how often it runs, and what a device sends each time."""

    operation: str
    repeats: int
    sent_bytes: int


class KernelCost(NamedTuple):
    """What hand-written kernels compute and move, by the estimate that they came with."""

    flops: int
    num_bytes: int


class Operation(NamedTuple):
    """An instruction that runs as one, with what one run of it takes."""

    computation: Computation
    instruction: Instruction
    repeats: int
    flops: int
    """Of matrix products."""
    passes: int
    """Of the matrix unit for each product: 1 in bfloat16, 6 for exact products of float32."""
    num_bytes: int
    """To and from the main memory."""
    cycles: int | None
    """By the compiler's estimate, where it has one."""
    is_kernel: bool


@dataclass(frozen=True)
class Program:
    """A compiled program, of one device."""

    text: str

    @functools.cached_property
    def module(self) -> hlo.Module:
        return hlo.parse(self.text)

    @functools.cached_property
    def operations(self) -> list[Operation]:
        """All that runs, in order; loops and branches as what is in them."""
        return [self._operation(*found) for found in self._run(self.module.entry, 1)]

    @functools.cached_property
    def collectives(self) -> list[Collective]:
        return [
            Collective(kind_of(instruction) or "", repeats, sent_bytes(instruction))
            for repeats, instruction, _ in self.communications
        ]

    @functools.cached_property
    def communications(self) -> list[tuple[int, Instruction, bool]]:
        """The collectives as instructions: how often each runs, and whether others run meanwhile.

        One that a TPU runs piece by piece within other fusions stands in each of these; it counts in the first.
        """
        found, chained = [], set()
        for computation, repeats, instruction in self._run(self.module.entry, 1):
            inner = [instruction]
            if instruction.operation in ("fusion", "async-start"):
                inner = [part for called in self.module.called(instruction) for part in called.instructions]
            for part in inner:
                if kind_of(part) is None:
                    continue
                chain = part.attribute(r'chain_id="(\d+)"') and (computation.name, part.attribute(r"channel_id=(\d+)"))
                if chain in chained:
                    continue
                if chain:
                    chained.add(chain)
                overlapped = part is not instruction or part.operation.endswith(("-start", "send"))
                found.append((repeats, part, overlapped))
        return found

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
        kernels = [operation for operation in self.operations if operation.is_kernel]
        return KernelCost(
            sum(operation.repeats * operation.flops for operation in kernels),
            sum(operation.repeats * operation.num_bytes for operation in kernels),
        )

    @property
    def estimated_cycles(self) -> int | None:
        """The compiler's estimates added up, or None where it gives none."""
        found = [operation.repeats * operation.cycles for operation in self.operations if operation.cycles is not None]
        return sum(found) if found else None

    @functools.cached_property
    def unknown_loops(self) -> list[Instruction]:
        """Loops whose length is known only when they run."""
        return [
            instruction
            for computation in self.module.computations.values()
            for instruction in computation.instructions
            if instruction.operation == "while" and self.trip_count(instruction) is None
        ]

    def _run(self, computation: Computation, repeats: int) -> Iterator[tuple[Computation, int, Instruction]]:
        for instruction in computation.instructions:
            yield computation, repeats, instruction
            if instruction.operation in ("fusion", "custom-call", "async-start"):
                continue
            times = (self.trip_count(instruction) or 1) if instruction.operation == "while" else 1
            for called in self.module.called(instruction):
                yield from self._run(called, repeats * times)

    def trip_count(self, loop: Instruction) -> int | None:
        """From the annotation, or else from the constant in the condition, which loops of a fixed length compare with;
        None where there is no such constant."""
        known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if known:
            return int(known)
        condition = loop.attribute(r"condition=%?([\w.\-]+)")
        instructions = self.module.computations[condition].instructions if condition else []
        constants = [i.rest.split(")")[0] for i in instructions if i.operation == "constant"]
        bounds = [int(value) for value in constants if re.fullmatch(r"\d+", value)]
        return max(bounds) if bounds else None

    def _operation(self, computation: Computation, repeats: int, instruction: Instruction) -> Operation:
        cycles = instruction.attribute(r'"estimated_cycles":"(\d+)"')
        kernel = KERNEL.search(instruction.rest) if instruction.operation == "custom-call" else None
        if kernel:
            flops, num_bytes, times = int(kernel[1]), int(kernel[2]), 1
        else:
            flops = product_flops(self.module, computation, instruction)
            num_bytes = moved_bytes(self.module, computation, instruction)
            times = passes(self.module, computation, instruction) if flops else 1
        return Operation(
            computation, instruction, repeats, flops, times, num_bytes, int(cycles) if cycles else None, bool(kernel)
        )
