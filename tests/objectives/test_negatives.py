"""Negatives drawn on devices against the exact probabilities in float64; what is excluded, and every mesh alike."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mmjax.errors import UserError
from mmjax.objectives import negatives
from mmjax.objectives.negatives import sample_negatives
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program

NUM_ROWS, WIDTH, LOG_SCALE = 16, 8, math.log(4)
NUM_DRAWS = 20_000
CHANCE = 1e-6
"""How rarely a right sampler would fail a test of its frequencies, were the keys others."""
TILES = (4096, 5)
"""All columns at once, and in tiles of which the last is padded."""


def unit(seed: int, num_rows: int = NUM_ROWS) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num_rows, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def examples(seed: int, num_rows: int = NUM_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Ids of which some are equal, and weights of which some are 0."""
    rng = np.random.default_rng(seed)
    ids, weights = rng.integers(0, num_rows // 2, num_rows), rng.choice([0, 0.5, 1, 1, 2], num_rows)
    return ids.astype(np.int32), weights.astype(np.float32)


def probabilities(similarities: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Float64 (b, b), of column j for row i."""
    odds = weights.astype(np.float64) * np.exp(similarities) * np.not_equal.outer(ids, ids)
    return odds / odds.sum(axis=1, keepdims=True)


def frequencies(drawn: np.ndarray) -> np.ndarray:
    """(b, b), how often row i has column j in `drawn` (draws, b)."""
    return np.stack([np.bincount(column, minlength=NUM_ROWS) for column in drawn.T])


def assert_drawn_from(drawn: np.ndarray, wanted: np.ndarray) -> None:
    """Pearson's test of each row, and nothing of probability 0."""
    counts, expected = frequencies(drawn), NUM_DRAWS * wanted
    assert np.all(counts[wanted == 0] == 0)
    # The statistic follows its distribution where no cell is nearly empty.
    assert expected[wanted > 0].min() > 5
    distances = np.sum((counts - expected) ** 2 / np.where(wanted > 0, expected, 1), axis=1)
    limits = stats.chi2.isf(CHANCE / NUM_ROWS, np.sum(wanted > 0, axis=1) - 1)
    assert np.all(distances < limits)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("mode", ["hard", "random"])
def test_frequencies_are_the_probabilities(mode, tile, monkeypatch):
    monkeypatch.setattr(negatives, "TILE", tile)
    image, text, (ids, weights) = unit(0), unit(1), examples(2)

    @jax.jit
    def draw(keys: Any) -> Any:
        return jax.vmap(lambda key: sample_negatives(image, text, LOG_SCALE, ids, weights, key, mode=mode))(keys)

    found = jax.device_get(draw(jax.random.split(jax.random.key(0), NUM_DRAWS)))
    similarities = (mode == "hard") * np.exp(LOG_SCALE) * (np.float64(image) @ np.float64(text).T)
    assert_drawn_from(found.text_for_image, probabilities(similarities, ids, weights))
    assert_drawn_from(found.image_for_text, probabilities(similarities.T, ids, weights))
    assert np.array_equal(found.weights, np.broadcast_to(weights, (NUM_DRAWS, NUM_ROWS)))
    # Both sides draw for themselves: they agree as often as chance has it.
    agreed = np.mean(found.text_for_image == found.image_for_text, axis=0)
    chance = np.sum(probabilities(similarities, ids, weights) * probabilities(similarities.T, ids, weights), axis=1)
    assert np.all(np.abs(agreed - chance) < 6 * np.sqrt(chance / NUM_DRAWS))


@pytest.mark.parametrize("mode", ["hard", "random"])
@pytest.mark.parametrize(
    ("ids", "weights", "counted"),
    [
        ([7, 7, 7, 7], [1, 1, 1, 1], [0, 0, 0, 0]),
        ([7, 7, 7, 8], [1, 2, 1, 0], [0, 0, 0, 0]),
        ([7, 7, 7, 8], [1, 0, 2, 3], [1, 0, 2, 3]),
        ([7, 8, 8, 8], [1, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_rows_without_a_negative_are_flagged(ids, weights, counted, mode):
    ids, weights = np.asarray(ids, np.int32), np.asarray(weights, np.float32)
    draw = jax.jit(lambda key: sample_negatives(unit(0, 4), unit(1, 4), 3.0, ids, weights, key, mode=mode))
    for seed in range(10):
        found = draw(jax.random.key(seed))
        assert np.array_equal(found.weights, counted)
        for rows in (np.asarray(found.text_for_image), np.asarray(found.image_for_text)):
            sure = found.weights > 0
            assert np.all(ids[rows][sure] != ids[sure])
            assert np.all(weights[rows][sure] > 0)
            assert np.all((rows >= 0) & (rows < 4))


@pytest.mark.parametrize("tile", [4096, 24])
@pytest.mark.parametrize("mode", ["hard", "random"])
def test_every_mesh_draws_the_same(mode, tile, monkeypatch):
    monkeypatch.setattr(negatives, "TILE", tile)
    args = (unit(0, 64), unit(1, 64), *examples(2, 64))

    def draw(image: Any, text: Any, ids: Any, weights: Any) -> Any:
        return sample_negatives(image, text, LOG_SCALE, ids, weights, jax.random.key(5), mode=mode)

    expected = jax.device_get(jax.jit(draw)(*args))
    for sizes in ((1, 1, 1), (8, 1, 1), (2, 4, 1), (2, 2, 2)):
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        with jax.set_mesh(mesh):
            placed = [jax.device_put(x, rules.batch_sharding(mesh)) for x in args]
            compiled = jax.jit(draw).lower(*placed).compile()
            found = compiled(*placed)
        assert all(x.sharding.spec == jax.P(rules.BATCH_AXES) for x in found)
        assert all(np.array_equal(x, y) for x, y in zip(found, expected, strict=True))
        program = Program(compiled.as_text())
        # Each device compares its own rows; it learns the embeddings of all, their ids and weights, and no more.
        assert "[64,64]" not in program.text or math.prod(sizes[:2]) == 1
        assert {c.operation for c in program.collectives} <= {"all-gather"}
        assert program.sent_bytes <= 4 * 64 * ((2 * WIDTH if mode == "hard" else 0) + 2)


def test_random_does_not_look_at_the_embeddings():
    ids, weights = examples(2)
    draws = [
        sample_negatives(image, unit(1), 1.0, ids, jnp.asarray(weights), jax.random.key(0), mode="random")
        for image in (unit(0), unit(5) * np.nan)
    ]
    assert np.array_equal(draws[0].text_for_image, draws[1].text_for_image)
    assert np.array_equal(draws[0].image_for_text, draws[1].image_for_text)


def test_low_temperature_takes_the_hardest():
    image, text, ids = unit(0), unit(1), np.arange(NUM_ROWS, dtype=np.int32)
    found = sample_negatives(image, text, math.log(1e6), ids, jnp.ones(NUM_ROWS), jax.random.key(0))
    others = image @ text.T - 9 * np.eye(NUM_ROWS)
    assert np.array_equal(found.text_for_image, others.argmax(axis=1))
    assert np.array_equal(found.image_for_text, others.argmax(axis=0))


def test_there_is_no_gradient():
    ids, weights = examples(2)

    def loss(image: Any, text: Any, log_scale: Any, weights: Any) -> Any:
        return jnp.sum(sample_negatives(image, text, log_scale, ids, weights, jax.random.key(0)).weights)

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(unit(0), unit(1), LOG_SCALE, weights)
    assert all(np.all(grad == 0) for grad in grads)


def test_another_mode_is_refused():
    ids, weights = examples(2)
    with pytest.raises(UserError, match="mode = 'soft' .* use one of hard, random"):
        sample_negatives(unit(0), unit(1), 1.0, ids, weights, jax.random.key(0), mode="soft")
