"""What a layer computes bears the path of its parameters."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.nn.linear import Linear
from mmjax.nn.module import Module


class Inner(Module):
    def __init__(self, key: Any):
        self.up = Linear(key, "df", (4, 8))

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(self.up(x))


class Outer(Module):
    def __init__(self, key: Any):
        self.first = Inner(key)
        self.stages = nnx.List([Inner(key), Inner(key)])
        self.size = 3

    def __call__(self, x: Any) -> Any:
        return self.first(x) + self.stages[0](x) + self.stages[1](x)


def names(function: Any, *args: Any) -> str:
    return " ".join(re.findall(r'op_name="([^"]*)"', jax.jit(function).lower(*args).compile().as_text()))


def test_calls_enter_the_scope_of_their_attribute() -> None:
    graph, state = nnx.split(Outer(jax.random.key(0)))

    def loss(params: Any, x: Any) -> Any:
        return jnp.sum(nnx.merge(graph, params)(x))

    found = names(jax.grad(loss), nnx.to_pure_dict(state), jnp.ones((2, 4)))
    for path in ("jvp(first)/up/", "jvp(stages/0)/up/", "jvp(stages/1)/up/", "transpose(jvp(first))/up/"):
        assert path in found


def test_a_module_by_itself_has_no_scope() -> None:
    inner = Inner(jax.random.key(0))
    assert inner.scope == ""
    assert "jit(<lambda>)/tanh" in names(lambda x: inner(x), jnp.ones((2, 4)))
