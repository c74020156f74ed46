"""Losses of pairs and of answers against float64 numpy, and against the authors' code of ViLBERT and UNITER."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import pairs
from tests.losses import reference
from tests.losses.goldens import golden
from tests.losses.meshes import MESHES, value_and_gradients
from tests.tolerances import LAYER, above, relative_errors

NUM_ANSWERS = 5
WEIGHTS = np.asarray([1, 0, 2, 1, 0.5, 1, 1, 0], np.float32)
ANSWERS = np.asarray([3, 1, -1, 0, 4, -100, 2, -1], np.int32)
MATCHED = np.asarray([1, 0, 1, 0, 0, 1, 1, 0], np.int32)
COUNTED = {
    "pair_cross_entropy": WEIGHTS > 0,
    "choice_cross_entropy": WEIGHTS > 0,
    "answer_cross_entropy": (WEIGHTS > 0) & (ANSWERS >= 0),
    "answer_binary_cross_entropy": WEIGHTS > 0,
}


def normal(name: str, num_classes: int) -> np.ndarray:
    """NaN where nothing counts."""
    values = 3 * np.random.default_rng(num_classes).normal(size=(8, num_classes)).astype(np.float32)
    values[~COUNTED[name]] = np.nan
    return values


def inputs_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels; of a choice the odds of both."""
    if name == "pair_cross_entropy":
        return normal(name, 2), MATCHED
    if name == "choice_cross_entropy":
        right, wrong = normal(name, 2).T
        return right, wrong
    if name == "answer_cross_entropy":
        return normal(name, NUM_ANSWERS), ANSWERS
    scores = np.random.default_rng(1).choice(np.float32([0, 0.3, 1]), (8, NUM_ANSWERS))
    return normal(name, NUM_ANSWERS), np.where(COUNTED[name][:, None], scores, np.float32(np.nan))


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return np.log(np.sum(np.exp(logits))) - logits[label]


def choice(right: np.ndarray, wrong: float) -> float:
    return cross_entropy(np.stack([right, wrong]), 0)


def binary_cross_entropy(logits: np.ndarray, scores: np.ndarray) -> float:
    shares = 1 / (1 + np.exp(-logits))
    return -sum(q * np.log(s) + (1 - q) * np.log(1 - s) for q, s in zip(scores.astype(np.float64), shares, strict=True))


# Of one example.
DEFINITIONS: dict[str, Callable[..., float]] = {
    "pair_cross_entropy": cross_entropy,
    "choice_cross_entropy": choice,
    "answer_cross_entropy": cross_entropy,
    "answer_binary_cross_entropy": binary_cross_entropy,
}


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_value_and_gradient_equal_the_definition(name, sizes):
    logits, labels = inputs_of(name)
    counted = COUNTED[name]

    def by_hand(logits: np.ndarray) -> float:
        losses = [WEIGHTS[b] * DEFINITIONS[name](logits[b], labels[b]) for b in np.flatnonzero(counted)]
        return sum(losses) / WEIGHTS[counted].sum()

    wanted = by_hand(logits.astype(np.float64)), (reference.gradient(by_hand, 0, logits),)
    found = value_and_gradients(getattr(pairs, name), (logits, labels, WEIGHTS), (0,), sizes)
    assert above(relative_errors(found, wanted), LAYER) == {}
    assert np.all(found[1][0][~counted] == 0)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nothing_counts(name):
    logits, labels = inputs_of(name)
    value, (grad,) = value_and_gradients(getattr(pairs, name), (np.nan * logits, labels, 0 * WEIGHTS), (0,), None)
    assert value == 0
    assert np.all(grad == 0)


def test_no_question_has_an_answer():
    logits = inputs_of("answer_cross_entropy")[0]
    value, (grad,) = value_and_gradients(pairs.answer_cross_entropy, (logits, 0 * ANSWERS - 1, WEIGHTS), (0,), None)
    assert value == 0
    assert np.all(grad == 0)


def test_an_answer_that_is_not_in_the_table_makes_the_loss_nan():
    logits = inputs_of("answer_cross_entropy")[0]
    assert np.isnan(pairs.answer_cross_entropy(logits, np.where(ANSWERS == 3, NUM_ANSWERS, ANSWERS), WEIGHTS).value)


def test_scores_are_constants():
    args = (*inputs_of("answer_binary_cross_entropy"), WEIGHTS)
    _, (grad,) = value_and_gradients(pairs.answer_binary_cross_entropy, args, (1,), None)
    assert np.all(grad == 0)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_bfloat16_is_computed_in_float32(name):
    logits, labels = inputs_of(name)
    loss, low = jax.jit(getattr(pairs, name)), jnp.asarray(logits).astype(jnp.bfloat16)
    found = loss(low, labels, WEIGHTS)
    assert found.sum.dtype == found.count.dtype == jnp.float32
    assert float(found.value) == float(loss(low.astype(jnp.float32), labels, WEIGHTS).value)


def test_a_choice_compares():
    """What is added to the odds of both changes nothing, and odds that are far apart give no infinity."""
    right, wrong = inputs_of("choice_cross_entropy")
    _, (pulled, pushed) = value_and_gradients(pairs.choice_cross_entropy, (right, wrong, WEIGHTS), (0, 1), None)
    assert above(relative_errors(pushed, -pulled), LAYER) == {}
    far = pairs.choice_cross_entropy(jnp.asarray([-1e4]), jnp.asarray([1e4]), jnp.ones(1))
    assert float(far.value) == 2e4


def test_a_pair_may_be_a_bool():
    logits, matched = inputs_of("pair_cross_entropy")
    first, second = (pairs.pair_cross_entropy(logits, each, WEIGHTS) for each in (matched, matched > 0))
    assert float(first.value) == float(second.value)


@pytest.mark.parametrize("case", ["full", "padded"])
def test_uniter(case):
    batch, theirs = golden("uniter_small", case)
    loss = pairs.pair_cross_entropy(theirs["pair_logits"], batch.matched, np.ones(len(batch.matched), np.float32))
    assert float(loss.value) == pytest.approx(theirs["itm_loss"].mean(), rel=LAYER)


@pytest.mark.parametrize("case", ["full", "padded"])
def test_vilbert(case):
    """Their index 1 is the mismatch."""
    batch, theirs = golden("vilbert_small", case)
    ones = np.ones(len(batch.matched), np.float32)
    loss = pairs.pair_cross_entropy(theirs["pair_logits"], 1 - batch.matched, ones)
    assert float(loss.value) == pytest.approx(float(theirs["pair_loss"]), rel=LAYER)
    swapped = pairs.pair_cross_entropy(theirs["pair_logits"][:, ::-1], batch.matched, ones)
    assert float(swapped.value) == pytest.approx(float(theirs["pair_loss"]), rel=LAYER)
