"""The contrastive loss in every implementation: float64 references on every mesh, its algebra, collectives, errors."""

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mmjax.errors import UserError
from mmjax.losses import contrastive
from mmjax.losses.choice import choose
from mmjax.losses.tiles import Cut, pallas_tiles
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program
from tests.losses import reference
from tests.tolerances import BFLOAT16, LAYER, above, relative_errors

REFERENCES = {"sigmoid": reference.sigmoid, "softmax": reference.softmax}
IMPLEMENTATIONS = ("dense", "gather", "ring")
MESHES = (None, (8, 1, 1), (2, 4, 1), (2, 2, 2))
KINDS = pytest.mark.parametrize("kind", REFERENCES)
EVERY = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
EVERY_KERNEL = pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "ring in pallas"])
TILED = pytest.mark.parametrize("implementation", ["gather", "ring", "ring in pallas"])
TILE = 3
"""Divides neither the 40 rows of one device nor the 5 rows of one of eight."""

Args = tuple[Any, ...]


def inputs(num_rows: int = 40, width: int = 8, scale: float = 20.0, seed: int = 0) -> Args:
    """Unit embeddings, half alike, a scale, a bias of -10, ids with repeats, weights of 0 and others, soft targets."""
    rng = np.random.default_rng(seed)
    image, text = (rng.normal(size=(num_rows, width)) for _ in range(2))
    text += image
    unit = [(side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in (image, text)]
    ids = rng.integers(0, num_rows // 2, num_rows).astype(np.int32)
    weights = rng.choice([0, 0.5, 1, 1, 2], num_rows).astype(np.float32)
    drawn = rng.uniform(size=(num_rows, num_rows)).astype(np.float32)
    return *unit, np.float32(math.log(scale)), np.float32(-10), ids, weights, drawn


@functools.cache
def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def options_of(kind: str, implementation: str, tile: int = TILE) -> dict[str, Any]:
    name, _, kernel = implementation.partition(" in ")
    return {"kind": kind, "implementation": name, "tile": tile, "kernel": kernel or "xla"}


@functools.cache
def compiled(kind: str, implementation: str, sizes: tuple[int, int, int] | None = None, tile: int = TILE) -> Any:
    """Value and gradients by embeddings, scale and bias, on the host."""

    def loss(image: Any, text: Any, log_scale: Any, bias: Any, ids: Any, weights: Any, soft_targets: Any = None) -> Any:
        options = {**options_of(kind, implementation, tile), "soft_targets": soft_targets}
        return contrastive(image, text, log_scale, bias, ids, weights, **options).value

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))

    def run(*args: Any) -> Any:
        if sizes is None:
            return jax.device_get(function(*args))
        with jax.set_mesh(mesh_of(sizes)):
            rows = rules.batch_sharding(mesh_of(sizes))
            placed = [jax.device_put(arg, rows) if np.ndim(arg) else jnp.asarray(arg) for arg in args]
            value, grads = function(*placed)
            assert grads[0].sharding.is_equivalent_to(rows, 2)
            return jax.device_get((value, grads))

    return run


@functools.cache
def expected(kind: str, scale: float, seed: int = 0) -> Any:
    double = [np.asarray(arg, np.float64) for arg in inputs(scale=scale, seed=seed)]
    loss = REFERENCES[kind]
    return loss(*double), tuple(reference.gradient(loss, position, *double) for position in range(4))


@KINDS
@EVERY_KERNEL
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_value_and_gradients_equal_the_reference(kind, implementation, sizes):
    results = compiled(kind, implementation, sizes)(*inputs())
    assert above(relative_errors(results, expected(kind, 20.0)), LAYER) == {}


@KINDS
@EVERY_KERNEL
@pytest.mark.parametrize("sizes", [(1, 1, 1), (8, 1, 1)], ids=str)
def test_hard_targets_equal_the_reference(kind, implementation, sizes):
    *args, _ = inputs()
    double, loss = [np.asarray(arg, np.float64) for arg in args], REFERENCES[kind]
    wanted = loss(*double), tuple(reference.gradient(loss, position, *double) for position in range(4))
    assert above(relative_errors(compiled(kind, implementation, sizes)(*args), wanted), LAYER) == {}


@KINDS
@TILED
def test_at_scale_100_the_error_is_that_of_the_dense_form(kind, implementation):
    """The worst of several draws: in a single one either form may be exact by chance, as a number is rounded."""
    dense, tiled = worst_errors(kind, "dense"), worst_errors(kind, implementation, (8, 1, 1))
    assert {path: (error, dense[path]) for path, error in tiled.items() if not error <= 2 * dense[path]} == {}


def worst_errors(kind: str, implementation: str, sizes: tuple[int, int, int] | None = None) -> dict[str, float]:
    """Of the value and of each gradient at scale 100, over 8 draws."""
    function = compiled(kind, implementation, sizes)
    draws = [
        relative_errors(function(*inputs(scale=100.0, seed=seed)), expected(kind, 100.0, seed)) for seed in range(8)
    ]
    return {path: max(errors[path] for errors in draws) for path in draws[0]}


@KINDS
@EVERY_KERNEL
def test_masking_a_row_equals_removing_it(kind, implementation):
    *args, weights, _ = inputs()
    kept = weights > 0
    value, grads = compiled(kind, implementation)(*args, weights)
    smaller = [arg[kept] if arg.ndim else arg for arg in (*args, weights)]
    smaller_value, smaller_grads = compiled(kind, implementation)(*smaller)
    masked_grads = [grad[kept] if grad.ndim else grad for grad in grads]
    assert above(relative_errors([value, *masked_grads], [smaller_value, *smaller_grads]), LAYER) == {}
    assert all(np.all(grad[~kept] == 0) for grad in grads[:2])


@KINDS
@EVERY
def test_a_masked_row_may_hold_anything(kind, implementation):
    *args, weights, _ = inputs(scale=100.0)
    image = args[0].copy()
    image[weights == 0] = 3 * image[0]
    value, grads = compiled(kind, implementation)(image, *args[1:], weights)
    assert value == pytest.approx(compiled(kind, implementation)(*args, weights)[0], rel=LAYER)
    assert all(np.isfinite(grad).all() for grad in grads)


@KINDS
@EVERY
def test_the_order_of_rows_does_not_matter(kind, implementation):
    args = inputs()[:-1]
    order = np.random.default_rng(1).permutation(40)
    value, grads = compiled(kind, implementation)(*args)
    moved_value, moved_grads = compiled(kind, implementation)(*(arg[order] if arg.ndim else arg for arg in args))
    expected = [grad[order] if grad.ndim else grad for grad in grads]
    assert above(relative_errors([moved_value, *moved_grads], [value, *expected]), LAYER) == {}


@KINDS
@EVERY
def test_a_weight_of_two_is_a_row_given_twice(kind, implementation):
    """The second time with the same id, or it would be a negative of the first."""
    *args, _, _ = inputs()
    weights = np.ones(40, np.float32)
    weights[7] = 2
    value, _ = compiled(kind, implementation)(*args, weights)
    twice = [np.concatenate([arg, arg[7:8]]) if arg.ndim else arg for arg in args]
    assert value == pytest.approx(compiled(kind, implementation)(*twice, np.ones(41, np.float32))[0], rel=LAYER)


@KINDS
@EVERY
def test_equal_ids_are_no_negatives(kind, implementation):
    """Image 0 is drawn to text 7 where their ids are equal, and pushed away from it where they are not."""
    axes = np.eye(8, dtype=np.float32)
    args, weights = (axes, axes, np.float32(math.log(20)), np.float32(-10)), np.ones(8, np.float32)
    _, alike = compiled(kind, implementation)(*args, np.asarray([0, 1, 2, 3, 4, 5, 6, 0], np.int32), weights)
    _, apart = compiled(kind, implementation)(*args, np.arange(8, dtype=np.int32), weights)
    assert alike[0][0] @ axes[7] < 0 < apart[0][0] @ axes[7]


def test_softmax_is_symmetric_in_its_sides():
    image, text, *rest, soft_targets = inputs()
    value, (by_image, by_text, *_) = compiled("softmax", "ring")(image, text, *rest, soft_targets)
    swapped_value, (by_first, by_second, *_) = compiled("softmax", "ring")(text, image, *rest, soft_targets.T)
    expected = [value, by_text, by_image]
    assert above(relative_errors([swapped_value, by_first, by_second], expected), LAYER) == {}


@KINDS
@EVERY_KERNEL
def test_defaults_are_distinct_ids_and_weights_of_one(kind, implementation):
    args = inputs()[:4]
    options = options_of(kind, implementation)
    expected, _ = compiled(kind, "dense")(*args, np.arange(40, dtype=np.int32), np.ones(40, np.float32))
    with jax.set_mesh(mesh_of((8, 1, 1))):
        value = jax.jit(lambda *args: contrastive(*args, **options).value)(*args)
    assert float(value) == pytest.approx(expected, rel=LAYER)


@KINDS
@EVERY
def test_no_row_counts(kind, implementation):
    value, grads = compiled(kind, implementation)(*inputs()[:-2], np.zeros(40, np.float32))
    assert value == 0
    assert all(np.all(grad == 0) for grad in grads)


@KINDS
@EVERY
def test_one_row_on_each_device(kind, implementation):
    args = inputs(8)
    double = [np.asarray(arg, np.float64) for arg in args]
    value, _ = compiled(kind, implementation, (8, 1, 1))(*args)
    assert value == pytest.approx(REFERENCES[kind](*double), rel=LAYER)


def test_sigmoid_of_a_batch_of_one():
    one = jnp.ones((1, 1))
    assert float(contrastive(one, one, jnp.zeros(())).value) == pytest.approx(np.log1p(np.exp(-1)), rel=LAYER)


def test_softmax_splits_its_target_over_equal_ids():
    """All ids equal and all logits equal: cross-entropy of two uniform distributions, log 4."""
    rows = jnp.ones((4, 2))
    loss = contrastive(rows, rows, jnp.zeros(()), ids=jnp.zeros(4, jnp.int32), kind="softmax")
    assert float(loss.value) == pytest.approx(np.log(4), rel=LAYER)


def test_a_sure_and_right_pair_costs_nothing():
    one = jnp.ones((1, 1))
    assert float(contrastive(one, one, jnp.log(jnp.float32(100))).value) == 0


@KINDS
@EVERY_KERNEL
def test_logits_of_bfloat16_embeddings_are_float32(kind, implementation):
    image, text, *rest = inputs()[:-1]
    image, text = image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)
    value, grads = compiled(kind, implementation)(image, text, *rest)
    assert value.dtype == jnp.float32
    expected, exact = compiled(kind, implementation)(image.astype(np.float32), text.astype(np.float32), *rest)
    assert value == pytest.approx(expected, rel=LAYER)
    assert grads[0].dtype == jnp.bfloat16
    assert above(relative_errors(grads, exact), BFLOAT16) == {}


@KINDS
@EVERY
def test_a_mesh_may_be_given(kind, implementation):
    args = inputs()[:4]

    def loss(*args: Any) -> Any:
        options = options_of(kind, implementation)
        return contrastive(*args, mesh=mesh_of((2, 2, 2)), **options).value

    expected, _ = compiled(kind, "dense")(*args, np.arange(40, dtype=np.int32), np.ones(40, np.float32))
    assert float(loss(*args)) == pytest.approx(float(expected), rel=LAYER)
    assert float(jax.jit(loss)(*args)) == pytest.approx(float(expected), rel=LAYER)


# What each implementation may send: {operation: how often it stands in the compiled program}. Sums of scalars apart, a
# ring only passes tiles on, and no matrix of logits is ever gathered.
COLLECTIVES = {
    ("sigmoid", "dense"): {"all-gather": 1},
    ("sigmoid", "gather"): {"all-gather": 1, "reduce-scatter": 1},
    ("sigmoid", "ring"): {"collective-permute": 2},
    ("softmax", "dense"): {"all-gather": 1},
    ("softmax", "gather"): {"all-gather": 4, "reduce-scatter": 2},
    ("softmax", "ring"): {"collective-permute": 5},
}


@pytest.mark.parametrize(("kind", "implementation"), COLLECTIVES, ids=str)
def test_collectives_of_the_compiled_program(kind, implementation):
    def loss(*args: Any) -> Any:
        return contrastive(*args, kind=kind, implementation=implementation).value

    mesh = mesh_of((8, 1, 1))
    with jax.set_mesh(mesh):
        embed = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rules.batch_sharding(mesh))
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=rules.replicated(mesh))
        program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(embed, embed, scalar, scalar).compile()
    found = Program(program.as_text())
    counts = {name: count for name, count in found.collective_counts.items() if name != "all-reduce"}
    assert counts == COLLECTIVES[kind, implementation]
    assert "[64,64]" not in found.text
    if implementation == "ring":
        passes = {"sigmoid": 2, "softmax": 3}[kind]
        statistics = {"sigmoid": 0, "softmax": 5}[kind]
        passed_on = 4 * 64 * (passes * 16 + statistics)
        assert sum(c.repeats * c.sent_bytes for c in found.collectives if c.operation != "all-reduce") == passed_on


def test_the_traced_program_does_not_grow():
    def length(num_rows: int, sizes: tuple[int, int, int], devices: int) -> int:
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:devices])
        with jax.set_mesh(mesh):
            embed = jax.ShapeDtypeStruct((num_rows, 16), jnp.float32, sharding=rules.batch_sharding(mesh))
            loss = jax.grad(lambda x, y: contrastive(x, y, 1.0, kind="softmax", implementation="ring").value)
            return str(jax.make_jaxpr(loss)(embed, embed)).count(" = ")

    assert length(2**16, (8, 1, 1), 8) == length(2**9, (2, 1, 1), 2)


def test_auto_chooses_by_sizes():
    assert choose(1024, 512, 1, "cpu")[0] == "dense"
    assert choose(32768, 512, 1, "cpu")[0] == "gather"
    assert choose(32768, 512, 1, "TPU v5 lite")[0] == "gather"
    assert choose(32768, 512, 8, "NVIDIA H100")[0] == "gather"
    assert choose(2**20, 768, 256, "NVIDIA H100")[0] == "ring"
    assert choose(32768, 512, 8, "TPU v5 lite")[0] == "ring"
    assert choose(16384, 768, 64, "TPU v5 lite")[0] == "dense"
    assert choose(4096, 768, 16, "TPU v5 lite")[0] == "gather"
    assert choose(4096, 100, 16, "TPU v5 lite")[0] == "dense", "the kernel takes no such width"


def test_auto_says_why(caplog):
    with caplog.at_level("INFO", logger="mmjax"):
        contrastive(*inputs()[:4])
    assert "dense, since the logits of a device take" in caplog.text


@pytest.mark.parametrize("length", [1, 5, 6, 7])
def test_a_cut_joins_to_what_was_split(length):
    rows = np.arange(2.0 * length).reshape(length, 2)
    for least in (1, 2):
        cut = Cut.of(length, TILE, least)
        assert cut.num_tiles >= least
        assert cut.tile <= TILE
        assert np.array_equal(cut.join(cut.split(jnp.asarray(rows))), rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "hinge"}, "kind = 'hinge' .* use one of sigmoid, softmax"),
        ({"implementation": "fast"}, "implementation = 'fast' .* use one of auto, dense, gather, ring"),
        ({"kernel": "triton"}, "kernel = 'triton' .* use one of auto, xla, pallas"),
        ({"tile": 0}, "tile = 0 .* is not positive"),
        ({"text_embed": np.ones((3, 2))}, r"\(4, 2\) and text_embed \(3, 2\) .* as many texts as images"),
        ({"ids": np.ones(3, np.int32)}, r"ids .* has shape \(3,\): it must be \(4,\)"),
        ({"weights": np.ones((4, 1))}, r"weights .* has shape \(4, 1\): it must be \(4,\)"),
    ],
)
def test_bad_input_is_one_clear_error(changes, message):
    args = {"image_embed": np.ones((4, 2)), "text_embed": np.ones((4, 2)), "log_scale": 0.0, **changes}
    with pytest.raises(UserError, match=message):
        contrastive(**args)


def test_pallas_is_for_tpu(monkeypatch):
    args = inputs()[:4]
    monkeypatch.setattr(rules, "device_kind", lambda mesh: "NVIDIA H100")
    with pytest.raises(UserError, match="kernel = 'pallas' .* is for TPU, and here is NVIDIA H100: use xla"):
        contrastive(*args, implementation="ring", kernel="pallas")


@pytest.mark.parametrize(
    ("rows", "tile", "expected"),
    [
        ((1024, 768), None, (256, 128)),
        ((65536, 768), None, (256, 256)),
        ((64, 768), None, (256, 128)),
        ((4096, 1536), None, (128, 128)),
        ((4096, 768), 512, (256, 256)),
        ((4096, 768), 64, (64, 64)),
    ],
)
def test_tiles_of_pallas_fit_the_fast_memory(rows, tile, expected):
    assert pallas_tiles(*rows, tile) == expected


def test_a_mesh_beside_the_one_that_is_set():
    with jax.set_mesh(mesh_of((8, 1, 1))), pytest.raises(UserError, match="not the one that is set"):
        contrastive(*inputs()[:4], mesh=mesh_of((2, 4, 1)))


@KINDS
@pytest.mark.parametrize("implementation", ["gather", "ring"])
def test_rows_that_the_tensor_axis_does_not_divide(kind, implementation):
    """12 rows over 2 x 2 devices of the batch and 2 of `tensor`, which then repeat each other's work."""
    args = inputs(12)
    value, _ = compiled(kind, implementation, (2, 2, 2))(*args)
    assert value == pytest.approx(REFERENCES[kind](*(np.asarray(arg, np.float64) for arg in args)), rel=LAYER)


def test_rows_that_do_not_divide_over_the_mesh():
    with jax.set_mesh(mesh_of((8, 1, 1))), pytest.raises(UserError, match="12 rows .* do not divide over 8 devices"):
        contrastive(np.ones((12, 2)), np.ones((12, 2)), 0.0)
    with pytest.raises(UserError, match="12 rows .* do not divide over 8 devices"):
        contrastive(np.ones((12, 2)), np.ones((12, 2)), 0.0, mesh=mesh_of((8, 1, 1)))


def test_debug_refuses_embeddings_that_are_not_normalised():
    args = inputs()[:4]
    assert float(contrastive(*args, debug=True).value) == float(contrastive(*args).value)
    masked = np.concatenate([3 * args[0][:1], args[0][1:]]), *args[1:], None, np.arange(40) > 0
    assert np.isfinite(float(contrastive(*masked, debug=True).value))
    with pytest.raises(Exception, match="norm that is 1 off 1: divide each by its norm"):
        jax.block_until_ready(contrastive(2 * args[0], *args[1:], debug=True).value)
    # The failed callback is forgotten, or the process would end with it.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        jax.effects_barrier()
