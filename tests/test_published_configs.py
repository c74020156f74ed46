"""Configs of published fusion models: a whole step is traced at full size, and compiled where there is time for it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from mmjax import assembly
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.program import Program
from tests.test_config import shipped

NAMES = (
    *("vilbert_base", "lxmert", "uniter_base", "uniter_large", "visual_bert", "vilt", "albef", "concatenation"),
    "bert_base",
)
BATCH_SIZE = 8


def program_of(name: str) -> tuple[Program, Mesh]:
    """For a small batch on eight devices, with every size of the model as it is."""
    experiment = shipped(name)
    experiment = replace(experiment, data=replace(experiment.data, batch_size=BATCH_SIZE))
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        return assembly.program(experiment, mesh), mesh


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_step_of_the_published_size_is_a_program(name):
    program, mesh = program_of(name)
    with jax.set_mesh(mesh):
        state, metrics = jax.eval_shape(program.step, program.abstract_state, program.batch_spec)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, program.abstract_state)
    assert all(value.shape == () for value in metrics.values())


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles(name):
    program, mesh = program_of(name)
    with jax.set_mesh(mesh):
        step = program.step.lower(program.abstract_state, program.batch_spec).compile()
    assert step.memory_analysis().temp_size_in_bytes > 0
