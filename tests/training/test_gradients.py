"""Three ways to one gradient: at once, through cached embeddings, as a weighted sum; on one device and on a mesh."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.objectives.contrastive import Contrastive, ContrastiveConfig
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training import gradients
from mmjax.training.state import init_params, model_spec
from mmjax.types import Batch, Key, Loss, Mean
from tests.tolerances import LAYER, above, relative_errors
from tests.training import toy

ONE, MESH = (1, 1, 1), (2, 2, 2)


def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def gradient_of(objective: Any, accumulate: int, sizes: tuple[int, int, int] = ONE, build: Any = None) -> Any:
    """Gradient and loss of `toy.batch` on the host."""
    mesh, build = mesh_of(sizes), build or toy.build()
    with jax.set_mesh(mesh):
        spec = model_spec(build, mesh)
        params = jax.jit(lambda key: init_params(build, spec.params_spec, key))(jax.random.key(0))
        gradient = jax.jit(gradients.make_gradient(spec.graphdef, objective, accumulate))
        grads, loss, _ = gradient(params, toy.batch(mesh), {}, jax.random.key(1))
        return jax.device_get((grads, loss.total.value))


def assert_equal(left: Any, right: Any) -> None:
    assert above(relative_errors(left, right), LAYER) == {}


@pytest.fixture(scope="module")
def whole() -> Any:
    return gradient_of(toy.SIGMOID, 1)


@pytest.mark.parametrize(("accumulate", "sizes"), [(2, ONE), (4, MESH)])
def test_cached_embeddings_give_the_gradient_of_the_whole_batch(accumulate: int, sizes: Any, whole: Any) -> None:
    assert_equal(gradient_of(toy.SIGMOID, accumulate, sizes), whole)


@dataclass(frozen=True)
class InMicrobatches(Contrastive):
    """Embeds the rows of each microbatch under its own key, as `cached` does, but keeps all activations."""

    num_microbatches: int = 2

    def encode(self, model: Any, batch: Batch, key: Key | None) -> dict[str, Any]:
        keys = jax.random.split(key, self.num_microbatches)
        microbatches = (gradients.split_rows(batch, self.num_microbatches), keys)
        return gradients.join_rows(
            jax.lax.map(lambda inputs: super(InMicrobatches, self).encode(model, *inputs), microbatches)
        )


def test_the_second_pass_drops_what_the_first_dropped(whole: Any) -> None:
    build = toy.build(dropout_rate=0.5)
    dropped = gradient_of(toy.SIGMOID, 2, build=build)
    assert_equal(dropped, gradient_of(InMicrobatches(toy.SIGMOID.config), 1, build=build))
    assert above(relative_errors(dropped, whole), 0.1)


@dataclass(frozen=True)
class Rematerialised(Contrastive):
    """Keeps nothing of the towers for the backward pass."""

    def encode(self, model: Any, batch: Batch, key: Key | None) -> dict[str, Any]:
        return jax.checkpoint(lambda: super(Rematerialised, self).encode(model, batch, key))()


def test_the_same_with_sharded_parameters_and_rematerialised_towers() -> None:
    """Dropout in microbatches, recomputed, on a mesh of three axes: the gradient of all at once on one device."""
    build = toy.build(dropout_rate=0.5)
    ring = Rematerialised(ContrastiveConfig("softmax", implementation="ring", tile=3))
    dense = InMicrobatches(ContrastiveConfig("softmax", implementation="dense"))
    assert_equal(gradient_of(ring, 2, MESH, build), gradient_of(dense, 1, build=build))


@dataclass(frozen=True)
class Matching:
    """A loss that decomposes: the weighted mean of 1 - x_i . y_i."""

    decomposes: bool = True

    def init_state(self, model: Any, batch_spec: Any) -> dict[str, Any]:
        return {}

    def encode(self, model: Any, batch: Batch, key: Key | None) -> dict[str, Any]:
        return toy.SIGMOID.encode(model, batch, key)

    def loss(self, model: Any, embeddings: Any, batch: Batch, state: Any, key: Key | None) -> tuple[Loss, Any]:
        distances = 1 - jnp.sum(embeddings["image"] * embeddings["text"], axis=1)
        mean = Mean.of(distances, batch["weights"])
        return Loss(mean, {"distance": mean}), state


@pytest.fixture(scope="module")
def matching() -> Any:
    return gradient_of(Matching(), 1)


@pytest.mark.parametrize("sizes", [ONE, MESH])
def test_sums_and_counts_add_up_to_the_whole_batch(sizes: Any, matching: Any) -> None:
    assert_equal(gradient_of(Matching(), 4, sizes), matching)


def test_a_mean_of_microbatch_means_is_another_gradient(matching: Any) -> None:
    """Why sums are added and divided once: the microbatches weigh unequally."""
    mesh = mesh_of(ONE)
    with jax.set_mesh(mesh):
        spec = model_spec(toy.build(), mesh)
        params = jax.jit(lambda key: init_params(toy.build(), spec.params_spec, key))(jax.random.key(0))
        gradient = jax.jit(gradients.at_once(spec.graphdef, Matching()))
        parts = gradients.split_rows(toy.batch(mesh), 4)
        microbatches = [jax.tree.map(lambda x, m=m: x[m], parts) for m in range(4)]
        results = [gradient(params, microbatch, {}, jax.random.key(1))[0] for microbatch in microbatches]
    mean = jax.tree.map(lambda *grads: np.mean(jax.device_get(grads), axis=0), *results)
    assert above(relative_errors(mean, matching[0]), 1e-2)


def test_rows_are_split_where_they_lie_and_joined_again() -> None:
    mesh = mesh_of((4, 2, 1))
    with jax.set_mesh(mesh):
        rows = jax.device_put(jnp.arange(32 * 3).reshape(32, 3), rules.batch_sharding(mesh))
        split = jax.jit(lambda x: gradients.split_rows(x, 4))(rows)
        joined = jax.jit(gradients.join_rows)(split)
    assert split.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(None, rules.BATCH_AXES)), 3)
    assert joined.sharding.is_equivalent_to(rules.batch_sharding(mesh), 2)
    np.testing.assert_array_equal(np.asarray(split)[1], np.asarray(rows)[1::4])
    np.testing.assert_array_equal(joined, rows)
