"""Which tokens are masked, how often, what stands in their place, and that it depends on the key alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.losses.tokens import token_cross_entropy
from mmjax.objectives.masking import NO_LABEL, MaskingConfig, Vocabulary, mask_tokens, word_starts
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh

KEY = jax.random.key(0)
VOCABULARY = Vocabulary(size=20, mask_id=4, special_ids=(0, 1, 7, 19))
ORDINARY = np.setdiff1d(np.arange(20), [0, 1, 4, 7, 19])
NUM_ROWS, TEXT_LEN = 1024, 16
STANDARD_ERRORS = 5
"""How far a count may lie from its mean: it would by chance in one of two million counts."""


def texts(num_rows: int = NUM_ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of all kinds at random, and masks of one token or more."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY.size, (num_rows, TEXT_LEN)).astype(np.int32)
    return ids, np.arange(TEXT_LEN) < rng.integers(1, TEXT_LEN + 1, (num_rows, 1))


def full_texts() -> tuple[np.ndarray, np.ndarray]:
    """Texts all of whose tokens may be masked."""
    drawn = np.random.default_rng(1).choice(ORDINARY, (NUM_ROWS, TEXT_LEN))
    return drawn.astype(np.int32), np.ones(drawn.shape, bool)


def words() -> tuple[np.ndarray, np.ndarray]:
    """(where words start, the number of the word of each token within its text), of words of 1 to 6 tokens."""
    starts = np.random.default_rng(2).random((NUM_ROWS, TEXT_LEN)) < 0.5
    starts[:, 0] = True
    starts[:, 6::6] = True
    return starts, np.cumsum(starts, axis=1) - 1


def masked(config: MaskingConfig, *args: Any, key: Any = KEY, starts: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Ids and labels of `mask_tokens` as it runs in a step."""
    function = jax.jit(lambda *args: mask_tokens(*args[:2], args[2], config, VOCABULARY, *args[3:]))
    return jax.device_get(function(*args, key, *(() if starts is None else (starts,))))


def is_near(count: int, num: int, share: float) -> bool:
    """Whether `count` of `num` independent draws is what a probability of `share` leads to."""
    return abs(count - num * share) <= STANDARD_ERRORS * math.sqrt(num * share * (1 - share))


def test_a_share_of_the_ordinary_tokens_is_chosen_and_labelled():
    ids, mask = texts()
    new, labels = masked(MaskingConfig(), ids, mask)
    ordinary = mask & np.isin(ids, ORDINARY)
    chosen = labels != NO_LABEL
    assert new.dtype == labels.dtype == np.int32
    assert not np.any(chosen & ~ordinary)
    assert is_near(chosen.sum(), ordinary.sum(), 0.15)
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(new[~chosen], ids[~chosen])


def test_chosen_tokens_become_the_mask_or_another_token_or_stay():
    ids, mask = full_texts()
    new, labels = masked(MaskingConfig(rate=0.5), ids, mask)
    chosen = labels != NO_LABEL
    num, same = chosen.sum(), 0.1 / len(ORDINARY)
    assert is_near(np.sum(new[chosen] == VOCABULARY.mask_id), num, 0.8)
    assert is_near(np.sum(new[chosen] == ids[chosen]), num, 0.1 + same)
    assert is_near(np.sum((new != VOCABULARY.mask_id) & (new != ids)), num, 0.1 - same)


def test_random_tokens_are_all_ordinary_ones_alike():
    ids, mask = full_texts()
    new, _ = masked(MaskingConfig(rate=1.0, mask_share=0.0, random_share=1.0), ids, mask)
    assert set(np.unique(new)) == set(ORDINARY)
    assert all(is_near(np.sum(new == token), new.size, 1 / len(ORDINARY)) for token in ORDINARY)


def test_choice_and_change_are_drawn_apart():
    """Chosen tokens of the smallest draws are not masked more often than those of the largest."""
    ids, mask = full_texts()
    _, few = masked(MaskingConfig(rate=0.1), ids, mask)
    new, _ = masked(MaskingConfig(rate=0.9), ids, mask)
    chosen = few != NO_LABEL
    assert is_near(np.sum(new[chosen] == VOCABULARY.mask_id), chosen.sum(), 0.8)


def test_every_key_masks_anew_and_always_the_same():
    args = (MaskingConfig(), *texts())
    first, again, other = masked(*args), masked(*args), masked(*args, key=jax.random.key(1))
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(np.array_equal(x, y) for x, y in zip(first, other, strict=True))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)], ids=str)
def test_every_mesh_masks_the_same_and_leaves_texts_where_they_are(sizes):
    config = MaskingConfig(rate=0.4, max_labels=3, at_least_one=True)
    args, continues = texts(16), np.random.default_rng(3).random(VOCABULARY.size) < 0.5

    def run(ids: Any, mask: Any, continues: Any) -> Any:
        return mask_tokens(ids, mask, KEY, config, VOCABULARY, word_starts(ids, continues))

    expected = jax.jit(run)(*args, continues)
    mesh = make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        placed = jax.device_put(args, rules.batch_sharding(mesh))
        result = jax.jit(run)(*placed, jax.device_put(continues, rules.replicated(mesh)))
    assert all(np.array_equal(x, y) for x, y in zip(result, expected, strict=True))
    assert all(x.sharding.is_equivalent_to(rules.batch_sharding(mesh), 2) for x in result)


def test_words_are_chosen_as_wholes_and_their_pieces_changed_apart():
    ids, mask = full_texts()
    starts, _ = words()
    new, labels = masked(MaskingConfig(rate=0.3), ids, mask, starts=starts)
    chosen, is_mask, continues = labels != NO_LABEL, new == VOCABULARY.mask_id, ~starts[:, 1:]
    assert is_near(np.sum(chosen & starts), starts.sum(), 0.3)
    assert np.array_equal(chosen[:, 1:][continues], chosen[:, :-1][continues])
    # A piece is masked and the one before it is not in 0.8 x 0.2 of the cases.
    pairs = continues & chosen[:, 1:]
    assert np.sum(pairs & is_mask[:, 1:] & ~is_mask[:, :-1]) > 0.1 * pairs.sum()


def test_what_may_not_be_masked_ends_a_word():
    """Of each text: a piece of a word cut off before, its next piece, a special token, two pieces without a start."""
    ids = np.tile(np.asarray([2, 3, 0, 5, 6], np.int32), (NUM_ROWS, 1))
    starts = np.zeros(ids.shape, bool)
    _, labels = masked(MaskingConfig(rate=0.5), ids, np.ones(ids.shape, bool), starts=starts)
    chosen = labels != NO_LABEL
    assert np.array_equal(chosen[:, 0], chosen[:, 1])
    assert np.array_equal(chosen[:, 3], chosen[:, 4])
    assert is_near(np.sum(chosen[:, 0] & chosen[:, 3]), NUM_ROWS, 0.25)


def test_no_more_are_chosen_than_the_limit_and_no_fewer():
    ids, mask = texts()
    _, unlimited = masked(MaskingConfig(rate=0.4), ids, mask)
    _, labels = masked(MaskingConfig(rate=0.4, max_labels=3), ids, mask)
    chosen, wanted = (np.sum(x != NO_LABEL, axis=1) for x in (labels, unlimited))
    assert np.array_equal(chosen, np.minimum(wanted, 3))
    assert np.all((labels == NO_LABEL) | (labels == unlimited))


def test_a_limit_prefers_no_place():
    ids, mask = full_texts()
    _, labels = masked(MaskingConfig(rate=1.0, max_labels=4), ids, mask)
    assert all(is_near(count, NUM_ROWS, 4 / TEXT_LEN) for count in np.sum(labels != NO_LABEL, axis=0))


def test_a_limit_leaves_whole_words():
    ids, mask = full_texts()
    starts, word = words()
    _, labels = masked(MaskingConfig(rate=0.7, max_labels=5), ids, mask, starts=starts)
    chosen = labels != NO_LABEL
    assert np.max(chosen.sum(axis=1)) == 5
    for row in range(NUM_ROWS):
        sizes = np.bincount(word[row])
        assert set(np.bincount(word[row], chosen[row]) / sizes) <= {0, 1}
        assert not np.any(chosen[row] & (sizes[word[row]] > 5))


def test_a_word_that_is_too_long_stands_in_the_way_of_no_other():
    """Words of five tokens and of one: with room for four only the latter can be chosen, and at least one is."""
    ids = np.full((NUM_ROWS, 11), 2, np.int32)
    starts = np.tile(np.isin(np.arange(11), [0, 5, 10]), (NUM_ROWS, 1))
    config = MaskingConfig(rate=0.15, max_labels=4, at_least_one=True)
    _, labels = masked(config, ids, np.ones(ids.shape, bool), starts=starts)
    assert np.array_equal(labels != NO_LABEL, np.tile(np.arange(11) == 10, (NUM_ROWS, 1)))


def test_at_least_one_token_is_chosen_where_one_may_be():
    ids, mask = texts()
    config = MaskingConfig(rate=1e-6, at_least_one=True)
    _, labels = masked(config, ids, mask)
    possible = np.any(mask & np.isin(ids, ORDINARY), axis=1)
    assert 0 < possible.sum() < NUM_ROWS
    assert np.array_equal(np.sum(labels != NO_LABEL, axis=1), possible)
    _, everywhere = masked(config, *full_texts())
    assert all(is_near(count, NUM_ROWS, 1 / TEXT_LEN) for count in np.sum(everywhere != NO_LABEL, axis=0))


def test_at_least_one_adds_nothing_where_one_is_chosen():
    """Every draw that is below the rate is chosen with it and without it."""
    ids, mask = full_texts()
    plain, forced = (masked(MaskingConfig(at_least_one=x), ids, mask)[1] for x in (False, True))
    has_one = np.any(plain != NO_LABEL, axis=1)
    assert 0 < has_one.sum() < NUM_ROWS
    assert np.array_equal(plain[has_one], forced[has_one])


@pytest.mark.parametrize("starts", [None, [True, False, True, False, False]], ids=["tokens", "words"])
def test_equal_draws_leave_something_within_the_limit(monkeypatch, starts):
    """Of the 8 million numbers that may be drawn, two of a long text are now and then the same."""
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, **_: jnp.zeros(shape))
    ids, config = jnp.full((1, 5), 2), MaskingConfig(max_labels=3, at_least_one=True)
    starts = None if starts is None else jnp.asarray([starts])
    labels = mask_tokens(ids, ids > 0, KEY, config, VOCABULARY, starts).labels
    assert np.sum(labels != NO_LABEL) == (3 if starts is None else 2)


def test_a_loss_with_the_same_limit_misses_no_label():
    ids, mask = texts(8)
    _, labels = masked(MaskingConfig(rate=1.0, max_labels=3), ids, mask)
    rng = np.random.default_rng(4)
    args = (rng.normal(size=(*ids.shape, 4)), rng.normal(size=(VOCABULARY.size, 4)), np.zeros(VOCABULARY.size), labels)
    some, every = (token_cross_entropy(*args, vocab_size=20, chunk=8, max_labels=x).loss for x in (3, None))
    assert float(some.count) == float(every.count) == np.sum(labels != NO_LABEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "masking.rate = 0.0 is not in"),
        ({"rate": 1.5}, "masking.rate = 1.5 is not in"),
        ({"mask_share": -0.1}, "masking.mask_share = -0.1 is negative"),
        ({"random_share": -0.1}, "masking.random_share = -0.1 is negative"),
        ({"mask_share": 0.9, "random_share": 0.2}, "more than 1 together"),
        ({"max_labels": 0}, "masking.max_labels = 0 must be at least 1"),
    ],
)
def test_a_config_out_of_range_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        MaskingConfig(**options)


@pytest.mark.parametrize(
    ("size", "special_ids", "message"),
    [(5, (5,), "not all in a vocabulary of 5"), (5, (-1,), "not all in a vocabulary"), (2, (0,), "all 2 tokens")],
)
def test_a_vocabulary_without_its_special_ids_or_with_no_others_is_refused(size, special_ids, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(size=size, mask_id=1, special_ids=special_ids)
