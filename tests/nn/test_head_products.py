"""The products of attention against float64 numpy, in every form, on one device and on a mesh."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn import head_products
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.tolerances import LAYER, above, relative_errors

NUM_ROWS, NUM_HEADS, HEAD_DIM = 4, 2, 3
LENGTHS = {"few scores": (5, 7), "many scores": (31, 34)}
PRODUCTS = {
    "scores": (head_products.scores_of, "btnh,bsnh->bnts"),
    "what is read": (head_products.read_by, "bnts,bsnh->btnh"),
}


def test_there_are_few_and_many_scores():
    few, many = (math.prod(lengths) for lengths in LENGTHS.values())
    assert few < head_products.FEW_SCORES <= many


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("on_cpu", [True, False], ids=["heads first", "positions first"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", PRODUCTS)
def test_values_and_gradients_are_those_of_the_formula(name, lengths, on_cpu, sizes, monkeypatch):
    monkeypatch.setattr(rules, "runs_on_cpu", lambda: on_cpu)
    product, formula = PRODUCTS[name]
    size_of = dict(zip("btsnh", (NUM_ROWS, *LENGTHS[lengths], NUM_HEADS, HEAD_DIM), strict=True))
    left, right, out = formula.replace("->", ",").split(",")
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=[size_of[axis] for axis in axes]).astype(np.float32) for axes in (left, right, out)]
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(array, jax.NamedSharding(mesh, rules.spec(axes)))
            for array, axes in zip(arrays, (left, right, out), strict=True)
        ]

        @jax.jit
        def found(x, y, cotangent):
            value, pullback = jax.vjp(product, x, y)
            return value, *pullback(cotangent)

        ours = jax.device_get(found(*placed))
    x, y, cotangent = (np.float64(array) for array in arrays)
    expected = (
        np.einsum(formula, x, y),
        np.einsum(f"{out},{right}->{left}", cotangent, y),
        np.einsum(f"{out},{left}->{right}", cotangent, x),
    )
    assert above(relative_errors(ours, expected), LAYER) == {}


@pytest.mark.parametrize("on_cpu", [True, False], ids=["heads first", "positions first"])
def test_gradients_have_the_types_of_what_they_are_of(on_cpu, monkeypatch):
    monkeypatch.setattr(rules, "runs_on_cpu", lambda: on_cpu)
    shares, values = jnp.ones((1, 1, 2, 3)), jnp.ones((1, 3, 1, 2), jnp.bfloat16)
    value, pullback = jax.vjp(head_products.read_by, shares, values)
    assert [x.dtype for x in (value, *pullback(value))] == [jnp.float32, jnp.float32, jnp.bfloat16]
