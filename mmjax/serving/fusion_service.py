"""What a fusion model answers beside embeddings, without HTTP: matches, and the words that fill masks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mmjax.serving.fusion_model import FusionModel
from mmjax.serving.images import open_image
from mmjax.serving.lanes import BatchConfig, Encode
from mmjax.serving.limits import Limits, Refused
from mmjax.serving.model import Rows
from mmjax.serving.search import SearchIndex
from mmjax.serving.service import IMAGE, TEXT, Score, Service, all_of

TOKENS, MATCH, FILL = "image_tokens", "match", "fill_mask"

Picture = Callable[[], Rows]
"""Prepares an image, in another thread."""


@dataclass(frozen=True)
class Word:
    """A word for a mask, with its probability among all words."""

    word: str
    probability: float


class FusionService(Service):
    """A fusion model and its queues: images run through their tower once, and then beside each of their texts."""

    def __init__(
        self,
        model: FusionModel,
        index: SearchIndex | None = None,
        limits: Limits = Limits(),
        batching: BatchConfig = BatchConfig(),
    ):
        self.model = model
        super().__init__(model, index, limits, batching)

    def pixels(self, data: Callable[[], bytes]) -> Picture:
        """An encoded image, given as a function that returns it."""
        return lambda: self.model.prepare_image(open_image(data(), self.limits))

    def regions(self, features: str, boxes: Sequence[Sequence[float]] | None) -> Picture:
        """An image as regions, see `region_rows`."""
        return lambda: self.model.prepare_regions(features, boxes, self.limits)

    async def match(self, picture: Picture, texts: Sequence[str]) -> list[float]:
        """The probability that each of the texts belongs to the image.

        Raises:
            Refused: the image or a text is refused, the model has no such head, or the service is too busy.
        """
        if not self.model.can_match:
            raise Refused(404, "no_match", "this model has no head for matching")
        with self._gates[IMAGE].admit(1), self._gates[TEXT].admit(len(texts)):
            prepare = partial(self.model.prepare_pairs, texts)
            _, probabilities = await self._in_time(self._beside(MATCH, picture, prepare))
        return _finite(probabilities).tolist()

    async def fill_mask(self, picture: Picture, text: str, count: int) -> list[list[Word]]:
        """For each mask of the text, in order, the `count` likeliest words, best first.

        Raises:
            Refused: the image or the text is refused, the model or its tokenizer has no masks, or the service is too
                busy.
        """
        if not self.model.can_fill:
            raise Refused(404, "no_fill", "this model has no head for words, or its tokenizer no mask")
        with self._gates[IMAGE].admit(1), self._gates[TEXT].admit(1):
            prepare = partial(self.model.prepare_masked, text, self.limits.masks)
            rows, best = await self._in_time(self._beside(FILL, picture, prepare))
        # Beside texts of more masks it had more places.
        own = _finite(best[0])[: rows["places"].shape[1], :count]
        return await self._threaded(lambda: self._words(own))

    async def embed_images(self, images: Sequence[Callable[[], bytes]]) -> np.ndarray:
        self._check_embeds()
        return await super().embed_images(images)

    async def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self._check_embeds()
        return await super().embed_texts(texts)

    async def classify(
        self, image: Callable[[], bytes], labels: Sequence[str], templates: Sequence[str]
    ) -> list[Score]:
        self._check_embeds()
        return await super().classify(image, labels, templates)

    def _lanes(self) -> dict[str, Encode]:
        own: dict[str, Encode] = {
            TOKENS: self.model.encode_tokens,
            MATCH: self.model.match,
            FILL: partial(self.model.fill, count=self.limits.words),
        }
        return super()._lanes() | own

    async def _beside(self, lane: str, picture: Picture, prepare: Callable[[], Rows]) -> tuple[Rows, np.ndarray]:
        """Texts, and what a lane makes of them beside an image."""
        (image, tokens), texts = await all_of((self._image_tokens(picture), self._threaded(prepare)))
        return texts, await self._submitted(lane, self.model.beside(texts, image, tokens))

    async def _image_tokens(self, picture: Picture) -> tuple[Rows, np.ndarray]:
        rows = await self._threaded(picture)
        return rows, await self._submitted(TOKENS, rows)

    def _words(self, best: np.ndarray) -> list[list[Word]]:
        """best (m, count, 2): ids and probabilities."""
        return [
            [Word(*pair) for pair in zip(self.model.words(place[:, 0].astype(int)), place[:, 1].tolist(), strict=True)]
            for place in best
        ]

    def _check_embeds(self) -> None:
        if not self.model.embed_dim:
            detail = "this model embeds neither images nor texts: ask it what matches, or for the words of masks"
            raise Refused(404, "no_embeddings", detail)


def _finite(numbers: np.ndarray) -> np.ndarray:
    """The same; features of regions may be so large that what comes out is no number."""
    if not np.isfinite(numbers).all():
        raise Refused(422, "not_finite", "the model computes no number from this image: its features are too large")
    return numbers
