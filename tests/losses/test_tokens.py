"""Cross-entropy of tokens against float64 numpy, and what the compiled program holds and sends."""

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from mmjax.errors import UserError
from mmjax.losses.tokens import TokenLoss, TokenTeacher, token_cross_entropy
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.program import Program
from tests.losses import reference
from tests.losses.meshes import MESHES
from tests.tolerances import BFLOAT16, LAYER, above, relative_errors

NUM_ROWS, TEXT_LEN, WIDTH, NUM_STORED, VOCAB_SIZE = 8, 5, 6, 128, 70
MOST_LABELS = 3
WEIGHTS = np.asarray([1, 0, 2, 1, 0.5, 1, 1, 1], np.float32)


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(NUM_ROWS, TEXT_LEN, WIDTH)).astype(np.float32)


def table(vocab_size: int = VOCAB_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Rows and biases; those of padding would win every softmax that they were part of."""
    rng = np.random.default_rng(1)
    rows, bias = rng.normal(size=(NUM_STORED, WIDTH)), rng.normal(size=NUM_STORED)
    rows[vocab_size:], bias[vocab_size:] = 50, 50
    return rows.astype(np.float32), bias.astype(np.float32)


def labels(vocab_size: int = VOCAB_SIZE) -> np.ndarray:
    """At most `MOST_LABELS` in a row, in row 3 none; in rows 4 to 7 those that the largest logit is right about."""
    rng = np.random.default_rng(2)
    rows, bias = table(vocab_size)
    drawn = rng.integers(0, vocab_size, (NUM_ROWS, TEXT_LEN))
    drawn[4:] = np.argmax(features()[4:] @ rows[:vocab_size].T + bias[:vocab_size], axis=-1)
    places = rng.permuted(np.tile(np.arange(TEXT_LEN), (NUM_ROWS, 1)), axis=1)
    labelled = places < np.asarray([3, 3, 2, 0, 1, 2, 3, 3])[:, None]
    return np.where(labelled, drawn, -1).astype(np.int32)


def expected(features: Any, rows: Any, bias: Any, labels: Any, weights: Any, vocab_size: int) -> tuple[float, float]:
    """Loss and share of right tokens from the definitions, a token at a time."""
    loss, correct, count = 0.0, 0.0, 0.0
    for row, place in zip(*np.nonzero((labels >= 0) & (weights > 0)[:, None]), strict=True):
        logits = rows[:vocab_size] @ features[row, place] + bias[:vocab_size]
        label = labels[row, place]
        loss += weights[row] * (np.logaddexp.reduce(logits) - logits[label])
        correct += weights[row] * (np.argmax(logits) == label)
        count += weights[row]
    return loss / count, correct / count


@functools.cache
def expected_gradients(vocab_size: int) -> tuple[np.ndarray, ...]:
    args = [np.float64(x) for x in (features(), *table(vocab_size))]

    def loss(*args: Any) -> float:
        return expected(*args, labels(vocab_size), WEIGHTS, vocab_size)[0]

    return tuple(reference.gradient(loss, position, *args) for position in range(3))


def place(args: tuple[Any, ...], mesh: jax.sharding.Mesh) -> list[Any]:
    """Arguments of the loss as they come from the model and from the batch."""
    dims = ("btd", "vd", "v", "bt", "b")
    return [jax.device_put(x, NamedSharding(mesh, rules.spec(d))) for x, d in zip(args, dims, strict=False)]


def run(
    *args: Any, sizes: tuple[int, int, int] | None = None, **options: Any
) -> tuple[TokenLoss, tuple[np.ndarray, ...]]:
    """What the loss returns, and the gradients of its mean."""

    def loss(*args: Any) -> Any:
        result = token_cross_entropy(*args, **options)
        return result.loss.value, result

    function = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    if sizes is None:
        grads, result = function(*args)
        return result, jax.device_get(grads)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    with jax.set_mesh(mesh):
        placed = place(args, mesh)
        grads, result = function(*placed)
        assert all(g.sharding.is_equivalent_to(x.sharding, x.ndim) for g, x in zip(grads, placed[:3], strict=True))
        return jax.device_get((result, grads))


# Of 60 words, the second device of the tensor axis has none; a chunk of 3 leaves a last one that is not full.
@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize(("vocab_size", "chunk", "max_labels"), [(VOCAB_SIZE, 3, None), (60, 4, MOST_LABELS)])
def test_value_and_gradients_equal_the_definition(sizes, vocab_size, chunk, max_labels):
    args = (features(), *table(vocab_size), labels(vocab_size), WEIGHTS)
    result, grads = run(*args, sizes=sizes, vocab_size=vocab_size, chunk=chunk, max_labels=max_labels)
    loss, correct = expected(*map(np.float64, args[:3]), *args[3:], vocab_size)
    assert float(result.loss.value) == pytest.approx(loss, rel=LAYER)
    assert float(result.correct.value) == pytest.approx(correct, rel=LAYER)
    assert float(result.loss.count) == float(result.correct.count) == np.sum(WEIGHTS @ (args[3] >= 0))
    assert above(relative_errors(grads, expected_gradients(vocab_size)), LAYER) == {}
    assert np.all(grads[1][vocab_size:] == 0)
    assert np.all(grads[2][vocab_size:] == 0)


@pytest.mark.parametrize("chunk", [1, 7, 39, 40, 1000])
def test_every_chunk_computes_the_same(chunk):
    args = (features(), *table(), labels(), WEIGHTS)
    result, grads = run(*args, vocab_size=VOCAB_SIZE, chunk=chunk)
    assert float(result.loss.value) == pytest.approx(expected(*args, VOCAB_SIZE)[0], rel=LAYER)
    assert above(relative_errors(grads, expected_gradients(VOCAB_SIZE)), LAYER) == {}


def test_without_weights_all_labelled_tokens_count_as_one():
    args = (features(), *table(), labels())
    result = token_cross_entropy(*args, vocab_size=VOCAB_SIZE, chunk=8)
    assert float(result.loss.value) == pytest.approx(expected(*args, np.ones(NUM_ROWS), VOCAB_SIZE)[0], rel=LAYER)


@pytest.mark.parametrize("max_labels", [None, MOST_LABELS])
def test_what_does_not_count_may_be_anything_and_has_no_gradient(max_labels):
    counted = (labels() >= 0) & (WEIGHTS > 0)[:, None]
    spoilt = np.where(counted[:, :, None], features(), np.nan)
    _, grads = run(spoilt, *table(), labels(), WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8, max_labels=max_labels)
    assert above(relative_errors(grads, expected_gradients(VOCAB_SIZE)), LAYER) == {}
    assert np.all(grads[0][~counted] == 0)


def test_nothing_is_labelled():
    args = (features(), *table(), np.full((NUM_ROWS, TEXT_LEN), -1, np.int32), WEIGHTS)
    result, grads = run(*args, vocab_size=VOCAB_SIZE, chunk=8)
    assert result.loss.value == result.correct.value == 0
    assert all(np.all(grad == 0) for grad in grads)


def test_labels_beyond_the_most_of_a_row_are_lost():
    full = np.abs(labels())
    cut = np.where(np.arange(TEXT_LEN) < 2, full, -1)
    few, few_grads = run(features(), *table(), full, WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8, max_labels=2)
    wanted, wanted_grads = run(features(), *table(), cut, WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8)
    assert float(few.loss.count) == float(wanted.loss.count)
    assert float(few.loss.value) == pytest.approx(float(wanted.loss.value), rel=LAYER)
    assert above(relative_errors(few_grads, wanted_grads), LAYER) == {}


def test_a_model_that_tells_no_words_apart_is_never_right():
    result, _ = run(features(), *map(np.zeros_like, table()), labels(), WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8)
    assert float(result.loss.value) == pytest.approx(math.log(VOCAB_SIZE), rel=LAYER)
    assert float(result.correct.value) == 0


def test_large_logits_lose_no_digits():
    """They are integers of thousands, exact in float32, and as far apart as those of a usual model."""
    rng = np.random.default_rng(3)
    large = np.ones((NUM_ROWS, TEXT_LEN, WIDTH), np.float32)
    rows = rng.integers(500, 502, (NUM_STORED, WIDTH)).astype(np.float32)
    args = (large, rows, np.zeros(NUM_STORED, np.float32), labels(), WEIGHTS)
    result, grads = run(*args, vocab_size=VOCAB_SIZE, chunk=8)
    shifted = (large, rows - 500, *args[2:])
    wanted, (_, by_rows, by_bias) = run(*shifted, vocab_size=VOCAB_SIZE, chunk=8)
    assert float(result.loss.value) == pytest.approx(float(wanted.loss.value), rel=LAYER)
    assert above(relative_errors(grads[1:], (by_rows, by_bias)), LAYER) == {}


def test_of_bfloat16_the_logits_are_still_float32():
    half = [jnp.asarray(x, jnp.bfloat16) for x in (features(), table()[0])]
    args = (*half, table()[1], labels(), WEIGHTS)
    exact = (*(x.astype(jnp.float32) for x in half), *args[2:])
    result, grads = run(*args, vocab_size=VOCAB_SIZE, chunk=8)
    wanted, wanted_grads = run(*exact, vocab_size=VOCAB_SIZE, chunk=8)
    assert [grad.dtype for grad in grads] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
    assert float(result.loss.value) == pytest.approx(float(wanted.loss.value), rel=LAYER)
    assert above(relative_errors(grads, wanted_grads), BFLOAT16) == {}


def test_of_a_float32_table_the_products_are_those_of_the_features():
    half = jnp.asarray(features(), jnp.bfloat16)
    rows, bias = table()
    both, _ = run(half, jnp.asarray(rows, jnp.bfloat16), bias, labels(), WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8)
    one, grads = run(half, rows, bias, labels(), WEIGHTS, vocab_size=VOCAB_SIZE, chunk=8)
    assert float(one.loss.value) == float(both.loss.value)
    assert grads[1].dtype == np.float32


@pytest.mark.parametrize("options", [{"chunk": 0}, {"chunk": 8, "max_labels": 0}])
def test_what_is_not_positive_is_refused(options):
    with pytest.raises(UserError, match="must be positive"):
        token_cross_entropy(features(), *table(), labels(), vocab_size=VOCAB_SIZE, **options)


def test_a_table_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="no table of 128 rows"):
        token_cross_entropy(features(), *table(), labels(), vocab_size=129, chunk=8)


def compiled(loss: Any) -> Program:
    """The gradients by features, table and bias, on two devices of each axis: each has 64 positions and 128 words, of
    rows of 8, which are short beside both."""
    args = (*(np.ones(shape, np.float32) for shape in ((16, 16, 8), (256, 8), 256)), np.ones((16, 16), np.int32))
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        function = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        return Program(function.lower(*place((*args, np.ones(16, np.float32)), mesh)).compile().as_text())


def largest(program: Program) -> int:
    """Numbers of its largest array."""
    shapes = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program.text)
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def whole_matrix(features: Any, rows: Any, bias: Any, labels: Any, weights: Any) -> Any:
    """The usual form, of which only the normalisers matter here."""
    logits = jnp.einsum("btd,vd->btv", features, rows, out_sharding=rules.spec("btv")) + bias
    return jnp.sum(weights[:, None] * jax.nn.logsumexp(logits, axis=-1))


def test_no_more_than_the_logits_of_a_chunk_are_held():
    def chunked(*args: Any) -> Any:
        return token_cross_entropy(*args, vocab_size=250, chunk=16).loss.value

    assert largest(compiled(whole_matrix)) == 64 * 128
    assert largest(compiled(chunked)) == 16 * 128


def test_gradients_are_sent_once_and_logits_never():
    """Four numbers a position and the gradient of its features between parts of the vocabulary, and the gradient of the
    table between rows; nothing goes from inside of the loops."""

    def loss(*args: Any) -> Any:
        return token_cross_entropy(*args, vocab_size=250, chunk=16).loss.value

    collectives = compiled(loss).collectives
    assert {(c.operation, c.repeats) for c in collectives} == {("all-reduce", 1)}
    by_table, by_features, statistics, sums = 128 * (8 + 1), 64 * 8, 64 * 4, 2
    among_rows = 2 * 4 * (by_table + sums) * 3 // 4
    among_words = 2 * 4 * (by_features + statistics) // 2
    assert sum(c.sent_bytes for c in collectives) <= among_rows + among_words


def taught(vocab_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A teacher of its own features and words, sure enough to matter."""
    rng = np.random.default_rng(7)
    rows, bias = table(vocab_size)
    found = rng.normal(size=(NUM_ROWS, TEXT_LEN, WIDTH)).astype(np.float32)
    return found, rows + rng.normal(size=rows.shape).astype(np.float32), bias[::-1].copy()


def distilled(
    features: Any, rows: Any, bias: Any, labels: Any, weights: Any, teacher: Any, share: float, vocab_size: int
) -> float:
    """The loss of a distillation from its definition, a token at a time."""
    loss = count = 0.0
    for row, place in zip(*np.nonzero((labels >= 0) & (weights > 0)[:, None]), strict=True):
        logits, targets = (
            words[:vocab_size] @ x[row, place] + offsets[:vocab_size]
            for x, words, offsets in ((features, rows, bias), teacher)
        )
        log_shares = logits - np.logaddexp.reduce(logits)
        aims = share * np.exp(targets - np.logaddexp.reduce(targets))
        aims[labels[row, place]] += 1 - share
        loss -= weights[row] * aims @ log_shares
        count += weights[row]
    return loss / count


@pytest.mark.parametrize("sizes", [None, (2, 2, 2)], ids=str)
def test_a_teacher_is_part_of_the_target(sizes):
    """Of 60 words the second device of the tensor axis has none; positions that do not count may be anything."""
    vocab_size, share = 60, 0.4
    args = (features(), *table(vocab_size), labels(vocab_size), WEIGHTS)
    teacher = taught(vocab_size)
    exact = [np.float64(x) for x in args[:3]]
    options = (args[3], np.float64(WEIGHTS), [np.float64(x) for x in teacher], share, vocab_size)
    teacher[0][labels(vocab_size) < 0] = np.nan

    def loss(*args: Any) -> Any:
        own, others = args[:5], TokenTeacher(*args[5:], jnp.asarray(share))
        options: dict[str, Any] = {"vocab_size": vocab_size, "chunk": 3, "max_labels": MOST_LABELS}
        result = token_cross_entropy(*own, teacher=others, **options)
        return result.loss.value, result.correct.value

    function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(3)), has_aux=True))
    mesh = make_mesh(MeshConfig(*(sizes or (1, 1, 1))), jax.devices()[: math.prod(sizes or (1,))])
    with jax.set_mesh(mesh):
        (value, correct), grads = jax.device_get(function(*place(args, mesh), *place(teacher, mesh)))
    assert value == pytest.approx(distilled(*exact, *options), rel=LAYER)
    assert correct == pytest.approx(expected(*exact, *args[3:], vocab_size)[1], rel=LAYER)

    def definition(*args: Any) -> float:
        return distilled(*args, *options)

    for position, found in enumerate(grads):
        assert above(relative_errors(found, reference.gradient(definition, position, *exact)), LAYER) == {}
