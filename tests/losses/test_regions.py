"""Losses of masked regions against float64 numpy, and against the authors' code of ViLBERT and UNITER."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.losses import regions
from mmjax.types import Mean
from tests.losses import reference
from tests.losses.goldens import golden, spread
from tests.losses.meshes import MESHES, value_and_gradients
from tests.tolerances import LAYER, above, relative_errors

NUM_ROWS, NUM_REGIONS, NUM_CLASSES, NUM_CANDIDATES = 8, 3, 5, 4
WEIGHTS = np.asarray([1, 0, 2, 1, 0.5, 1, 1, 0], np.float32)
# Row 3 has no masked region, and row 7 counts nothing though it has some.
MASKED = np.asarray([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 1]], bool)
COUNTED = MASKED & (WEIGHTS > 0)[:, None]


def normal(seed: int, *dims: int) -> np.ndarray:
    """Some of them far apart, for both parts of the smooth loss; NaN where nothing counts."""
    values = np.random.default_rng(seed).normal(size=(NUM_ROWS, NUM_REGIONS, *dims)).astype(np.float32)
    values[~COUNTED] = np.nan
    return values


def labels() -> np.ndarray:
    drawn = np.random.default_rng(2).integers(0, NUM_CLASSES, COUNTED.shape).astype(np.int32)
    return np.where(COUNTED, drawn, -1)


def confidences() -> np.ndarray:
    """Some are 0, and those that are not counted are NaN."""
    drawn = np.random.default_rng(3).choice(np.float32([0, 0.25, 1]), COUNTED.shape)
    return np.where(COUNTED, drawn, np.float32(np.nan))


def probabilities() -> np.ndarray:
    """Some are 0."""
    raw = np.maximum(normal(4, NUM_CLASSES), 0) + np.eye(NUM_CLASSES, dtype=np.float32)[1]
    return raw / raw.sum(axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return np.log(np.sum(np.exp(logits))) - logits[label]


def smooth(distance: float) -> float:
    return distance**2 / 2 if abs(distance) < 1 else abs(distance) - 0.5


def divergence(logits: np.ndarray, targets: np.ndarray) -> float:
    terms = [(c, target) for c, target in enumerate(targets.astype(np.float64)) if target]
    return sum(target * (np.log(target) + cross_entropy(logits, c)) for c, target in terms)


# Of one position: prediction, target -> its loss.
DEFINITIONS: dict[str, Callable[..., float]] = {
    "feature_regression": lambda x, y: np.mean([(a - b) ** 2 for a, b in zip(x, y, strict=True)]),
    "smooth_feature_regression": lambda x, y: np.mean([smooth(a - b) for a, b in zip(x, y, strict=True)]),
    "class_cross_entropy": cross_entropy,
    "class_divergence": divergence,
    "contrastive_regions": lambda x, candidates: cross_entropy(np.asarray([x @ y for y in candidates]), 0),
}


def inputs_of(name: str) -> tuple[np.ndarray, ...]:
    """Prediction and target."""
    match name:
        case "class_cross_entropy":
            return normal(0, NUM_CLASSES), labels()
        case "class_divergence":
            return normal(0, NUM_CLASSES), probabilities()
        case "contrastive_regions":
            return normal(0, NUM_CLASSES), normal(1, NUM_CANDIDATES, NUM_CLASSES)
        case _:
            return 2 * normal(0, NUM_CLASSES), normal(1, NUM_CLASSES)


def expected(name: str, predicted: np.ndarray, target: np.ndarray, confidences: np.ndarray | None) -> float:
    total = 0.0
    for b, p in zip(*np.nonzero(COUNTED), strict=True):
        factor = 1.0 if confidences is None else float(confidences[b, p])
        total += factor * WEIGHTS[b] * DEFINITIONS[name](predicted[b, p], target[b, p])
    return total / np.sum(WEIGHTS[:, None] * MASKED)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize(
    ("name", "with_confidences"),
    [*((name, False) for name in DEFINITIONS), ("smooth_feature_regression", True), ("class_cross_entropy", True)],
)
def test_value_and_gradient_equal_the_definition(name, with_confidences, sizes):
    predicted, target = inputs_of(name)
    more = (confidences(),) if with_confidences else ()

    def by_hand(predicted: np.ndarray) -> float:
        return expected(name, predicted, target, *(more or (None,)))

    wanted = by_hand(predicted.astype(np.float64)), (reference.gradient(by_hand, 0, predicted),)
    found = value_and_gradients(getattr(regions, name), (predicted, target, MASKED, WEIGHTS, *more), (0,), sizes)
    assert above(relative_errors(found, wanted), LAYER) == {}
    assert np.all(found[1][0][~COUNTED] == 0)


@pytest.mark.parametrize("name", [name for name in DEFINITIONS if name != "class_cross_entropy"])
def test_targets_are_constants(name):
    _, (grad,) = value_and_gradients(getattr(regions, name), (*inputs_of(name), MASKED, WEIGHTS), (1,), None)
    assert np.all(grad == 0)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("nothing", ["masked", "weighted"])
def test_nothing_is_predicted(name, nothing):
    predicted, target = (np.full_like(x, np.nan if x.dtype == np.float32 else -1) for x in inputs_of(name))
    masks = (0 * MASKED > 0, WEIGHTS) if nothing == "masked" else (MASKED, 0 * WEIGHTS)
    value, (grad,) = value_and_gradients(getattr(regions, name), (predicted, target, *masks), (0,), None)
    assert value == 0
    assert np.all(grad == 0)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_bfloat16_is_computed_in_float32(name):
    predicted, target = (jnp.asarray(x) for x in inputs_of(name))
    target = target.astype(jnp.bfloat16) if target.dtype == jnp.float32 else target
    loss = jax.jit(getattr(regions, name))
    low = loss(predicted.astype(jnp.bfloat16), target, MASKED, WEIGHTS)
    exact = [x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in (predicted.astype(jnp.bfloat16), target)]
    assert low.sum.dtype == low.count.dtype == jnp.float32
    assert float(low.value) == float(loss(*exact, MASKED, WEIGHTS).value)


@pytest.mark.parametrize("label", [NUM_CLASSES, -1])
def test_a_label_that_is_no_class_makes_the_loss_nan(label):
    wrong = labels()
    wrong[0, 0] = label
    assert np.isnan(regions.class_cross_entropy(normal(0, NUM_CLASSES), wrong, MASKED, WEIGHTS).value)


def losses_of_uniter(case: str) -> dict[str, tuple[Mean, np.ndarray]]:
    """Ours, and theirs before the mean."""
    batch, theirs = golden("uniter_small", case)
    ones, masked = np.ones(len(batch.text_ids), np.float32), batch.masked_regions
    features, logits = (spread(theirs[name], masked) for name in ("region_features", "region_logits"))
    # Class 0 is the background.
    likeliest = 1 + np.argmax(batch.region_targets[..., 1:], axis=-1)
    is_token = batch.text_labels >= 0
    tokens = spread(theirs["token_logits"], is_token)
    divergence = regions.class_divergence(logits, batch.region_targets, masked, ones)
    return {
        "mlm": (regions.class_cross_entropy(tokens, batch.text_labels, is_token, ones), theirs["mlm_loss"]),
        "mrfr": (regions.feature_regression(features, batch.features, masked, ones), theirs["mrfr_loss"]),
        "mrc": (regions.class_cross_entropy(logits, likeliest, masked, ones), theirs["mrc_loss"]),
        "mrckl": (Mean(divergence.sum, divergence.count * logits.shape[-1]), theirs["mrckl_loss"]),
    }


@pytest.mark.parametrize("case", ["full", "padded"])
def test_uniter(case):
    for name, (ours, theirs) in losses_of_uniter(case).items():
        assert float(ours.value) == pytest.approx(theirs.mean(), rel=LAYER), name


def losses_of_vilbert(case: str) -> tuple[dict[str, Mean], dict[str, np.ndarray]]:
    batch, theirs = golden("vilbert_small", case)
    ones, masked = np.ones(len(batch.text_ids), np.float32), batch.masked_regions
    # The first region is the whole image, which is not predicted.
    logits = theirs["region_logits"][:, 1:]
    candidates = spread(theirs["nce_candidates"], masked)
    # Their features have as many numbers as there are classes where they are the target.
    targets = batch.region_targets
    is_token = batch.text_labels >= 0
    ours = {
        "token_loss": regions.class_cross_entropy(theirs["token_logits"], batch.text_labels, is_token, ones),
        "region_loss_kl": regions.class_divergence(logits, targets, masked, ones),
        "region_loss_mse": regions.feature_regression(logits, targets, masked, ones),
        "region_loss_nce": regions.contrastive_regions(logits, candidates, masked, ones),
    }
    return ours, theirs


@pytest.mark.parametrize("case", ["full", "padded"])
def test_vilbert(case):
    ours, theirs = losses_of_vilbert(case)
    for name, loss in ours.items():
        assert float(loss.value) == pytest.approx(float(theirs[name]), rel=LAYER), name
