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
    "few outputs": ("df", (8, FEW)),
    "many outputs": ("df", (8, MANY)),
    "many, as many inputs": ("dn", (MANY, MANY)),
    "many, and more inputs": ("nd", (2 * MANY, MANY)),
}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("on_cpu", [True, False], ids=["of rows", "of positions"])
@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients_are_those_of_the_formula(name, on_cpu, sizes, monkeypatch):
    monkeypatch.setattr(rules, "runs_on_cpu", lambda: on_cpu)
    dims, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_ROWS, LENGTH, shape[0])).astype(np.float32)
    cotangent = rng.normal(size=(NUM_ROWS, LENGTH, shape[1])).astype(np.float32)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        layer = Linear(jax.random.key(0), dims, shape)
        graph, params = nnx.graphdef(layer), nnx.to_pure_dict(nnx.state(layer))
        params["bias"] += 0.5
        placed = [
            jax.device_put(array, jax.NamedSharding(mesh, rules.spec("bt" + letters)))
            for array, letters in ((x, dims[0]), (cotangent, dims[1]))
        ]

        @jax.jit
        def found(params, x, cotangent):
            y, pullback = jax.vjp(lambda params, x: nnx.merge(graph, params)(x), params, x)
            return y, *pullback(cotangent)

        ours = jax.device_get(found(params, *placed))
    rows, slopes, matrix = (np.float64(x).reshape(-1, x.shape[-1]) for x in (x, cotangent, params["kernel"]))
    expected = (
        (rows @ matrix + 0.5).reshape(cotangent.shape),
        {"bias": slopes.sum(axis=0), "kernel": rows.T @ slopes},
        (slopes @ matrix.T).reshape(x.shape),
    )
    assert above(relative_errors(ours, expected), LAYER) == {}


@pytest.mark.parametrize(("platform", "on_cpu"), [("cpu", True), ("tpu", False), ("gpu", False)])
def test_the_form_is_chosen_by_the_devices_of_the_mesh(platform, on_cpu):
    device = AbstractDevice(platform, 1, platform)
    with use_abstract_mesh(AbstractMesh((1,), ("data",), (AxisType.Explicit,), abstract_device=device)):
        assert rules.runs_on_cpu() is on_cpu
