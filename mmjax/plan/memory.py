"""What the memory of a device holds when it holds most, read from the order in which a compiled program runs.

The compiler says how much that is at its peak, and no more. Which arrays these are follows from the program: it is
written in the order in which it runs, so each array is there from the instruction that makes it to the last one that
reads it. The sum comes close to the compiler's own; what it leaves out is what the compiler packs and pads.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mmjax.plan.hlo import Array, Computation, Instruction, Module
from mmjax.plan.places import place_of


class Buffer(NamedTuple):
    """An array in memory."""

    num_bytes: int
    array: Array
    op_name: str
    name: str


class Peak(NamedTuple):
    num_bytes: int
    buffers: list[Buffer]
    """The largest first."""


Held = list[Buffer | None]
"""The buffer of each array of an instruction's shape; None where that is not in the main memory."""


def peak(module: Module) -> Peak:
    """What is held at the fullest moment of a program, its arguments included."""
    found = _Walk(module).fullest(module.entry, None)
    return Peak(sum(buffer.num_bytes for buffer in found), sorted(found, key=lambda buffer: -buffer.num_bytes))


class _Walk:
    """One walk through a program; results of computations are kept, as loops call them once each."""

    def __init__(self, module: Module):
        self.module = module

    def fullest(self, computation: Computation, owned: Held | None) -> list[Buffer]:
        """The buffers that are live at the fullest moment, without `owned`, those of its caller's arguments."""
        held = self._held(computation, owned)
        born, ends = self._lives(computation, held, owned)
        live: dict[int, Buffer] = {}
        best: list[Buffer] = []
        size = most = 0
        freed: dict[int, list[int]] = defaultdict(list)
        for buffer_id, end in ends.items():
            freed[end].append(buffer_id)
        for place, instruction in enumerate(computation.instructions):
            for buffer in born.get(place, []):
                live[id(buffer)] = buffer
                size += buffer.num_bytes
            inner = self._inside(instruction, held)
            total = size + sum(buffer.num_bytes for buffer in inner)
            if total > most:
                most, best = total, [*live.values(), *inner]
            for buffer_id in freed[place]:
                size -= live.pop(buffer_id).num_bytes
        return best

    def _lives(
        self, computation: Computation, held: dict[str, Held], owned: Held | None
    ) -> tuple[dict[int, list[Buffer]], dict[int, int]]:
        """Which buffers begin at each place, and the place of each one's last reader, by its identity.

        Arguments of the whole program are there from its beginning to its end, and results that take their memory are
        none of their own.
        """
        last, end = self._last_uses(computation), len(computation.instructions)
        elsewhere = {id(buffer) for buffer in owned or [] if buffer}
        born: dict[int, list[Buffer]] = defaultdict(list)
        ends: dict[int, int] = {}
        if owned is None:
            arguments = [buffer for one in computation.parameters for buffer in held[one.name] if buffer]
            born[0] = arguments
            ends = {id(buffer): end for buffer in arguments}
            results = held[computation.root.name]
            elsewhere = {id(results[number]) for number in self.module.given_up if number < len(results)} - set(ends)
        for place, instruction in enumerate(computation.instructions):
            for buffer in held[instruction.name]:
                if buffer is None or id(buffer) in elsewhere:
                    continue
                if id(buffer) not in ends:
                    born[place].append(buffer)
                ends[id(buffer)] = max(ends.get(id(buffer), place), last[instruction.name])
        return born, ends

    def _inside(self, instruction: Instruction, held: dict[str, Held]) -> list[Buffer]:
        """What the fullest moment of a loop or a branch adds."""
        if instruction.operation not in ("while", "conditional", "call"):
            return []
        options = []
        for called in self.module.called(instruction):
            owned = [buffer for operand in instruction.operands for buffer in held.get(operand, [])]
            options.append(self.fullest(called, owned))
        return max(options, key=lambda buffers: sum(b.num_bytes for b in buffers), default=[])

    def _held(self, computation: Computation, owned: Held | None) -> dict[str, Held]:
        held: dict[str, Held] = {}
        position = 0
        for instruction in computation.instructions:
            if instruction.operation == "parameter" and owned is not None:
                count = len(instruction.arrays)
                held[instruction.name] = _padded(owned[position : position + count], count)
                position += count
                continue
            held[instruction.name] = self._of(instruction, held)
        return held

    def _of(self, instruction: Instruction, held: dict[str, Held]) -> Held:
        operands = [held.get(name, []) for name in instruction.operands]
        match instruction.operation:
            case "tuple":
                return [buffer for operand in operands for buffer in operand]
            case "get-tuple-element":
                return self._element(instruction, operands)
            case "bitcast" | "optimization-barrier" | "while":
                return _padded(operands[0], len(instruction.arrays))
            case "constant" | "after-all" | "partition-id" | "replica-id":
                return [None] * len(instruction.arrays)
        new = [_new(array, instruction) for array in instruction.arrays]
        if instruction.operation.endswith("-done"):
            return _padded(operands[0][-1:] if len(operands[0]) < 2 else [operands[0][1]], len(new))
        if instruction.operation in ("copy-start", "slice-start", "all-gather-start", "collective-permute-start"):
            # The first array of the shape is the operand.
            return [operands[0][0] if operands[0] else None, *new[1:2], *[None] * (len(new) - 2)]
        for result, (operand, part) in _in_place(instruction, len(operands)).items():
            source = operands[operand]
            # Where somebody still reads what was there, the compiler has copied it before.
            if result < len(new) and part < len(source) and source[part] is not None:
                new[result] = source[part]
        return new

    def _element(self, instruction: Instruction, operands: list[Held]) -> Held:
        index = int(instruction.attribute(r"index=(\d+)") or 0)
        source = operands[0] if operands else []
        return [source[index]] if index < len(source) else [None] * len(instruction.arrays)

    @staticmethod
    def _last_uses(computation: Computation) -> dict[str, int]:
        """The place of the last instruction that reads each; of the root, the end."""
        last = {instruction.name: place for place, instruction in enumerate(computation.instructions)}
        for place, instruction in enumerate(computation.instructions):
            for operand in instruction.operands:
                if operand in last:
                    last[operand] = max(last[operand], place)
        last[computation.root.name] = len(computation.instructions)
        return last


def _new(array: Array, instruction: Instruction) -> Buffer | None:
    if array.is_fast or array.dtype == "token":
        return None
    return Buffer(array.stored_bytes, array, instruction.op_name, instruction.name)


def _padded(buffers: Iterable[Buffer | None], count: int) -> Held:
    found = list(buffers)[:count]
    return found + [None] * (count - len(found))


def _in_place(instruction: Instruction, num_operands: int) -> dict[int, tuple[int, int]]:
    """Results that take the memory of an operand: {result: (operand, its part)}."""
    found: dict[int, tuple[int, int]] = {}
    if instruction.operation == "dynamic-update-slice":
        found[0] = (0, 0)
    written = instruction.attribute(r"output_to_operand_aliasing=\{(.*?\))\}") or ""
    for result, operand, part in re.findall(r"\{(\d*)\}: \((\d+), \{(\d*)\}", written):
        found[int(result or 0)] = (int(operand), int(part or 0))
    for pair in re.findall(r'"indices":\["(\d+)","(\d+)"\]', instruction.rest):
        operand, result = int(pair[0]), int(pair[1]) - num_operands
        if operand < num_operands and result >= 0:
            found[result] = (operand, 0)
    return found


def category(buffer: Buffer, parameter_shapes: set[tuple[int, ...]]) -> str:
    """What a buffer is for, in the words of a training step."""
    place = place_of(buffer.op_name)
    for start, name in (("state/params", "parameters"), ("state/opt_state", "optimizer state"), ("batch/", "batch")):
        if place.path.startswith(start):
            return name
    if place.path.startswith("state/"):
        return "averages and queues"
    if place.path.split("/")[0] == "loss":
        return "loss"
    if place.path.split("/")[0] == "optimizer":
        return "update"
    if place.computed_in == "backward" and buffer.array.dims in parameter_shapes:
        return "gradients"
    return "saved activations" if place.computed_in == "forward" else "working memory of the backward pass"
