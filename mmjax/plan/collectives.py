"""What collectives of a compiled program send, over which axes of the mesh, and how long the links take for it."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.parallel.chips import Chip
from mmjax.parallel.mesh import slice_of
from mmjax.plan.hlo import Instruction
from mmjax.plan.places import Place, place_of

BETWEEN_SLICES = r'_xla_megascale_transfer_type="(\w+)"'
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
"""Numbers counted up in an array of these sizes, whose axes are then put in this order."""
COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=" + IOTA)
NAMED = re.compile(
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\[[\d,]+\](?:T\([\d,]+\))?|[\d,]+)\))? \{([^}]*)\}"
)


class Communication(NamedTuple):
    """A collective as it stands in the program."""

    operation: str
    repeats: int
    array_bytes: int
    """Of what it gives, each time."""
    sent_bytes: int
    """By a device, each time, in the usual algorithm: a ring."""
    axes: tuple[str, ...]
    """Those of the mesh along which the devices of a group differ."""
    direction: str
    """Of a permute: by how much its devices differ along those axes; "" of the others."""
    overlapped: bool
    """Whether the program goes on while it runs."""
    secs: float | None
    """At the speed of the links; None where that is not known."""
    place: Place


def kind_of(instruction: Instruction) -> str | None:
    """Which collective an instruction is or starts, or None.

    Between slices a TPU has the host send: what stands in the program is a `send` that names the collective.
    """
    if instruction.operation == "send":
        between = instruction.attribute(BETWEEN_SLICES)
        return None if between is None else between.lower().replace("_", "-")
    name = plain(instruction.operation)
    return name if name in COLLECTIVES else None


def plain(operation: str) -> str:
    """The name of a collective, also where it is split into a start and an end, of which the start counts."""
    return operation.removesuffix("-start")


def sent_bytes(instruction: Instruction) -> int:
    """What a device sends in the usual algorithm, a ring, of a group of n devices."""
    result, n = array_bytes(instruction), max(len(group) for group in groups_of(instruction, 1))
    if instruction.operation == "send":
        # Its array is what a device has itself.
        return 2 * result * (n - 1) // n if kind_of(instruction) == "all-reduce" else result * (n - 1)
    match plain(instruction.operation):
        case "collective-permute":
            return result
        case "all-gather" | "all-to-all":
            return result * (n - 1) // n
        case "reduce-scatter":
            return result * (n - 1)
        case _:
            return 2 * result * (n - 1) // n


def array_bytes(instruction: Instruction) -> int:
    """Bytes of what a collective gives to a device."""
    arrays = [array.num_bytes for array in instruction.arrays]
    if instruction.operation == "send":
        return arrays[0]
    # The start of these has operand and result in its shape, and what it synchronises by.
    starts = instruction.operation in ("collective-permute-start", "all-gather-start")
    return arrays[len(instruction.operands)] if starts and len(arrays) > 1 else sum(arrays)


def groups_of(instruction: Instruction, num_devices: int) -> list[list[int]]:
    """The devices of each group, as places in the mesh; of a permute, the pairs of source and target."""
    rest = instruction.rest
    if slices := re.search(r'_xla_megascale_target="\{([\d,]+)\}x', rest):
        # One device of each slice; the mesh has slice after slice.
        count = len(slices[1].split(","))
        each = max(num_devices // count, 1)
        return [[place + number * each for number in range(count)] for place in range(each)]
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        return [[int(d) for d in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}", rest):
        return [[int(d) for d in group.split(",") if d] for group in re.findall(r"\{([\d,]*)\}", listed[1])]
    if counted := COUNTED.search(rest):
        return _counted(counted[2], counted[3]).reshape(_numbers(counted[1])).tolist()
    if named := NAMED.search(rest):
        return _named_groups(*named.groups())
    return [list(range(num_devices))]


def _named_groups(mesh: str, device_ids: str | None, axes: str) -> list[list[int]]:
    """Groups along some axes of a mesh that the compiler has named itself."""
    names, sizes = zip(*((name, int(size)) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)), strict=True)
    ids = np.arange(math.prod(sizes))
    if device_ids:
        iota = re.fullmatch(IOTA, device_ids)
        ids = _counted(*iota.groups()) if iota else np.asarray(_numbers(device_ids))
    moved = [names.index(name) for name in re.findall(r"'(\w+)'", axes)]
    places = np.moveaxis(ids.reshape(sizes), moved, range(-len(moved), 0))
    return places.reshape(-1, math.prod(sizes[axis] for axis in moved)).tolist()


def _counted(sizes: str, order: str | None) -> np.ndarray:
    """The array that `IOTA` stands for, flat."""
    shape = _numbers(sizes)
    axes = _numbers(order) if order else range(len(shape))
    return np.arange(math.prod(shape)).reshape(shape).transpose(*axes).reshape(-1)


def axes_of(groups: Sequence[Sequence[int]], shape: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which devices of one group differ."""
    sizes = tuple(shape.values())
    places = [np.asarray(np.unravel_index(group, sizes)) for group in groups if len(group) > 1]
    return tuple(name for axis, name in enumerate(shape) if any(np.ptp(place[axis]) for place in places))


def direction_of(instruction: Instruction, groups: Sequence[Sequence[int]], shape: Mapping[str, int]) -> str:
    """Of a permute, the step that most of its pairs take, such as `data+1`; around the ring counts as the short way."""
    if plain(instruction.operation) != "collective-permute":
        return ""
    steps = [_step(pair, shape) for pair in groups if pair[0] != pair[1]]
    return max(set(steps), key=steps.count) if steps else ""


def _step(pair: Sequence[int], shape: Mapping[str, int]) -> str:
    sizes = tuple(shape.values())
    source, target = (np.unravel_index(place, sizes) for place in pair)
    parts = []
    for name, size, start, end in zip(shape, sizes, source, target, strict=True):
        distance = (int(end) - int(start) + size // 2) % size - size // 2 if size > 2 else int(end) - int(start)
        if distance:
            parts.append(f"{name}{distance:+d}")
    return " ".join(parts)


def link_secs(sent: int, group: Sequence[int], devices: Sequence[Any], chip: Chip | None) -> float | None:
    """How long a device takes to send so many bytes within its group.

    Along each dimension of the slice in which the devices of the group differ there are two links, one each way; a
    group of several slices, or nodes, is as slow as the network between them.
    """
    if chip is None or not chip.link_bytes_per_sec:
        return None
    members = [devices[place] for place in group]
    if len({_network_of(device) for device in members}) > 1:
        return sent / chip.network_bytes_per_sec
    coords = [tuple(device.coords) for device in members if getattr(device, "coords", None) is not None]
    if not coords:
        return sent / (chip.link_bytes_per_sec * chip.links)
    dimensions = sum(len(set(values)) > 1 for values in zip(*coords, strict=True))
    return sent / (chip.link_bytes_per_sec * 2 * max(dimensions, 1))


def _network_of(device: Any) -> Any:
    """The slice, or the node of a GPU, whose devices are joined by links."""
    return device.process_index if getattr(device, "platform", "") in ("gpu", "cuda") else slice_of(device)


def described(instruction: Instruction, repeats: int, overlapped: bool, mesh: Any, chip: Chip | None) -> Communication:
    """A collective of a program for the devices of `mesh`."""
    devices, shape = list(mesh.devices.flat), dict(mesh.shape)
    groups, sent = groups_of(instruction, len(devices)), sent_bytes(instruction)
    largest = max(groups, key=len) if plain(instruction.operation) != "collective-permute" else _farthest(groups)
    return Communication(
        kind_of(instruction) or instruction.operation,
        repeats,
        array_bytes(instruction),
        sent,
        axes_of(groups, shape),
        direction_of(instruction, groups, shape),
        overlapped,
        link_secs(sent, largest, devices, chip),
        place_of(instruction.op_name),
    )


def _farthest(pairs: Sequence[Sequence[int]]) -> Sequence[int]:
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def summed(communications: Sequence[Communication]) -> list[Communication]:
    """Those that are alike as one: how often they run in all, and the bytes and seconds of all, the most first."""

    def alike(one: Communication) -> tuple[Any, ...]:
        return one.operation, one.axes, one.direction, one.overlapped

    found = []
    for _, group in itertools.groupby(sorted(communications, key=alike), key=alike):
        parts = list(group)
        times = sum(part.repeats for part in parts)
        totals = [sum(part.repeats * value(part) for part in parts) for value in (_array, _sent)]
        secs = None if parts[0].secs is None else sum(part.repeats * (part.secs or 0.0) for part in parts)
        most = max(parts, key=lambda part: part.repeats * part.sent_bytes)
        found.append(most._replace(repeats=times, array_bytes=totals[0], sent_bytes=totals[1], secs=secs))
    return sorted(found, key=lambda one: -one.sent_bytes)


def _array(one: Communication) -> int:
    return one.array_bytes


def _sent(one: Communication) -> int:
    return one.sent_bytes


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
