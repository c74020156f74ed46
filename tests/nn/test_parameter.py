"""What a parameter knows of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.nn import initializers
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.nn import stack
from mmjax.nn.block import BlockConfig
from mmjax.nn.embedding import TokenEmbedding, padded_vocab_size
from mmjax.nn.parameter import dims_of, num_parameters, parameter, weight
from mmjax.parallel.mesh import MeshConfig, make_mesh


def test_the_gradient_of_a_token_sums_in_float32():
    """In bfloat16 a sum of ones stays at 256."""
    tokens = TokenEmbedding(jax.random.key(0), 100, 4)
    graph, state = nnx.split(tokens)
    text_ids = jnp.full((16, 64), 7)

    def total(state):
        return jnp.sum(nnx.merge(graph, state)(text_ids, jnp.bfloat16).astype(jnp.float32))

    by_table = jax.grad(total)(state)["table"][...]
    assert by_table.dtype == jnp.float32
    assert np.array_equal(by_table[7], np.full(4, 16 * 64.0))


def test_letters_must_name_every_axis():
    with pytest.raises(ValueError, match="'df' do not name the axes"):
        parameter(jax.random.key(0), "df", (2,), initializers.zeros)


def test_a_stack_puts_its_letter_in_front():
    blocks = nnx.eval_shape(lambda: stack.stacked(BlockConfig(8, 2, 16), 3, jax.random.key(0)))
    assert dims_of(blocks.attention.query.kernel) == "ldn"
    assert blocks.attention.query.kernel.shape == (3, 8, 8)
    assert dims_of(blocks.mlp_norm.scale) == "ld"


def test_layers_of_a_stack_start_apart():
    kernel = jax.jit(lambda key: stack.stacked(BlockConfig(8, 2, 16), 2, key).mlp.up.kernel[...])(jax.random.key(0))
    assert not np.allclose(kernel[0], kernel[1])


def test_padding_is_zero_and_not_counted():
    tokens = TokenEmbedding(jax.random.key(0), 100, 4)
    assert tokens.table.shape == (128, 4)
    assert np.all(tokens.table[100:] == 0)
    assert np.all(np.any(tokens.table[:100] != 0, axis=1))
    assert num_parameters(tokens) == 400


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (128, 128), (129, 256), (49_408, 49_408)])
def test_padded_vocabulary(vocab_size, padded):
    assert padded_vocab_size(vocab_size) == padded


def test_weight_is_cast_and_whole_over_fsdp():
    mesh = make_mesh(MeshConfig(1, 4, 2))
    with jax.set_mesh(mesh):
        stored = jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
        ready = jax.jit(lambda value: weight(nnx.Param(value, dims="df"), jnp.bfloat16))(stored)
    assert ready.dtype == jnp.bfloat16
    assert ready.sharding.spec == PartitionSpec(None, "tensor")
