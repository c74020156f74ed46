"""InfoNCE variants, triplets and alignment against float64 numpy, row by row, and on a mesh."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.losses import contrastive, ranking
from mmjax.losses.chunked import chunked_sigmoid
from mmjax.losses.info_nce import clamped_log_scale, info_nce
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program
from tests.losses import reference
from tests.tolerances import LAYER, above, relative_errors

IDS = np.asarray([0, 1, 2, 1, 3, 3, 3, 4], np.int32)
MASK = np.asarray([1, 1, 0, 1, 1, 1, 0, 1], np.float32)
SCALE = 8.0


def unit() -> tuple[np.ndarray, np.ndarray]:
    sides = np.random.default_rng(0).normal(size=(2, 8, 4))
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    return sides[0].astype(np.float32), sides[1].astype(np.float32)


def info_nce_reference(image, text, *, direction="both", label_smoothing=0.0, hardness=0.0) -> float:
    def one_way(rows, columns):
        kept, total = np.flatnonzero(MASK), 0.0
        for i in kept:
            logits = SCALE * columns[kept] @ rows[i]
            pair = IDS[kept] == IDS[i]
            factors = np.ones(len(kept))
            hard = np.exp(hardness * logits[~pair])
            factors[~pair] = hard / hard.mean()
            shares = factors * np.exp(logits) / np.sum(factors * np.exp(logits))
            target = (1 - label_smoothing) * pair / pair.sum() + label_smoothing / len(kept)
            total -= target @ np.log(shares)
        return total / MASK.sum()

    ways = {"image_to_text": one_way(image, text), "text_to_image": one_way(text, image)}
    return sum(ways.values()) / 2 if direction == "both" else ways[direction]


def triplet_reference(image, text, *, margin=0.2, hardest=True) -> float:
    total, similarities = 0.0, image @ text.T
    for i in np.flatnonzero(MASK):
        others = [j for j in np.flatnonzero(MASK) if IDS[j] != IDS[i]]
        for row in (similarities[i, others], similarities[others, i]):
            broken = np.maximum(margin + row - similarities[i, i], 0)
            total += broken.max() if hardest else broken.sum()
    return total / MASK.sum()


def alignment_reference(image, text) -> float:
    return float(np.square(image - text).sum(axis=1) @ MASK / MASK.sum())


def ours(name: str, options: dict[str, Any]) -> Any:
    def loss(image: Any, text: Any, ids: Any, mask: Any) -> Any:
        match name:
            case "info_nce":
                return info_nce(image, text, math.log(SCALE), ids, mask, **options).value
            case "triplet":
                return ranking.triplet(image, text, ids, mask, **options).value
            case _:
                return ranking.alignment(image, text, mask).value

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


REFERENCES = {"info_nce": info_nce_reference, "triplet": triplet_reference, "alignment": alignment_reference}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("info_nce", {}),
        ("info_nce", {"direction": "image_to_text"}),
        ("info_nce", {"direction": "text_to_image"}),
        ("info_nce", {"label_smoothing": 0.1}),
        ("info_nce", {"hardness": 0.5}),
        ("info_nce", {"hardness": 0.25, "label_smoothing": 0.2, "direction": "image_to_text"}),
        ("triplet", {}),
        ("triplet", {"hardest": False, "margin": 0.5}),
        ("alignment", {}),
    ],
    ids=str,
)
def test_value_and_gradients_equal_the_reference_also_on_a_mesh(name, options):
    args = unit()
    double = [arg.astype(np.float64) for arg in args]

    def loss(*args: np.ndarray) -> float:
        return REFERENCES[name](*args, **options)

    expected = loss(*double), tuple(reference.gradient(loss, position, *double) for position in range(2))
    function = ours(name, options)
    assert above(relative_errors(jax.device_get(function(*args, IDS, MASK)), expected), LAYER) == {}
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        split = function(*jax.device_put((*args, IDS, MASK), rules.batch_sharding(mesh)))
        assert split[1][0].sharding.is_equivalent_to(rules.batch_sharding(mesh), 2)
    assert above(relative_errors(jax.device_get(split), expected), LAYER) == {}


def test_info_nce_without_variants_is_the_softmax_loss():
    image, text = unit()
    expected = contrastive(image, text, math.log(SCALE), None, IDS, MASK, kind="softmax")
    assert float(info_nce(image, text, math.log(SCALE), IDS, MASK).value) == pytest.approx(
        float(expected.value), rel=LAYER
    )


def test_the_scale_is_clamped_and_has_no_gradient_there():
    value, slope = jax.value_and_grad(clamped_log_scale)(jnp.float32(5.0))
    assert float(value) == pytest.approx(math.log(100))
    assert slope == 0
    assert jax.grad(clamped_log_scale)(jnp.float32(4.0)) == 1


def test_nothing_breaks_the_margin():
    axes = np.eye(8, 8, dtype=np.float32)
    assert float(ranking.triplet(axes, axes).value) == 0


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)], ids=str)
def test_chunked_sigmoid_is_the_sigmoid_loss_of_each_chunk(sizes):
    image, text = unit()
    scalars = np.float32(math.log(SCALE)), np.float32(-2)

    def loss(image: Any, text: Any, log_scale: Any, bias: Any) -> Any:
        return chunked_sigmoid(image, text, log_scale, bias, IDS, MASK, num_chunks=4).value

    def expected(image: Any, text: Any, log_scale: Any, bias: Any) -> Any:
        chunks = [slice(start, start + 2) for start in range(0, 8, 2)]
        means = [contrastive(image[c], text[c], log_scale, bias, IDS[c], MASK[c]) for c in chunks]
        return sum(mean.sum for mean in means) / sum(mean.count for mean in means)

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    reference_results = jax.value_and_grad(expected, argnums=(0, 1, 2, 3))(image, text, *scalars)
    if sizes is None:
        results = function(image, text, *scalars)
    else:
        mesh = make_mesh(MeshConfig(*sizes))
        with jax.set_mesh(mesh):
            embeds = jax.device_put((image, text), rules.batch_sharding(mesh))
            results = function(*embeds, *scalars)
            text_of_program = function.lower(*embeds, *scalars).compile().as_text()
            assert set(Program(text_of_program).collective_counts) <= {"all-reduce"}
    assert above(relative_errors(jax.device_get(results), reference_results), LAYER) == {}


def test_chunks_must_divide_the_batch():
    with pytest.raises(UserError, match="num_chunks = 3 must divide the 8 rows"):
        chunked_sigmoid(*unit(), jnp.zeros(()), num_chunks=3)
