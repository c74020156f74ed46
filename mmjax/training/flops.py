"""Model FLOPs: the multiplications and additions that a function asks for, counted on its jaxpr.

Counted are matrix products and convolutions, at two FLOPs a multiply-add; everything else is small beside them and is
what "model FLOPs" leave out by convention (Chowdhery et al. 2022, appendix B). The count is of the mathematics: of
global arrays on any mesh, and without what rematerialisation computes twice if the function has none.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

TRAIN_PER_FORWARD = 3
"""A training step costs three forward passes: the backward pass has two products for each one of the forward pass."""


def count_flops(fn: Callable[..., Any], *args: Any) -> int:
    """FLOPs of the matrix products and convolutions in `fn(*args)`; arrays may be given as ShapeDtypeStructs.

    Loops count their length, a branch counts its dearest side, the body of a shard_map counts once for every shard.

    Raises:
        ValueError: a `while` loop with products in it, whose length is not known before it runs.
    """
    return _jaxpr_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: JaxprEqn) -> int:
    match equation.primitive.name:
        case "dot_general":
            return _dot_flops(equation)
        case "conv_general_dilated":
            return _convolution_flops(equation)
        case "pallas_call" if equation.params["cost_estimate"] is not None:
            # A kernel may multiply more than the mathematics asks for, to move less.
            return equation.params["cost_estimate"].flops
        case "cond":
            return max(_jaxpr_flops(branch) for branch in _inner_jaxprs(equation))
        case _:
            inner = sum(_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(equation))
            return inner * _repeats(equation) if inner else 0


def _dot_flops(equation: JaxprEqn) -> int:
    """2 x (elements of the output) x (length of the contraction)."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
    return 2 * math.prod(output) * math.prod(lhs[axis] for axis in contracted)


def _convolution_flops(equation: JaxprEqn) -> int:
    """2 x (elements of the output) x (kernel elements that each of them sees); taps on padding are counted too."""
    kernel, output = _shape(equation.invars[1]), _shape(equation.outvars[0])
    features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return 2 * math.prod(output) * math.prod(kernel) // features


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _repeats(equation: JaxprEqn) -> int:
    """How often the body of a higher-order primitive runs."""
    match equation.primitive.name:
        case "scan":
            return equation.params["length"]
        case "shard_map":
            mesh = equation.params["mesh"]
            return math.prod(mesh.shape[axis] for axis in equation.params["newly_manual_axes"])
        case "pallas_call":
            return math.prod(equation.params["grid_mapping"].grid)
        case "while":
            raise ValueError("count_flops met a while loop: its length is not known; write it as jax.lax.scan")
        case _:
            return 1


def _inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of a primitive (jit, remat, scan, custom derivatives, ...)."""
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
