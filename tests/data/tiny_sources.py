"""Random images, and a source in memory."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmjax.data.records import BadRecord, Record


def png(seed: int, size: tuple[int, int] = (20, 16)) -> bytes:
    """A PNG of `size` (width, height) with random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


class MemorySource:
    """Records in memory: record i has a random image of its own and the caption "thing i"; chosen ones are bad."""

    def __init__(self, num_records: int, missing: Sequence[int] = (), broken: Sequence[int] = ()):
        self.images = [png(seed) for seed in range(num_records)]
        self.missing = set(missing)
        for index in broken:
            self.images[index] = self.images[index][:60]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        if index in self.missing:
            raise BadRecord("no such file")
        return Record(self.images[index], (f"thing {index}", "red", "round"), None, f"memory {index}")
