"""Records with their images decoded, and those of them that are kept in memory."""

import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mmjax.data import photo_headers, preprocess, regions
from mmjax.data.config import DataConfig
from mmjax.data.notes import Notes, Unusable
from mmjax.data.photo_headers import Photo
from mmjax.data.records import BadRecord, Record, Regions, Source, Unreachable

NO_ANSWER = -1
BYTES_PER_PIXEL = 4  # Pillow keeps RGB in 32 bits a pixel.


@dataclass(frozen=True)
class Loaded:
    """A record that can be used: its image in RGB, or a photo that is still to be decoded, or its regions, and
    `captions`, the main one first."""

    image: Image.Image | Photo | None
    regions: Regions | None
    captions: tuple[str, ...]
    id: int
    answer: int
    name: str

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        if isinstance(self.image, Photo):
            return len(self.image.encoded)
        pixels = 0 if self.image is None else BYTES_PER_PIXEL * self.image.width * self.image.height
        return pixels + (0 if self.regions is None else regions.num_bytes(self.regions))


class Kept:
    """Records by index, up to `capacity_bytes` of them; safe to use from many threads.

    What came first stays: with a new order every epoch, no choice of what to drop is better than another. A copy in
    another process is empty.
    """

    def __init__(self, capacity_bytes: int):
        self._capacity_bytes = self._bytes_left = capacity_bytes
        self._records: dict[int, Loaded] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Kept"], tuple[int]]:
        return Kept, (self._capacity_bytes,)

    def get(self, index: int) -> Loaded | None:
        return self._records.get(index)

    def put(self, index: int, loaded: Loaded) -> None:
        with self._lock:
            if index not in self._records and loaded.num_bytes <= self._bytes_left:
                self._records[index] = loaded
                self._bytes_left -= loaded.num_bytes


def _shown(record: Record, rng: np.random.Generator | None) -> bytes | np.ndarray | None:
    if not record.frames or rng is None:
        return record.image
    return record.frames[int(rng.integers(len(record.frames)))]


class Loader:
    """Gives the records of a source as the settings want them; safe to use from many threads."""

    def __init__(self, config: DataConfig, source: Source):
        self._config, self._source = config, source
        self._kept = Kept(config.cache_bytes)

    @property
    def _cuts_photos(self) -> bool:
        return self._config.augment.crops and self._config.augment.decoder == "turbo"

    def load(
        self, index: int, notes: Notes, *, keep_size: bool, rng: np.random.Generator | None = None
    ) -> Loaded | None:
        """Record `index`, its image scaled but where `keep_size`; None where it cannot be used, which is noted.

        Of a video one frame, drawn by `rng`, or without it the middle one.

        Raises:
            Unreachable: it cannot be read now.
        """
        loaded = self._kept.get(index)
        if loaded is not None:
            return loaded
        name = f"record {index}"
        try:
            with notes.costs.timed("read"):
                record = self._source[index]
            name = record.name
            with notes.costs.timed("decode"):
                loaded = self._decode(record, _shown(record, rng), keep_size)
        except Unreachable:
            raise
        except BadRecord as error:
            notes.unusable.append(Unusable(index, name, str(error)))
            return None
        if not record.frames:  # The next example of it shows another one.
            self._kept.put(index, loaded)
        return loaded

    def _decode(self, record: Record, shown: bytes | np.ndarray | None, keep_size: bool) -> Loaded:
        answer = NO_ANSWER if record.answer is None else record.answer
        about = (record.captions, record.id, answer, record.name)
        if record.regions is not None or not self._config.image_key:
            return Loaded(None, record.regions, *about)
        photo = photo_headers.opened(shown) if keep_size and self._cuts_photos else None
        if photo is not None:
            return Loaded(photo, None, *about)
        image = preprocess.decode(shown)
        if not keep_size:
            image = preprocess.resize(image, self._config.preprocess)
        return Loaded(image, None, *about)
