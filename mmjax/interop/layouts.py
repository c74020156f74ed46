"""How one array is laid out on both sides: pairs of functions that undo each other, bit for bit."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]
Arrays = tuple[np.ndarray, ...]


class Layout(NamedTuple):
    """The same numbers in two orders.

    to_theirs: one foreign array from ours; several of ours where the foreign one fuses them.
    to_ours: ours, in the shapes that we store, from the foreign array.

    Raises (from `to_ours`):
        ValueError: the foreign array does not hold as many numbers as ours do.
    """

    to_theirs: Callable[[Arrays], np.ndarray]
    to_ours: Callable[[np.ndarray, tuple[Shape, ...]], Arrays]


def reshaped(*leading: int) -> Layout:
    """The same numbers in the same order; theirs is flat behind `leading` axes of the given sizes (all of them 1)."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        (array,) = ours
        return array.reshape((*leading, *array.shape))

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        (shape,) = shapes
        expect(theirs, (*leading, *shape))
        return (theirs.reshape(shape),)

    return Layout(to_theirs, to_ours)


def _linear_to_theirs(ours: Arrays) -> np.ndarray:
    (kernel,) = ours
    return kernel.T


def _linear_to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
    ((inputs, outputs),) = shapes
    expect(theirs, (outputs, inputs))
    return (theirs.T,)


def _patches_to_theirs(ours: Arrays) -> np.ndarray:
    (kernel,) = ours
    patch_size = math.isqrt(len(kernel) // 3)
    return kernel.reshape(patch_size, patch_size, 3, -1).transpose(3, 2, 0, 1)


def _patches_to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
    ((inputs, width),) = shapes
    patch_size = math.isqrt(inputs // 3)
    expect(theirs, (width, 3, patch_size, patch_size))
    return (theirs.transpose(2, 3, 1, 0).reshape(inputs, width),)


def _convolution_to_theirs(ours: Arrays) -> np.ndarray:
    (kernel,) = ours
    return kernel.transpose(3, 2, 0, 1)


def _convolution_to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
    ((y, x, inputs, outputs),) = shapes
    expect(theirs, (outputs, inputs, y, x))
    return (theirs.transpose(2, 3, 1, 0),)


SAME = reshaped()
"""The same shape: norms, position tables, projections that both sides multiply from the right."""
LINEAR = Layout(_linear_to_theirs, _linear_to_ours)
"""Ours (inputs, outputs); theirs (outputs, inputs)."""
PATCHES = Layout(_patches_to_theirs, _patches_to_ours)
"""Ours (y x c, d), of square patches of three colours; theirs the convolution kernel (d, c, y, x)."""
CONVOLUTION = Layout(_convolution_to_theirs, _convolution_to_ours)
"""Ours (y, x, inputs, outputs); theirs (outputs, inputs, y, x)."""


def with_heads(num_heads: int, num_behind: int = 0) -> Layout:
    """Ours has heads side by side along one axis, `num_behind` before the last; theirs has two, as Flax has them."""

    def split(shape: Shape) -> Shape:
        axis = len(shape) - 1 - num_behind
        return (*shape[:axis], num_heads, shape[axis] // num_heads, *shape[axis + 1 :])

    def to_theirs(ours: Arrays) -> np.ndarray:
        (array,) = ours
        return array.reshape(split(array.shape))

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        (shape,) = shapes
        expect(theirs, split(shape))
        return (theirs.reshape(shape),)

    return Layout(to_theirs, to_ours)


def flattened_patches() -> Layout:
    """Ours (y x c, d); theirs (y, x, c, d), as Flax convolutions have it."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        (kernel,) = ours
        patch_size = math.isqrt(len(kernel) // 3)
        return kernel.reshape(patch_size, patch_size, 3, -1)

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        ((inputs, width),) = shapes
        patch_size = math.isqrt(inputs // 3)
        expect(theirs, (patch_size, patch_size, 3, width))
        return (theirs.reshape(inputs, width),)

    return Layout(to_theirs, to_ours)


def table(num_rows: int) -> Layout:
    """Ours has rows of zeros behind the `num_rows` that mean anything (see `nn.embedding`); theirs has none."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        (rows,) = ours
        return rows[:num_rows]

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        ((stored, *rest),) = shapes
        expect(theirs, (num_rows, *rest))
        return (np.pad(theirs, ((0, stored - num_rows), *((0, 0) for _ in rest))),)

    return Layout(to_theirs, to_ours)


def fused(layout: Layout) -> Layout:
    """Several of ours under each other along the first axis of theirs: queries, keys and values as one matrix."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        return np.concatenate([layout.to_theirs((array,)) for array in ours])

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        if len(theirs) % len(shapes):
            raise ValueError(f"its first axis of {len(theirs)} is not {len(shapes)} equal parts")
        parts = np.split(theirs, len(shapes))
        return tuple(layout.to_ours(part, (shape,))[0] for part, shape in zip(parts, shapes, strict=True))

    return Layout(to_theirs, to_ours)


def second_of_two() -> Layout:
    """Ours is row 1 of theirs, of which row 0 is zeros: it stands for what is not masked."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        (row,) = ours
        return np.stack([np.zeros_like(row), row])

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        ((width,),) = shapes
        expect(theirs, (2, width))
        return (theirs[1],)

    return Layout(to_theirs, to_ours)


def zeros(*shape: int) -> Layout:
    """Nothing of ours: zeros of that shape."""
    return constant(np.zeros(shape, np.float32))


def constant(value: np.ndarray) -> Layout:
    """Nothing of ours: a tensor that the other side wants to see and that no result depends on."""
    return Layout(lambda ours: value, lambda theirs, shapes: ())


def expect(array: np.ndarray, shape: Shape) -> None:
    """Raises ValueError where `array` is not of `shape`."""
    if array.shape != shape:
        raise ValueError(f"its shape is {array.shape}, not {shape}")
