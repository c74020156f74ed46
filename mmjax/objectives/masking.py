"""Masked tokens as BERT has them: which are to be predicted, and what stands in their place.

Everything is drawn in the sharding of the texts, from the key alone: every mesh masks the same tokens.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.errors import UserError
from mmjax.parallel import rules
from mmjax.types import Array, Key

NO_LABEL = -1
"""The label of a token that is not to be predicted."""


@dataclass(frozen=True)
class MaskingConfig:
    """How many tokens are chosen, and what becomes of them; the defaults are BERT's.

    rate: in (0, 1], the probability with which a token, or a whole word, is chosen.
    mask_share: the part of the chosen tokens that the mask replaces.
    random_share: the part that a random token replaces; the rest stay as they are.
    max_labels: the most chosen tokens of a text, for a loss that computes on no more. Of a text with more, the words of
        the largest draws are not chosen, each as a whole; a word of more tokens is never chosen. None sets no limit.
    at_least_one: a text with a token that may be chosen has one that is: where none was, the word of the smallest draw.

    Raises:
        UserError: a rate or a share out of its range, or a limit below 1.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    max_labels: int | None = None
    at_least_one: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise UserError(f"masking.rate = {self.rate} is not in (0, 1]: BERT has 0.15")
        for name in ("mask_share", "random_share"):
            if getattr(self, name) < 0:
                raise UserError(f"masking.{name} = {getattr(self, name)} is negative: set it to 0 or more")
        if self.mask_share + self.random_share > 1:
            shares = f"masking.mask_share = {self.mask_share} and masking.random_share = {self.random_share}"
            raise UserError(f"{shares} are more than 1 together: BERT has 0.8 and 0.1")
        if self.max_labels is not None and self.max_labels < 1:
            raise UserError(f"masking.max_labels = {self.max_labels} must be at least 1: set it to None for no limit")


@dataclass(frozen=True)
class Vocabulary:
    """What masking knows of the tokens.

    size: ids are below it.
    mask_id: what stands in the place of a masked token; it is special itself.
    special_ids: tokens that are neither chosen nor put in the place of others, such as start, end and padding.

    Raises:
        ValueError: an id is not in the vocabulary, or all are special.
    """

    size: int
    mask_id: int
    special_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not all(0 <= token < self.size for token in self.special):
            raise ValueError(f"special ids {self.special} are not all in a vocabulary of {self.size}")
        if len(self.special) == self.size:
            raise ValueError(f"all {self.size} tokens of the vocabulary are special")

    @property
    def special(self) -> tuple[int, ...]:
        """Special ids, that of the mask among them, each once and ascending."""
        return tuple(sorted({self.mask_id, *self.special_ids}))

    def is_special(self, ids: Array) -> Array:
        """Bool, of the shape of `ids`."""
        return jnp.any(ids[..., None] == jnp.asarray(self.special), axis=-1)

    def random(self, key: Key, shape: tuple[int, ...], dims: str) -> Array:
        """Int32 ids that are not special, all equally likely."""
        special = np.asarray(self.special)
        number = jax.random.randint(key, shape, 0, self.size - len(special), out_sharding=rules.spec(dims))
        # Before special id s_k, the k-th from 0, stand s_k - k others: number n passes those that have at most n.
        return number + jnp.sum(number[..., None] >= jnp.asarray(special - np.arange(len(special))), axis=-1)


class MaskedTokens(NamedTuple):
    """text_ids int32 (b, t) with the chosen ones replaced; labels int32 (b, t), what stood there, or `NO_LABEL`."""

    text_ids: Array
    labels: Array


def mask_tokens(
    text_ids: Array,
    text_mask: Array,
    key: Key,
    config: MaskingConfig,
    vocabulary: Vocabulary,
    word_starts: Array | None = None,
) -> MaskedTokens:
    """Texts with random tokens masked, and the labels of these; padding and special tokens are never chosen.

    `text_ids` int32 and `text_mask` bool (b, t). With `word_starts`, bool (b, t), False for a piece that continues the
    word of the token before, words are chosen as wholes; what replaces a chosen token is still drawn for it alone.

    Source: Devlin et al. (2019), section 3.1, task 1; whole words as in the authors' later release; UNITER, Chen et al.
    (2020), for `at_least_one`, where it is the first token that is taken.
    """
    keys = jax.random.split(key, 3)
    maskable = text_mask & ~vocabulary.is_special(text_ids)
    draws, change = (jax.random.uniform(k, text_ids.shape, out_sharding=rules.spec("bt")) for k in keys[:2])
    chosen = _choose(_Words.of(draws, maskable, word_starts), maskable, config)
    others = vocabulary.random(keys[2], text_ids.shape, "bt")
    replaced = jnp.where(change < config.mask_share + config.random_share, others, text_ids)
    replaced = jnp.where(change < config.mask_share, vocabulary.mask_id, replaced)
    return MaskedTokens(
        jnp.where(chosen, replaced, text_ids).astype(jnp.int32),
        jnp.where(chosen, text_ids, NO_LABEL).astype(jnp.int32),
    )


def word_starts(text_ids: Array, continues: Array) -> Array:
    """Bool (b, t): whether a token starts a word, by `continues`, bool (v,), of each id whether it continues one."""
    return ~continues.at[text_ids].get(out_sharding=rules.spec("bt"))


class _Words(NamedTuple):
    """Of each token (b, t): the place where its word starts, and the number in [0, 1) that was drawn for the word."""

    start: Array
    draw: Array

    @classmethod
    def of(cls, draws: Array, maskable: Array, starts: Array | None) -> "_Words":
        """From a draw for each token, of which that of its first one is the word's."""
        places = rules.gather(jnp.broadcast_to(jnp.arange(draws.shape[1], dtype=jnp.int32), draws.shape), "bt")
        if starts is None:
            return cls(places, draws)
        # What may not be masked ends a word, as does the edge of the text.
        after_word = jnp.pad(maskable, ((0, 0), (1, 0)))[:, :-1]
        start = jax.lax.cummax(jnp.where(starts | ~after_word, places, 0), axis=1)
        return cls(start, jnp.take_along_axis(draws, start, axis=1))

    def num_in_word(self, tokens: Array) -> Array:
        """How many of `tokens`, bool (b, t), are in the word of each token."""
        return jnp.sum(tokens[:, None, :] & (self.start[:, None, :] == self.start[:, :, None]), axis=2)

    def num_up_to_word(self, tokens: Array) -> Array:
        """How many of `tokens` are in words of smaller draws, or in that of each token itself."""
        draw, own_draw = self.draw[:, None, :], self.draw[:, :, None]
        # Of two words of one draw, which are few but do occur, the first comes first.
        tied = (draw == own_draw) & (self.start[:, None, :] <= self.start[:, :, None])
        return jnp.sum(tokens[:, None, :] & ((draw < own_draw) | tied), axis=2)


def _choose(words: _Words, maskable: Array, config: MaskingConfig) -> Array:
    """Bool (b, t): the tokens to be predicted."""
    if config.max_labels is not None:
        # A word that is too long as a whole must not stand in the way of others.
        maskable &= words.num_in_word(maskable) <= config.max_labels
    chosen = maskable & (words.draw < config.rate)
    if config.at_least_one:
        smallest = jnp.min(jnp.where(maskable, words.draw, 1.0), axis=1, keepdims=True)
        chosen |= maskable & (words.draw == smallest)
    if config.max_labels is not None:
        chosen &= words.num_up_to_word(chosen) <= config.max_labels
    return chosen
