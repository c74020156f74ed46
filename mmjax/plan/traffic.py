"""Bytes that an instruction of a compiled program moves to and from the main memory of its device."""

import math

from mmjax.plan.hlo import Array, Computation, Instruction, Module

FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id")
) | {"iota", "while", "conditional", "call"}
"""They move nothing themselves: names for what is there, and what runs others."""
VIEWS = ("bitcast", "copy", "convert", "reshape", "transpose")
"""What may stand between a parameter of a fusion and the slice that is taken of it."""
SLICES = ("dynamic-slice", "slice", "gather")


def moved_bytes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Operands read once and results written once. Of an array that is sliced, the slice counts; of one that is
    updated in its place, the update; what lies in the fast memory of the chip counts nothing."""
    operation = instruction.operation
    if operation in FREE or operation.endswith("-done"):
        return 0
    if operation in ("copy-start", "slice-start"):
        # One side is the fast memory; the other is read or written once.
        return min(array.num_bytes for array in instruction.arrays[:2])
    if operation == "fusion":
        return sum(_fusion_bytes(module, computation, instruction, inner) for inner in module.called(instruction))
    return _plain_bytes(computation, instruction)


def _plain_bytes(computation: Computation, instruction: Instruction) -> int:
    operands = [computation.by_name[name] for name in instruction.operands if name in computation.by_name]
    results = _main(instruction.arrays)
    if instruction.operation in SLICES:
        return 2 * results
    if instruction.operation == "dynamic-update-slice":
        return 2 * _main(operands[1].arrays)
    if instruction.operation == "broadcast":
        return results
    return results + sum(_main(operand.arrays) for operand in operands)


def _fusion_bytes(module: Module, computation: Computation, instruction: Instruction, inner: Computation) -> int:
    operands = [computation.by_name[name] for name in instruction.operands]
    read = sum(
        min(_main(operand.arrays), _read_of(inner, parameter, _main(operand.arrays), module))
        for operand, parameter in zip(operands, inner.parameters, strict=False)
    )
    parts = instruction.arrays
    roots = [inner.by_name[name] for name in inner.root.operands] if inner.root.operation == "tuple" else [inner.root]
    written = sum(
        min(_main([array]), _written_by(inner, root, _main([array]))) for array, root in zip(parts, roots, strict=False)
    )
    return read + written


def _read_of(inner: Computation, parameter: Instruction, whole: int, module: Module) -> int:
    """Bytes of a fusion's parameter that are looked at."""
    if not whole:
        return 0
    total = 0
    for user in inner.users[parameter.name]:
        if user.operation in SLICES and user.operands[0] == parameter.name:
            total += _share(parameter, user.arrays, whole)
        elif user.operation == "dynamic-update-slice" and user.operands[0] == parameter.name:
            continue
        elif user.operation in VIEWS:
            total += _read_of(inner, user, whole, module)
        elif user.operation == "fusion":
            places = [place for place, name in enumerate(user.operands) if name == parameter.name]
            for called in module.called(user):
                total += sum(_read_of(called, called.parameters[place], whole, module) for place in places)
        else:
            return whole
    return min(total, whole)


def _share(parameter: Instruction, taken: list[Array], whole: int) -> int:
    elements = math.prod(parameter.arrays[0].dims) or 1
    return whole * math.prod(taken[0].dims) // elements


def _written_by(inner: Computation, root: Instruction, whole: int) -> int:
    """Bytes that a result of a fusion is written with: of an update in place, those of the update."""
    while root.operation in ("bitcast", "convert", "copy") and root.operands[0] in inner.by_name:
        root = inner.by_name[root.operands[0]]
    if root.operation != "dynamic-update-slice":
        return whole
    return _share(root, inner.by_name[root.operands[1]].arrays, whole)


def _main(arrays: list[Array]) -> int:
    """Bytes in the main memory."""
    return sum(array.num_bytes for array in arrays if not array.is_fast)
