"""Records to the rows of a host batch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmjax.data import augment, captions, regions
from mmjax.data.config import DataConfig
from mmjax.data.loaded import NO_ANSWER, Loaded, Loader
from mmjax.data.mixture import Mixture, Part
from mmjax.data.notes import Notes, Unusable
from mmjax.data.photo_headers import Photo
from mmjax.data.records import BadRecord, Source, Unreachable
from mmjax.data.shapes import image_shapes, target_shapes
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import hashes
from mmjax.types import HostBatch

# Not a caption's id, which is never negative. What else is in the row of a bad record is a zero image and no words.
BAD_ID = -1


@dataclass(frozen=True)
class Row:
    """One row of a batch before its text becomes ids, beside what stands for its image: `captions` are all of the
    record's, for training; of a pair, the `second` text, and whether it is of the same record."""

    text: str
    id: int
    weight: float
    captions: tuple[str, ...] = ()
    answer: int = NO_ANSWER
    second: str = ""
    follows: bool = False


UNUSABLE = Row("", BAD_ID, 0.0)


class Begun(NamedTuple):
    """A training row before there is an image: its position in the run, its record, the numbers that are drawn for it,
    and its text."""

    position: int
    number: int
    loaded: Loaded
    rng: np.random.Generator
    text: str


class Made(NamedTuple):
    """Rows, and what came to light as they were made."""

    batch: HostBatch
    notes: Notes


class Examples:
    """Makes chosen rows from one source; safe to use from many threads, and to copy to other processes.

    `rare_words` are what training captions may leave out (see `CaptionConfig.rare_drop_rate`). `mixture` says which of
    the records a training example shows; None reads the source as one part. Positions that were `skipped` before stay
    so.
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        tokenizer: Tokenizer,
        rare_words: frozenset[str] = frozenset(),
        mixture: Mixture | None = None,
        skipped: Collection[int] = frozenset(),
    ):
        self._config, self._source, self._tokenizer = config, source, tokenizer
        self._loader = Loader(config, source)
        self._rare_words, self._skipped = rare_words, skipped
        self._mixture = mixture or Mixture.of([Part("", len(source), 1.0)])

    def train_images(self, num_rows: int) -> HostBatch:
        """Arrays that `train_batch` writes into what stands for images."""
        return _empty(image_shapes(self._config) | target_shapes(self._config), num_rows)

    def eval_images(self, num_rows: int) -> HostBatch:
        """Arrays that `eval_batch` writes into what stands for images."""
        return _empty(image_shapes(self._config), num_rows)

    def train_batch(self, seed: int, positions: Sequence[int], images: HostBatch | None = None) -> Made:
        """The augmented examples at these positions of the run (see `Mixture.record`); `images` has a row for each."""
        notes, images = Notes(), images or self.train_images(len(positions))
        # One thing at a time, of all rows: an image sweeps the caches of a core, and Python takes twice as long then.
        begun = self._begin(seed, positions, notes)
        with notes.costs.timed("augment"):
            rows = [self._row(row, _row_of(images, place), notes) for place, row in enumerate(begun)]
        if self._config.captions.pair:
            rows = [
                row if one is None else self._with_second(row, one, notes) for row, one in zip(rows, begun, strict=True)
            ]
        for place, row in enumerate(rows):
            if row is UNUSABLE:
                _clear(_row_of(images, place))
        notes.good = sum(row is not UNUSABLE for row in rows)
        num_words = self._config.num_words
        words = {"words": np.stack([hashes(row.captions, num_words) for row in rows])} if num_words else {}
        batch = images | self._stack(rows, notes) | words
        if self._config.captions.pair:
            batch |= self._pairs(rows)
        if self._config.answer_key:
            batch["answers"] = np.array([row.answer for row in rows], np.int32)
        if self._config.word_starts:
            batch["word_starts"] = ~self._tokenizer.continues[batch["text_ids"]]
        return Made(batch, notes)

    def eval_batch(self, indices: Sequence[int], images: HostBatch | None = None) -> Made:
        """Records `indices` as they are, with their main captions; past the last record, rows of weight 0."""
        notes, images = Notes(), images or self.eval_images(len(indices))
        rows = [self._eval_row(index, _row_of(images, row), notes) for row, index in enumerate(indices)]
        return Made(images | self._stack(rows, notes), notes)

    def _begin(self, seed: int, positions: Sequence[int], notes: Notes) -> list[Begun | None]:
        """The records at these positions, and their texts; None where there is none to be used."""
        with notes.costs.timed("read"):
            numbers = [self._mixture.record(seed, position) for position in positions]
        rngs = [augment.generator(seed, position) for position in positions]
        drawn = list(zip(positions, numbers, rngs, strict=True))
        loaded = [self._load_at(*one, notes) for one in drawn]
        return [self._drawn(*one, found) for one, found in zip(drawn, loaded, strict=True)]

    def _drawn(self, position: int, number: int, rng: np.random.Generator, loaded: Loaded | None) -> Begun | None:
        if loaded is None:
            return None
        text = captions.choose(loaded.captions, self._config.captions, rng, self._rare_words)
        return Begun(position, number, loaded, rng, text)

    def _row(self, begun: Begun | None, image: HostBatch, notes: Notes) -> Row:
        """The row, whose image is written; one that is not usable where the image is found to be damaged."""
        if begun is None:
            return UNUSABLE
        loaded = begun.loaded
        try:
            self._write_augmented(loaded, image, begun.rng)
        except BadRecord as error:
            notes.unusable.append(Unusable(begun.number, loaded.name, str(error)))
            return UNUSABLE
        return Row(begun.text, loaded.id, 1.0, loaded.captions, loaded.answer)

    def _with_second(self, row: Row, begun: Begun, notes: Notes) -> Row:
        """The row with a second text: its own, or one of another record of its part."""
        if row is UNUSABLE:
            return row
        rng, config = begun.rng, self._config.captions
        own = captions.second(row.captions, row.text, config, rng)
        is_other, beside = rng.random() < config.other_rate, self._mixture.beside(begun.number)
        index = beside[int(rng.integers(len(beside)))]
        if not is_other:
            return replace(row, second=own, follows=True)
        try:
            other = self._source[index]
        except Unreachable as error:
            notes.unusable.append(_unreachable(index, begun.position, error))
            return UNUSABLE
        except BadRecord:
            # It is reported when its own turn comes.
            return replace(row, second=own, follows=True)
        return replace(row, second=other.captions[0], follows=other.id == row.id)

    def _pairs(self, rows: Sequence[Row]) -> HostBatch:
        """The fields of texts that are pairs."""
        found = self._tokenizer.pairs([row.text for row in rows], [row.second for row in rows], self._config.text_len)
        text_ids, text_mask, token_types = found
        follows = np.array([row.follows for row in rows], np.int32)
        return {"text_ids": text_ids, "text_mask": text_mask, "token_types": token_types, "follows": follows}

    def _write_augmented(self, loaded: Loaded, into: HostBatch, rng: np.random.Generator) -> None:
        config, image, out = self._config.augment, loaded.image, into.get("image")
        if image is None or out is None:
            return _write(loaded, into)
        pixels = augment.random_crop(image, config, rng, out) if config.crops else _whole(image)
        pixels = augment.augment(pixels, config, rng)
        if pixels is not out:
            out[...] = np.asarray(pixels)
        return None

    def _eval_row(self, index: int, image: HostBatch, notes: Notes) -> Row:
        if index >= len(self._source):
            _clear(image)
            return UNUSABLE
        try:
            loaded = self._loader.load(index, notes, keep_size=False)
        except Unreachable as error:
            notes.unusable.append(Unusable(index, f"record {index}", str(error)))
            loaded = None
        if loaded is None:
            _clear(image)
            return UNUSABLE
        notes.good += 1
        _write(loaded, image)
        return Row(loaded.captions[0], loaded.id, 1.0)

    def _load_at(self, position: int, index: int, rng: np.random.Generator, notes: Notes) -> Loaded | None:
        """None also where the record cannot be reached at this position."""
        if position in self._skipped:
            return None
        try:
            return self._loader.load(index, notes, keep_size=self._config.augment.crops, rng=rng)
        except Unreachable as error:
            notes.unusable.append(_unreachable(index, position, error))
            return None

    def _stack(self, rows: Sequence[Row], notes: Notes) -> HostBatch:
        notes.costs.rows += len(rows)
        with notes.costs.timed("tokenize"):
            text_ids, text_mask = self._tokenizer([row.text for row in rows], self._config.text_len)
        with notes.costs.timed("stack"):
            return {
                "text_ids": text_ids,
                "text_mask": text_mask,
                "ids": np.array([row.id for row in rows], np.int32),
                "weights": np.array([row.weight for row in rows], np.float32),
            }


def _unreachable(index: int, position: int, error: Unreachable) -> Unusable:
    return Unusable(index, f"record {index} at position {position}", str(error), position)


def _empty(shapes: regions.Shapes, num_rows: int) -> HostBatch:
    return {name: np.empty((num_rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def _row_of(images: HostBatch, row: int) -> HostBatch:
    return {name: array[row, ...] for name, array in images.items()}


def _clear(image: HostBatch) -> None:
    """What a record that cannot be used has for an image."""
    for array in image.values():
        array[...] = 0


def _write(loaded: Loaded, into: HostBatch) -> None:
    """Writes what stands for the image of a record, as it is."""
    if loaded.regions is not None:
        regions.write(loaded.regions, into)
    elif loaded.image is not None:
        into["image"][...] = np.asarray(_whole(loaded.image))


def _whole(image: Image.Image | Photo) -> Image.Image:
    assert isinstance(image, Image.Image), "only random parts are cut from photos that are not decoded yet"
    return image
