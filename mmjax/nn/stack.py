"""A stack of equal layers held as one: every parameter has a leading `l` axis, and `jax.lax.scan` runs over it.

Compile time then does not grow with depth. The parameters of layer 3 are row 3 of the stack's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.nn.attention import ATTENDED
from mmjax.nn.block import MIDDLE, Block, BlockConfig
from mmjax.nn.linear import PRODUCT, WIDE_PRODUCT
from mmjax.types import Array, Key

Module = TypeVar("Module", bound=nnx.Module)
Carry = TypeVar("Carry")
Remat = Literal["none", "full", "branches", "narrow", "dots"]
SAVED: dict[Remat, tuple[str, ...]] = {
    "full": (),
    "branches": (ATTENDED, MIDDLE),
    "narrow": (ATTENDED, MIDDLE, PRODUCT),
    "dots": (PRODUCT, WIDE_PRODUCT),
}
"""Names of what is kept of a layer beside its input."""

ALL = -1
"""The `unroll` that makes straight-line code of the whole stack."""


@dataclass(frozen=True)
class StackConfig:
    """How many layers, and how they are run; none of it but the drop path changes a result.

    drop_path_rate: of the last layer; it rises linearly from 0 at the first (Huang et al., 2016, eq. 4).
    remat: what the backward pass computes again instead of keeping: "none"; all of a layer ("full"); all but what its
        branches give, and what attention reads on TPU ("branches"); that, but for products wider than their input and
        what is cheap ("narrow"); or all but its matrix products with parameters ("dots").
    unroll: layers in one step of the scan; -1 writes all out as straight-line code, which is fastest on CPU.
    """

    depth: int
    drop_path_rate: float = 0.0
    remat: Remat = "none"
    unroll: int = 1


def stacked(block: BlockConfig, depth: int, key: Key) -> Block:
    """`depth` blocks, each with its own initial values, as one whose parameters all have a leading `l` axis."""
    return repeated(lambda key: Block(block, key), depth, key)


def repeated(build: Callable[[Key], Module], depth: int, key: Key) -> Module:
    """What `build` makes of `depth` keys, as one module whose parameters all have a leading `l` axis."""
    keys = jax.random.split(key, depth)
    states = jax.vmap(lambda key: nnx.state(build(key)))(keys)
    module: Module = nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: build(keys[0]))), states)
    return module


def run(blocks: Block, config: StackConfig, x: Array, mask: Array | None = None, key: Key | None = None) -> Array:
    """The stacked `blocks` one after the other: x (b, t, d) -> (b, t, d).

    `mask` is as in `Attention`, the same for all layers; `key` gives each layer its own.
    """

    def layer(block: Block, x: Array, rate: Array | None, key: Key | None) -> Array:
        return block(x, mask, rate, key)

    return scan(layer, blocks, config, x, key)


def scan(layer: Callable[..., Carry], stack: nnx.Module, config: StackConfig, x: Carry, key: Key | None) -> Carry:
    """`layer(module, x, drop_path_rate, key)` for each module of a stack in turn, x being what the one before gave."""
    graph, states = nnx.split(stack)

    def step(x: Carry, inputs: tuple[nnx.State, Array | None, Key | None]) -> tuple[Carry, None]:
        state, rate, layer_key = inputs
        return layer(nnx.merge(graph, state), x, rate, layer_key), None

    keys = None if key is None else jax.random.split(key, config.depth)
    unroll = config.depth if config.unroll == ALL else min(config.unroll, config.depth)
    step = rematerialised(step, config.remat, straight_line=unroll == config.depth)
    last: Carry = jax.lax.scan(step, x, (states, drop_path_rates(config), keys), unroll=unroll)[0]
    return last


def drop_path_rates(config: StackConfig) -> Array | None:
    """The rate of each layer (l,), or None where no path is dropped."""
    if config.drop_path_rate == 0:
        return None
    return jnp.asarray(np.linspace(0, config.drop_path_rate, config.depth), jnp.float32)


def rematerialised(function: Callable[..., Any], remat: Remat, *, straight_line: bool) -> Callable[..., Any]:
    """`function`, keeping for its backward pass only what `remat` says (see `StackConfig`).

    In straight-line code the compiler could merge what is computed again with what was computed first, and so keep it
    after all; the two loops of a scan are apart already.
    """
    if remat == "none":
        return function
    policy = jax.checkpoint_policies.save_only_these_names(*SAVED[remat])
    return jax.checkpoint(function, prevent_cse=straight_line, policy=policy)
