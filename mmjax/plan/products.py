"""FLOPs of the matrix products and convolutions of a compiled program, at two a multiply-add."""

import math
import re

import numpy as np

from mmjax.plan.hlo import Array, Computation, Instruction, Module

PRODUCTS = ("dot", "convolution")


def product_flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """What an instruction multiplies and adds, itself or in the fusion that it runs."""
    if instruction.operation == "dot":
        return _dot_flops(computation, instruction)
    if instruction.operation == "convolution":
        return _convolution_flops(computation, instruction)
    if instruction.operation == "custom-call":
        return _library_flops(computation, instruction)
    if instruction.operation != "fusion":
        return 0
    parts = ((inner, part) for inner in module.called(instruction) for part in inner.instructions)
    return sum(product_flops(module, *part) for part in parts)


def passes(module: Module, computation: Computation, instruction: Instruction) -> int:
    """How often a matrix unit of bfloat16 computes it: an exact product of float32 takes six passes, one of high
    precision three."""
    if instruction.operation in PRODUCTS:
        wide = any(array.dtype == "f32" for array in _operand_arrays(computation, instruction)[:2])
        if not wide:
            return 1
        return 6 if "highest" in instruction.rest else 3 if "operand_precision={high" in instruction.rest else 1
    inner = [passes(module, c, part) for c in module.called(instruction) for part in c.instructions] or [1]
    return max(inner) if instruction.operation == "fusion" else 1


def _library_flops(computation: Computation, instruction: Instruction) -> int:
    """Of a product that a library computes, such as cuBLAS, which says what it sums over."""
    contracted = instruction.attribute(r'"lhs_contracting_dimensions":\["(\d+)"\]')
    if contracted is None:
        return 0
    lhs = _operand_arrays(computation, instruction)[0]
    return 2 * math.prod(instruction.arrays[0].dims) * lhs.dims[int(contracted)]


def _dot_flops(computation: Computation, instruction: Instruction) -> int:
    lhs = _operand_arrays(computation, instruction)[0]
    contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    summed = math.prod(lhs.dims[int(d)] for d in contracted.split(",") if d)
    return 2 * math.prod(instruction.arrays[0].dims) * summed


def _convolution_flops(computation: Computation, instruction: Instruction) -> int:
    """Taps that meet padding or the holes of a dilation are not counted: a TPU writes batched products so."""
    lhs, kernel = _operand_arrays(computation, instruction)[:2]
    labels = instruction.attribute(r"dim_labels=([\w?]+_[\w?]+->[\w?]+)") or "bf_io->bf"
    lhs_labels, kernel_labels, out_labels = re.split(r"_|->", labels)
    out = instruction.arrays[0].dims
    flops = 2 * out[out_labels.index("b")] * out[out_labels.index("f")] * kernel.dims[kernel_labels.index("i")]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", instruction.attribute(r"window=\{([^}]*)\}") or ""))
    for axis in range(len(out_labels) - 2):
        sizes = (lhs.dims[lhs_labels.index(str(axis))], out[out_labels.index(str(axis))])
        flops *= _taps(window, axis, *sizes)
    return flops // int(instruction.attribute(r"batch_group_count=(\d+)") or 1)


def _taps(window: dict[str, str], axis: int, size: int, out_size: int) -> int:
    """Pairs of an output position and a window position that meet an element of the input, along one axis."""

    def value(name: str, default: int) -> int:
        return int(window[name].split("x")[axis].split("_")[0]) if name in window else default

    dilation = value("lhs_dilate", 1)
    starts = np.arange(out_size)[:, None] * value("stride", 1) - value("pad", 0)
    places = starts + np.arange(value("size", 1))[None] * value("rhs_dilate", 1)
    met = (places >= 0) & (places <= (size - 1) * dilation) & (places % dilation == 0)
    return int(np.count_nonzero(met))


def _operand_arrays(computation: Computation, instruction: Instruction) -> list[Array]:
    return [computation.by_name[name].arrays[0] for name in instruction.operands]
