"""Records to the rows of a host batch."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from mmjax.data import augment, captions, preprocess, regions
from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.mixture import Mixture, Part
from mmjax.data.records import BadRecord, Record, Regions, Source, Unreachable
from mmjax.data.shapes import image_shapes, target_shapes
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import hashes
from mmjax.types import HostBatch

# Not a caption's id, which is never negative. What else is in the row of a bad record is a zero image and no words.
BAD_ID = -1
NO_ANSWER = -1
BYTES_PER_PIXEL = 4  # Pillow keeps RGB in 32 bits a pixel.


@dataclass(frozen=True)
class Loaded:
    """A decoded record: its image in RGB or its regions, and `captions` the main one first."""

    image: Image.Image | None
    regions: Regions | None
    captions: tuple[str, ...]
    id: int
    answer: int

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        pixels = 0 if self.image is None else BYTES_PER_PIXEL * self.image.width * self.image.height
        return pixels + (0 if self.regions is None else regions.num_bytes(self.regions))


@dataclass(frozen=True)
class Row:
    """One row of a batch before its text becomes ids: `image` are the fields that stand for its image, `captions` are
    all of the record's, for training; of a pair, the `second` text, and whether it is of the same record."""

    image: HostBatch
    text: str
    id: int
    weight: float
    captions: tuple[str, ...] = ()
    answer: int = NO_ANSWER
    second: str = ""
    follows: bool = False


class Examples:
    """Makes batches of chosen rows from one source; safe to use from many threads.

    `rare_words` are what training captions may leave out (see `CaptionConfig.rare_drop_rate`). `mixture` says which of
    the records a training example shows; None reads the source as one part.
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        tokenizer: Tokenizer,
        bad_records: BadRecords,
        rare_words: frozenset[str] = frozenset(),
        mixture: Mixture | None = None,
    ):
        self._config, self._source, self._tokenizer, self._bad_records = config, source, tokenizer, bad_records
        self._cache: dict[int, Loaded] = {}
        self._cache_bytes_left = config.cache_bytes
        self._cache_lock = threading.Lock()
        self._rare_words = rare_words
        self._mixture = mixture or Mixture.of([Part("", len(source), 1.0)])

    def train_batch(self, seed: int, positions: Sequence[int]) -> HostBatch:
        """Returns the augmented examples at these positions of the run (see `Mixture.record`)."""
        rows = [self._train_row(seed, position) for position in positions]
        num_words = self._config.num_words
        words = {"words": np.stack([hashes(row.captions, num_words) for row in rows])} if num_words else {}
        batch = self._stack(rows) | words
        if self._config.captions.pair:
            batch |= self._pairs(rows)
        if self._config.answer_key:
            batch["answers"] = np.array([row.answer for row in rows], np.int32)
        if self._config.word_starts:
            batch["word_starts"] = ~self._tokenizer.continues[batch["text_ids"]]
        return batch

    def eval_batch(self, indices: Sequence[int]) -> HostBatch:
        """Returns records `indices` as they are, with their main captions; past the last record, rows of weight 0."""
        num_records = len(self._source)
        empty = self._empty_row(image_shapes(self._config))
        return self._stack([self._eval_row(index) if index < num_records else empty for index in indices])

    def _train_row(self, seed: int, position: int) -> Row:
        index = self._mixture.record(seed, position)
        loaded = self._load_at(position, index, self._config.augment.crops)
        shapes = image_shapes(self._config) | target_shapes(self._config)
        if loaded is None:
            return self._empty_row(shapes)
        rng = augment.generator(seed, position)
        text = captions.choose(loaded.captions, self._config.captions, rng, self._rare_words)
        image = _image_fields(loaded, shapes, lambda image: self._augmented(image, rng))
        row = Row(image, text, loaded.id, 1.0, loaded.captions, loaded.answer)
        return self._with_second(row, position, index, rng) if self._config.captions.pair else row

    def _with_second(self, row: Row, position: int, index: int, rng: np.random.Generator) -> Row:
        """The row with a second text: its own, or one of another record of its part."""
        own = captions.second(row.captions, row.text, self._config.captions, rng)
        is_other, beside = rng.random() < self._config.captions.other_rate, self._mixture.beside(index)
        index = beside[int(rng.integers(len(beside)))]
        if not is_other:
            return replace(row, second=own, follows=True)
        try:
            other = self._source[index]
        except Unreachable as error:
            self._bad_records.skip(position, index, str(error))
            return self._empty_row(image_shapes(self._config) | target_shapes(self._config))
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

    def _augmented(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        if self._config.augment.crops:
            rows, columns = self._config.preprocess.image_shape
            image = augment.random_crop(image, rows, self._config.augment, rng, columns)
        return np.asarray(augment.augment(image, self._config.augment, rng))

    def _eval_row(self, index: int) -> Row:
        try:
            loaded = self._load(index, keep_size=False)
        except Unreachable as error:
            self._bad_records.bad(index, f"record {index}", str(error))
            loaded = None
        shapes = image_shapes(self._config)
        if loaded is None:
            return self._empty_row(shapes)
        return Row(_image_fields(loaded, shapes, np.asarray), loaded.captions[0], loaded.id, 1.0)

    def _empty_row(self, shapes: regions.Shapes) -> Row:
        """Of a record that cannot be used."""
        return Row({name: np.zeros(*shape) for name, shape in shapes.items()}, "", BAD_ID, 0.0)

    def _load_at(self, position: int, index: int, keep_size: bool) -> Loaded | None:
        """None also where the record cannot be reached at this position."""
        if self._bad_records.is_skipped(position):
            return None
        try:
            return self._load(index, keep_size)
        except Unreachable as error:
            self._bad_records.skip(position, index, str(error))
            return None

    def _load(self, index: int, keep_size: bool) -> Loaded | None:
        loaded = self._cache.get(index)
        if loaded is None:
            loaded = self._read(index, keep_size)
            self._remember(index, loaded)
        if loaded is not None:
            self._bad_records.good()
        return loaded

    def _read(self, index: int, keep_size: bool) -> Loaded | None:
        name = f"record {index}"
        try:
            record = self._source[index]
            name = record.name
            return self._decode(record, keep_size)
        except Unreachable:
            raise
        except BadRecord as error:
            self._bad_records.bad(index, name, str(error))
            return None

    def _decode(self, record: Record, keep_size: bool) -> Loaded:
        answer = NO_ANSWER if record.answer is None else record.answer
        if record.regions is not None or not self._config.image_key:
            return Loaded(None, record.regions, record.captions, record.id, answer)
        image = preprocess.decode(record.image)
        if not keep_size:
            image = preprocess.resize(image, self._config.preprocess)
        return Loaded(image, None, record.captions, record.id, answer)

    def _remember(self, index: int, loaded: Loaded | None) -> None:
        # What came first stays: with a new order every epoch, no choice of what to drop is better than another.
        if loaded is None:
            return
        with self._cache_lock:
            if index not in self._cache and loaded.num_bytes <= self._cache_bytes_left:
                self._cache[index] = loaded
                self._cache_bytes_left -= loaded.num_bytes

    def _stack(self, rows: Sequence[Row]) -> HostBatch:
        text_ids, text_mask = self._tokenizer([row.text for row in rows], self._config.text_len)
        return {
            **{name: np.stack([row.image[name] for row in rows]) for name in rows[0].image},
            "text_ids": text_ids,
            "text_mask": text_mask,
            "ids": np.array([row.id for row in rows], np.int32),
            "weights": np.array([row.weight for row in rows], np.float32),
        }


def _image_fields(loaded: Loaded, shapes: regions.Shapes, as_pixels: Callable[[Image.Image], np.ndarray]) -> HostBatch:
    """What stands for the image in a row, with those `shapes`."""
    if loaded.regions is not None:
        return regions.row(loaded.regions, shapes)
    return {} if loaded.image is None else {"image": as_pixels(loaded.image)}
