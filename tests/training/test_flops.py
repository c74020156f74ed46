from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.experimental import pallas as pl
from jax.sharding import AxisType, PartitionSpec

from mmjax.models.dual_encoder import DualEncoder
from mmjax.models.sizes import clip
from mmjax.training.flops import TRAIN_PER_FORWARD, count_flops
from mmjax.types import Array


def shape(*sizes: int, dtype: jnp.dtype = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def test_products_count_two_flops_a_multiply_add() -> None:
    assert count_flops(jnp.dot, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert count_flops(partial(jnp.einsum, "btd,bsd->bts"), shape(2, 3, 5), shape(2, 4, 5)) == 2 * 2 * 3 * 4 * 5
    assert count_flops(lambda x: jnp.sum(jnp.exp(x) + x), shape(8, 8)) == 0


@pytest.mark.parametrize(("groups", "flops"), [(1, 2 * 2 * 8 * 8 * 12 * 9 * 4), (4, 2 * 2 * 8 * 8 * 12 * 9)])
def test_convolutions_count_the_kernel_at_each_output(groups: int, flops: int) -> None:
    convolve = partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    assert count_flops(convolve, shape(2, 8, 8, 4), shape(3, 3, 4 // groups, 12)) == flops


def test_loops_branches_and_wrappers_count_what_they_run() -> None:
    def step(x: Array, _: None) -> tuple[Array, None]:
        return jax.checkpoint(jnp.dot)(x, x), None

    def looped(x: Array) -> Array:
        return jax.jit(lambda x: jax.lax.scan(step, x, None, length=5)[0])(x)

    def branched(x: Array) -> Array:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    @jax.custom_vjp
    def ruled(x: Array, y: Array) -> Array:
        return x @ y

    ruled.defvjp(lambda x, y: (x @ y, (x, y)), lambda saved, cotangent: saved)
    product = 2 * 4**3
    assert count_flops(looped, shape(4, 4)) == 5 * product
    assert count_flops(branched, shape(4, 4)) == 2 * product
    assert count_flops(jax.vmap(ruled), shape(6, 4, 4), shape(6, 4, 4)) == 6 * product
    with pytest.raises(ValueError, match="while loop"):
        count_flops(lambda x: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ x, x), shape(4, 4))


def test_a_gradient_is_two_forward_passes_more() -> None:
    def loss(weights: tuple[Array, Array], x: Array) -> Array:
        return jnp.sum((jnp.tanh(x @ weights[0]) @ weights[1]) ** 2)

    args = (shape(8, 8), shape(8, 8)), shape(4, 8)
    # The gradient with respect to the data is never asked for, which saves one of the six products.
    forward = count_flops(loss, *args)
    assert count_flops(jax.value_and_grad(loss), *args) == TRAIN_PER_FORWARD * forward - 2 * 4 * 8 * 8


def test_sharded_bodies_count_globally() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:8])
    rows = PartitionSpec("data")
    body = jax.shard_map(jnp.dot, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows, axis_names={"data"})
    with jax.set_mesh(mesh):
        sharded = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=jax.NamedSharding(mesh, rows))
        whole = jax.ShapeDtypeStruct((4, 6), jnp.float32, sharding=jax.NamedSharding(mesh, PartitionSpec()))
        assert count_flops(jnp.dot, sharded, whole) == 2 * 8 * 4 * 6
        assert count_flops(body, sharded, whole) == 2 * 8 * 4 * 6


def test_the_towers_of_clip_b32_agree_with_the_formula() -> None:
    """Per layer and token: projections 8 d^2, feed-forward 16 d^2, attention 4 t d (Kaplan et al. 2020, table 1)."""
    model = nnx.eval_shape(lambda: DualEncoder(clip("B/32"), jax.random.key(0)))
    graphdef, params = nnx.split(model)

    def image(params: nnx.State, image: Array) -> Array:
        return nnx.merge(graphdef, params).encode_image(image)[0]

    def text(params: nnx.State, text_ids: Array, text_mask: Array) -> Array:
        return nnx.merge(graphdef, params).encode_text(text_ids, text_mask)[0]

    def tower(tokens: int, width: int) -> int:
        return 12 * tokens * (24 * width**2 + 4 * tokens * width) + 2 * width * 512

    patches = 2 * 49 * (32 * 32 * 3) * 768
    images = shape(1, 224, 224, 3, dtype=jnp.uint8)
    texts = shape(1, 77, dtype=jnp.int32), shape(1, 77, dtype=jnp.bool_)
    assert count_flops(image, params, images) == pytest.approx(tower(50, 768) + patches, rel=0.01)
    assert count_flops(text, params, *texts) == pytest.approx(tower(77, 512), rel=0.01)


def test_a_kernel_counts_what_it_says_of_itself() -> None:
    """Not what it multiplies: of two heads in one register, zeros too."""

    def doubled(x_ref: Any, y_ref: Any) -> None:
        y_ref[...] = x_ref[...] @ x_ref[...]

    def kernel(cost: pl.CostEstimate | None) -> Any:
        out = jax.ShapeDtypeStruct((8, 8), jnp.float32)
        return lambda x: pl.pallas_call(doubled, out_shape=out, cost_estimate=cost)(x)

    said = pl.CostEstimate(flops=7, transcendentals=0, bytes_accessed=0)
    assert count_flops(kernel(said), shape(8, 8)) == 7
    assert count_flops(kernel(None), shape(8, 8)) == 2 * 8 * 8 * 8
