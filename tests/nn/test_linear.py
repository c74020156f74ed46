"""The affine layer against float64 numpy, in every form of its product, on one device and on a mesh."""

import math

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

from mmjax.nn.linear import MANY_OUTPUTS, Linear
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.tolerances import LAYER, above, relative_errors

NUM_ROWS, LENGTH = 8, 3
FEW, MANY = 16, MANY_OUTPUTS
LAYERS = {
    "few outputs": ("df", (8, FEW), 1),
    "many outputs": ("df", (8, MANY), 1),
    "many, as many inputs": ("dnh", (MANY, 4, MANY // 4), 1),
    "many, and more inputs": ("nhd", (4, MANY // 2, MANY), 2),
}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("on_cpu", [True, False], ids=["of rows", "of positions"])
@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients_are_those_of_the_formula(name, on_cpu, sizes, monkeypatch):
    monkeypatch.setattr(rules, "runs_on_cpu", lambda: on_cpu)
    dims, shape, num_inputs = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, LENGTH, *shape[:num_inputs])).astype(np.float32)
    cotangent = rng.normal(size=(NUM_ROWS, LENGTH, *shape[num_inputs:])).astype(np.float32)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        layer = Linear(jax.random.key(0), dims, shape, num_inputs=num_inputs)
        graph, params = nnx.graphdef(layer), nnx.to_pure_dict(nnx.state(layer))
        params["bias"] += 0.5
        placed = [
            jax.device_put(array, jax.NamedSharding(mesh, rules.spec("bt" + letters)))
            for array, letters in ((x, dims[:num_inputs]), (cotangent, dims[num_inputs:]))
        ]

        @jax.jit
        def found(params, x, cotangent):
            y, pullback = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
            return y, *pullback(cotangent)

        ours = jax.device_get(found(params, *placed))
    num_outputs = math.prod(shape[num_inputs:])
    rows, slopes = np.float64(x).reshape(NUM_ROWS * LENGTH, -1), np.float64(cotangent).reshape(-1, num_outputs)
    matrix = np.float64(params["kernel"]).reshape(-1, num_outputs)
    expected = (
        (rows @ matrix + 0.5).reshape(cotangent.shape),
        {"bias": slopes.sum(axis=0).reshape(shape[num_inputs:]), "kernel": (rows.T @ slopes).reshape(shape)},
        (slopes @ matrix.T).reshape(x.shape),
    )
    assert above(relative_errors(ours, expected), LAYER) == {}


@pytest.mark.parametrize(("platform", "on_cpu"), [("cpu", True), ("tpu", False), ("gpu", False)])
def test_the_form_is_chosen_by_the_devices_of_the_mesh(platform, on_cpu):
    device = AbstractDevice(platform, 1, platform)
    with use_abstract_mesh(AbstractMesh((1,), ("data",), (AxisType.Explicit,), abstract_device=device)):
        assert rules.runs_on_cpu() is on_cpu
