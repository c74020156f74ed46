"""Collectives of a step of two layers are those that the mathematics of the mesh asks for, exactly."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mmjax.nn.attention import Attention
from mmjax.nn.linear import joined
from mmjax.nn.mlp import MLP
from mmjax.parallel import rules
from mmjax.parallel.chips import Chip
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.collectives import (
    array_bytes,
    axes_of,
    described,
    direction_of,
    groups_of,
    kind_of,
    link_secs,
    sent_bytes,
    summed,
)
from mmjax.plan.hlo import Instruction
from mmjax.plan.program import Program
from mmjax.training.state import model_spec

WIDTH, INNER, ROWS, LENGTH = 64, 256, 64, 8
MATRIX, UP_BIAS, DOWN_BIAS = WIDTH * INNER, INNER, WIDTH
PARAMETERS = 2 * MATRIX + UP_BIAS + DOWN_BIAS
ACTIVATIONS = ROWS * LENGTH * WIDTH


def abstract_inputs(build, params_spec, mesh):
    """Parameters as they are stored, and x (b, t, d)."""
    shapes = jax.eval_shape(lambda: nnx.to_pure_dict(nnx.split(build(jax.random.key(0)))[1]))
    params = jax.tree.map(
        lambda leaf, how: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, how)),
        shapes,
        params_spec,
    )
    x = jax.ShapeDtypeStruct((ROWS, LENGTH, WIDTH), jnp.float32, sharding=rules.batch_sharding(mesh))
    return params, x


def found(sizes: tuple[int, int, int]) -> list[tuple[str, tuple[str, ...], int, int]]:
    """(operation, axes, bytes of the arrays, bytes a device sends) of a gradient step, in float32."""
    mesh = make_mesh(MeshConfig(*sizes))

    def build(key):
        return MLP(key, WIDTH, INNER, "gelu_tanh")

    with jax.set_mesh(mesh):
        spec = model_spec(build, mesh)
        params, x = abstract_inputs(build, spec.params_spec, mesh)

        def step(params, x):
            grads = jax.grad(lambda params: jnp.mean(jnp.square(nnx.merge(spec.graphdef, params)(x))))(params)
            return jax.tree.map(lambda param, grad: param - 0.1 * grad, params, grads)

        program = Program(jax.jit(step).lower(params, x).compile().as_text())
    all_ = [described(one, repeats, overlapped, mesh, None) for repeats, one, overlapped in program.communications]
    return [(one.operation, one.axes, one.array_bytes, one.sent_bytes) for one in summed(all_)]


def test_data_parallel_sums_the_gradients_of_all_parameters():
    assert found((8, 1, 1)) == [("all-reduce", ("data",), 4 * PARAMETERS, 2 * 4 * PARAMETERS * 7 // 8)]


def test_fully_sharded_fetches_what_is_split_and_sums_gradients():
    """Both matrices are split over fsdp; vectors are whole."""
    fetched = 4 * 2 * MATRIX
    assert sorted(found((1, 8, 1))) == [
        ("all-gather", ("fsdp",), fetched, fetched * 7 // 8),
        ("all-reduce", ("fsdp",), 4 * PARAMETERS, 2 * 4 * PARAMETERS * 7 // 8),
    ]


def test_tensor_parallel_sums_what_the_layer_gives():
    assert found((1, 1, 8)) == [("all-reduce", ("tensor",), 4 * ACTIVATIONS, 2 * 4 * ACTIVATIONS * 7 // 8)]


def test_all_three_together():
    half, rows = 4 * MATRIX // 2, 4 * ACTIVATIONS // 4
    fetched = 2 * half
    summed_ = 2 * half + 4 * UP_BIAS // 2 + 4 * DOWN_BIAS
    assert sorted(found((2, 2, 2))) == [
        ("all-gather", ("fsdp",), fetched, fetched // 2),
        ("all-reduce", ("data", "fsdp"), summed_, 2 * summed_ * 3 // 4),
        ("all-reduce", ("tensor",), rows, rows),
    ]


def test_queries_keys_and_values_are_one_fetch():
    mesh = make_mesh(MeshConfig(1, 8, 1))

    def build(key):
        return Attention(key, WIDTH, 4)

    with jax.set_mesh(mesh):
        spec = model_spec(build, mesh)
        params, x = abstract_inputs(build, spec.params_spec, mesh)

        def three(params, x):
            attention = nnx.merge(spec.graphdef, params)
            return joined([attention.query, attention.key, attention.value], x)[0]

        program = Program(jax.jit(three).lower(params, x).compile().as_text())
    (fetch,) = [one for _, one, _ in program.communications]
    assert kind_of(fetch) == "all-gather"
    assert array_bytes(fetch) == 4 * 3 * WIDTH**2


SHAPE = {"data": 2, "fsdp": 4, "tensor": 2}


@pytest.mark.parametrize(
    ("rest", "groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3}}, x", [[0, 1], [2, 3]], ("tensor",)),
        ("replica_groups=[2,8]<=[16], x", [list(range(8)), list(range(8, 16))], ("fsdp", "tensor")),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1)", [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14]], ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=8] {'a'}", [[0, 8], [1, 9]], ("data",)),
        ("replica_groups=mesh['a'=4,'b'=4], device_ids=([2,4,2]T(1,0,2)) {'a'}", [[0, 2, 4, 6]], ("fsdp",)),
        ("dimensions={0}", [list(range(16))], ("data", "fsdp", "tensor")),
    ],
)
def test_groups_are_read_in_every_form(rest, groups, axes):
    instruction = Instruction("a", "f32[8]{0}", "all-gather", f"%x), {rest}")
    read = groups_of(instruction, 16)
    assert read[: len(groups)] == groups
    assert axes_of(read, SHAPE) == axes


def test_between_slices_the_host_sends():
    rest = (
        '%x, %token), channel_id=18, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",'
        '_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    instruction = Instruction("s", "(bf16[64,8,128]{2,1,0}, u32[], token[])", "send", rest)
    assert kind_of(instruction) == "all-reduce"
    assert sent_bytes(instruction) == array_bytes(instruction) == 2 * 64 * 8 * 128
    assert axes_of(groups_of(instruction, 16), SHAPE) == ("data",)
    assert kind_of(Instruction("s", "(f32[8]{0}, u32[], token[])", "send", "%x, %token), channel_id=1")) is None


def test_a_permute_has_a_direction():
    pairs = ",".join(f"{{{i},{(i + 1) % 4}}}" for i in range(4))
    instruction = Instruction("p", "f32[8]{0}", "collective-permute", f"%x), source_target_pairs={{{pairs}}}")
    shape = {"data": 4, "fsdp": 1, "tensor": 1}
    assert direction_of(instruction, groups_of(instruction, 4), shape) == "data+1"


class Device:
    def __init__(self, x, y, slice_index=0):
        self.coords, self.slice_index = (x, y, 0), slice_index


def test_links_of_every_dimension_that_a_group_spans_carry_its_bytes():
    chip = Chip(1, link_bytes_per_sec=50, links=4, network_bytes_per_sec=10)
    square = [Device(x, y) for x in range(2) for y in range(2)]
    assert link_secs(1000, [0, 1], square, chip) == 1000 / (2 * 50)
    assert link_secs(1000, [0, 1, 2, 3], square, chip) == 1000 / (4 * 50)
    assert link_secs(1000, [0, 1], [Device(0, 0), Device(0, 0, slice_index=1)], chip) == 100
    assert link_secs(1000, [0, 1], square, None) is None
