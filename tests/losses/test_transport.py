"""Optimal transport of words to regions against float64 numpy, the true optimum, and the authors' code of UNITER."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import transport
from tests.losses import reference
from tests.losses.goldens import golden
from tests.losses.meshes import MESHES, value_and_gradients
from tests.tolerances import LAYER, above, relative_errors

NUM_ROWS, NUM_TOKENS, NUM_REGIONS, WIDTH = 8, 5, 6, 4
WEIGHTS = np.asarray([1, 0, 2, 1, 0.5, 1, 1, 0], np.float32)
MATCHED = np.asarray([1, 0, 1, 0, 0, 1, 1, 0], bool)


def masks() -> tuple[np.ndarray, np.ndarray]:
    """With gaps. Row 0 has all, row 1 nothing and weight 0, row 2 one token, and row 3 no region."""
    rng = np.random.default_rng(0)
    text, image = (rng.random((NUM_ROWS, length)) < 0.6 for length in (NUM_TOKENS, NUM_REGIONS))
    text[:, 1], image[:, 2] = True, True
    text[0], image[0] = True, True
    text[1], image[1] = False, False
    text[2] = np.arange(NUM_TOKENS) == 3
    image[3] = False
    return text, image


TEXT_MASK, IMAGE_MASK = masks()


def tokens() -> tuple[np.ndarray, np.ndarray]:
    """NaN at padding, and in rows that do not count."""
    rng = np.random.default_rng(1)
    sides = []
    for mask in (TEXT_MASK, IMAGE_MASK):
        values = rng.normal(size=(*mask.shape, WIDTH)).astype(np.float32)
        values[~(mask & (WEIGHTS > 0)[:, None])] = np.nan
        sides.append(values)
    return sides[0], sides[1]


def costs_of(text: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Of tokens (M, d) and regions (N, d) that are all there."""
    norms = np.linalg.norm(text, axis=1)[:, None] * np.linalg.norm(image, axis=1)
    return 1 - text @ image.T / norms


def plan_of(costs: np.ndarray, beta: float, num_steps: int) -> np.ndarray:
    """(M, N), one number at a time; nothing where a side is empty."""
    m, n = costs.shape
    if m == 0 or n == 0:
        return np.zeros((m, n))
    plan, sigma = np.ones((m, n)), np.full(m, 1 / m)
    for _ in range(num_steps):
        q = np.asarray([[np.exp(-costs[i, j] / beta) * plan[i, j] for j in range(n)] for i in range(m)])
        delta = np.asarray([1 / (n * sum(q[i, j] * sigma[i] for i in range(m))) for j in range(n)])
        sigma = np.asarray([1 / (m * sum(q[i, j] * delta[j] for j in range(n))) for i in range(m)])
        plan = np.asarray([[sigma[i] * q[i, j] * delta[j] for j in range(n)] for i in range(m)])
    return plan


def plans_by_hand(beta: float = 0.5, num_steps: int = 50) -> list[np.ndarray]:
    """Of the tokens and regions that are there, by row."""
    text, image = (side.astype(np.float64) for side in tokens())
    rows = range(NUM_ROWS)
    return [plan_of(costs_of(text[b, TEXT_MASK[b]], image[b, IMAGE_MASK[b]]), beta, num_steps) for b in rows]


def distances_by_hand(text: np.ndarray, image: np.ndarray, plans: list[np.ndarray]) -> np.ndarray:
    rows = range(NUM_ROWS)
    costs = [costs_of(text[b, TEXT_MASK[b]], image[b, IMAGE_MASK[b]]) for b in rows]
    return np.asarray([np.sum(costs[b] * plans[b]) if WEIGHTS[b] else 0 for b in rows])


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_value_and_gradients_equal_the_definition(sizes):
    """In which the plan is a constant."""
    plans = plans_by_hand()

    def by_hand(text: np.ndarray, image: np.ndarray) -> float:
        signs = np.where(MATCHED, 1, -1)
        return float(np.sum(WEIGHTS * signs * distances_by_hand(text, image, plans)) / WEIGHTS.sum())

    sides = tokens()
    double = [side.astype(np.float64) for side in sides]
    wanted = by_hand(*double), tuple(reference.gradient(by_hand, position, *double) for position in (0, 1))
    args = (*sides, TEXT_MASK, IMAGE_MASK, MATCHED, WEIGHTS)
    found = value_and_gradients(transport.word_region_alignment, args, (0, 1), sizes)
    assert above(relative_errors(found, wanted), LAYER) == {}
    for grad, side in zip(found[1], sides, strict=True):
        assert np.all(grad[np.isnan(side)] == 0)


@pytest.mark.parametrize(("beta", "num_steps"), [(0.5, 50), (0.2, 7), (1.0, 1)])
def test_plan_and_distance_equal_the_definition(beta, num_steps):
    text, image = tokens()
    settings = {"beta": beta, "num_steps": num_steps}
    both = TEXT_MASK[:, :, None] & IMAGE_MASK[:, None, :]
    # Whatever costs there are at padding, they do not count.
    costs = np.where(both, transport.cosine_costs(text, image, TEXT_MASK, IMAGE_MASK), np.float32(np.nan))
    plan = np.asarray(transport.transport_plan(costs, TEXT_MASK, IMAGE_MASK, **settings))
    plans = plans_by_hand(**settings)
    for b in np.flatnonzero(WEIGHTS):
        assert above(relative_errors(plan[b][np.ix_(TEXT_MASK[b], IMAGE_MASK[b])], plans[b]), LAYER) == {}
    counted = WEIGHTS > 0
    assert np.all(plan[~both & counted[:, None, None]] == 0)
    distances = transport.transport_distance(text, image, TEXT_MASK, IMAGE_MASK, **settings)
    wanted = distances_by_hand(text.astype(np.float64), image.astype(np.float64), plans)
    assert above(relative_errors(distances[counted], wanted[counted]), LAYER) == {}


def test_the_marginals_become_uniform():
    """Those of tokens are uniform after each step, and those of regions come closer to it with more steps."""
    rng = np.random.default_rng(2)
    costs = rng.uniform(0, 2, (3, 4, 7)).astype(np.float32)
    everywhere = np.ones((3, 4), bool), np.ones((3, 7), bool)
    errors = []
    for num_steps in (1, 50, 1000):
        plan = np.asarray(transport.transport_plan(costs, *everywhere, num_steps=num_steps))
        assert np.allclose(plan.sum(axis=2), 1 / 4, rtol=LAYER)
        errors.append(np.abs(plan.sum(axis=1) * 7 - 1).max())
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_many_steps_find_the_optimum():
    """Of as many tokens as regions it is the best assignment of one to the other, each of a share 1/5."""
    text, image = np.random.default_rng(3).normal(size=(2, 3, 5, WIDTH)).astype(np.float32)
    everywhere = np.ones((3, 5), bool)
    found = transport.transport_distance(text, image, everywhere, everywhere, num_steps=5000)
    costs = np.asarray(transport.cosine_costs(text, image, everywhere, everywhere))
    best = [min(np.mean(each[range(5), order]) for order in itertools.permutations(range(5))) for each in costs]
    assert np.allclose(found, best, rtol=LAYER)


def test_a_token_of_zeros_has_a_finite_gradient():
    """Its norm is at the floor, 1e-5, and its cost is 1."""
    text, image = np.zeros((1, 1, WIDTH), np.float32), np.ones((1, 1, WIDTH), np.float32)
    mask = np.ones((1, 1), bool)

    def loss(text: jax.Array) -> jax.Array:
        return jnp.sum(transport.transport_distance(text, image, mask, mask))

    value, grad = jax.value_and_grad(loss)(text)
    assert float(value) == 1
    assert np.allclose(grad, -0.5 / 1e-5, rtol=LAYER)


def test_nothing_counts():
    args = (*tokens(), TEXT_MASK, IMAGE_MASK, MATCHED, 0 * WEIGHTS)
    value, grads = value_and_gradients(transport.word_region_alignment, args, (0, 1), None)
    assert value == 0
    assert all(np.all(grad == 0) for grad in grads)


def test_bfloat16_is_computed_in_float32():
    low = [jnp.asarray(side).astype(jnp.bfloat16) for side in tokens()]
    rest = (TEXT_MASK, IMAGE_MASK, MATCHED, WEIGHTS)
    found = transport.word_region_alignment(*low, *rest)
    assert found.sum.dtype == jnp.float32
    exact = transport.word_region_alignment(*(side.astype(jnp.float32) for side in low), *rest)
    assert float(found.value) == float(exact.value)


@pytest.mark.parametrize("case", ["full", "padded"])
def test_uniter(case):
    batch, theirs = golden("uniter_small", case)
    args = (theirs["text"], theirs["image"], batch.text_mask, batch.region_mask)
    found = transport.transport_distance(*args)
    assert above(relative_errors(found, theirs["transport"]), LAYER) == {}
    ones = np.ones(len(batch.matched), np.float32)
    loss = transport.word_region_alignment(*args, batch.matched, ones)
    assert float(loss.value) == pytest.approx(float(theirs["transport_loss"]), rel=LAYER)
