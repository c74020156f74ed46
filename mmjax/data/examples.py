"""Records to the rows of a host batch."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmjax.data import augment, captions, preprocess
from mmjax.data.bad_records import BadRecords
from mmjax.data.config import DataConfig
from mmjax.data.order import record_index
from mmjax.data.records import BadRecord, Record, Source, Unreachable
from mmjax.data.tokenizer import Tokenizer
from mmjax.data.words import hashes
from mmjax.types import HostBatch

# Not a caption's id, which is never negative. What else is in the row of a bad record is a zero image and no words.
BAD_ID = -1
BYTES_PER_PIXEL = 4  # Pillow keeps RGB in 32 bits a pixel.


@dataclass(frozen=True)
class Loaded:
    """A decoded record: `image` in RGB, `captions` the main one first."""

    image: Image.Image
    captions: tuple[str, ...]
    id: int


@dataclass(frozen=True)
class Row:
    """One row of a batch before its text becomes ids: `image` uint8 (image_size, image_size, 3); `captions` are all of
    the record's, for training."""

    image: np.ndarray
    text: str
    id: int
    weight: float
    captions: tuple[str, ...] = ()


class Examples:
    """Makes batches of chosen rows from one source; safe to use from many threads.

    `rare_words` are what training captions may leave out (see `CaptionConfig.rare_drop_rate`).
    """

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        tokenizer: Tokenizer,
        bad_records: BadRecords,
        rare_words: frozenset[str] = frozenset(),
    ):
        self._config, self._source, self._tokenizer, self._bad_records = config, source, tokenizer, bad_records
        self._cache: dict[int, Loaded] = {}
        self._cache_bytes_left = config.cache_bytes
        self._cache_lock = threading.Lock()
        self._rare_words = rare_words
        self._empty_row = Row(np.zeros((*config.preprocess.image_shape, 3), np.uint8), "", BAD_ID, 0.0)

    def train_batch(self, seed: int, positions: Sequence[int]) -> HostBatch:
        """Returns the augmented examples at these positions of the run (see `order.record_index`)."""
        rows = [self._train_row(seed, position) for position in positions]
        num_words = self._config.num_words
        words = {"words": np.stack([hashes(row.captions, num_words) for row in rows])} if num_words else {}
        batch = self._stack(rows) | words
        if self._config.word_starts:
            batch["word_starts"] = ~self._tokenizer.continues[batch["text_ids"]]
        return batch

    def eval_batch(self, indices: Sequence[int]) -> HostBatch:
        """Returns records `indices` as they are, with their main captions; past the last record, rows of weight 0."""
        num_records = len(self._source)
        return self._stack([self._eval_row(index) if index < num_records else self._empty_row for index in indices])

    def _train_row(self, seed: int, position: int) -> Row:
        loaded = self._load_at(position, record_index(seed, position, len(self._source)), self._config.augment.crops)
        if loaded is None:
            return self._empty_row
        rng = augment.generator(seed, position)
        text = captions.choose(loaded.captions, self._config.captions, rng, self._rare_words)
        image = loaded.image
        if self._config.augment.crops:
            rows, columns = self._config.preprocess.image_shape
            image = augment.random_crop(image, rows, self._config.augment, rng, columns)
        return Row(np.asarray(augment.augment(image, self._config.augment, rng)), text, loaded.id, 1.0, loaded.captions)

    def _eval_row(self, index: int) -> Row:
        try:
            loaded = self._load(index, keep_size=False)
        except Unreachable as error:
            self._bad_records.bad(index, f"record {index}", str(error))
            loaded = None
        if loaded is None:
            return self._empty_row
        return Row(np.asarray(loaded.image), loaded.captions[0], loaded.id, 1.0)

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
        image = preprocess.decode(record.image)
        if not keep_size:
            image = preprocess.resize(image, self._config.preprocess)
        return Loaded(image, record.captions, record.id)

    def _remember(self, index: int, loaded: Loaded | None) -> None:
        # What came first stays: with a new order every epoch, no choice of what to drop is better than another.
        if loaded is None:
            return
        num_bytes = BYTES_PER_PIXEL * loaded.image.width * loaded.image.height
        with self._cache_lock:
            if index not in self._cache and num_bytes <= self._cache_bytes_left:
                self._cache[index] = loaded
                self._cache_bytes_left -= num_bytes

    def _stack(self, rows: Sequence[Row]) -> HostBatch:
        text_ids, text_mask = self._tokenizer([row.text for row in rows], self._config.text_len)
        return {
            "image": np.stack([row.image for row in rows]),
            "text_ids": text_ids,
            "text_mask": text_mask,
            "ids": np.array([row.id for row in rows], np.int32),
            "weights": np.array([row.weight for row in rows], np.float32),
        }
