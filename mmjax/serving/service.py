"""What the endpoints do, without HTTP: decode in a few threads, embed in batches, search."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from mmjax.serving.batching import Batcher
from mmjax.serving.fusion_model import FusionModel
from mmjax.serving.images import open_image
from mmjax.serving.lanes import BatchConfig, Encode
from mmjax.serving.limits import Gate, Limits, Refused, overloaded
from mmjax.serving.metrics import Metrics
from mmjax.serving.model import Embedder, Rows
from mmjax.serving.search import Hit, SearchIndex

IMAGE, TEXT = "image", "text"
T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    """A label with its cosine, its probability among the labels, and its own probability where the model has a bias."""

    label: str
    similarity: float
    probability: float
    match: float | None


class Service:
    """A model, its queues and perhaps an index. The methods run in one event loop."""

    def __init__(
        self,
        embedder: Embedder | FusionModel,
        index: SearchIndex | None = None,
        limits: Limits = Limits(),
        batching: BatchConfig = BatchConfig(),
    ):
        self.embedder, self.index, self.limits, self.metrics = embedder, index, limits, Metrics()
        self._batcher = Batcher(self._lanes(), batching, self.metrics.batch)
        self._gates = {IMAGE: Gate("images", limits.queued_images), TEXT: Gate("texts", limits.queued_texts)}
        self.bodies = Gate("bytes", limits.all_bodies_bytes)
        # Decoding and the model take turns on the same cores: half of them keep the model busy.
        self._pool = ThreadPoolExecutor(
            max(1, (os.cpu_count() or 2) // 2),
            thread_name_prefix="prepare",
            initializer=partial(torch.set_num_threads, 1),
        )
        for gate in (*self._gates.values(), self.bodies):
            self.metrics.watch(gate.name, partial(getattr, gate, "inside"))

    async def embed_images(self, images: Sequence[Callable[[], bytes]]) -> np.ndarray:
        """float32 (n, e) of encoded images; each is given as a function, called in another thread, that returns it.

        Raises:
            Refused: an image is none or beyond the limits, or the service is too busy.
        """
        with self._gates[IMAGE].admit(len(images)):
            return await self._in_time(self._embed_images(images))

    async def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, e) of texts.

        Raises:
            Refused: the service is too busy.
        """
        with self._gates[TEXT].admit(len(texts)):
            return await self._in_time(self._embed_texts(texts))

    async def classify(
        self, image: Callable[[], bytes], labels: Sequence[str], templates: Sequence[str]
    ) -> list[Score]:
        """The labels, best first: zero-shot classification as CLIP does it (arXiv:2103.00020, section 3.1.4).

        A label's embedding is the normalised mean of its prompts' embeddings, one prompt a template.

        Raises:
            Refused: the image is refused, there are too many prompts, or the service is too busy.
        """
        if len(labels) * len(templates) > self.limits.prompts:
            detail = f"{len(labels)} labels in {len(templates)} templates: at most {self.limits.prompts} prompts"
            raise Refused(422, "many_prompts", detail)
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        with self._gates[IMAGE].admit(1), self._gates[TEXT].admit(len(prompts)):
            return await self._in_time(self._classify(image, labels, prompts))

    async def search(self, query: np.ndarray, target: str, count: int) -> list[Hit]:
        """The nearest rows of the index to one embedding (e,)."""
        return (await self._threaded(lambda: self._open_index.find(target, query[None], count)))[0]

    async def thumbnail(self, row: int) -> bytes | None:
        return await self._threaded(lambda: self._open_index.thumbnail(row))

    def _lanes(self) -> dict[str, Encode]:
        """What the model runs in batches, by name."""
        return {IMAGE: self.embedder.encode_images, TEXT: self.embedder.encode_texts}

    @property
    def ready(self) -> bool:
        return self._batcher.alive

    def close(self) -> None:
        """Answers what has been accepted, then lets everything go."""
        self._batcher.close()
        self._pool.shutdown()
        if self.index is not None:
            self.index.close()

    @property
    def _open_index(self) -> SearchIndex:
        if self.index is None:
            raise Refused(404, "no_index", "there is no index: start the service with --index")
        return self.index

    async def _embed_images(self, images: Sequence[Callable[[], bytes]]) -> np.ndarray:
        # Image by image, so that many are decoded at once, and the model starts with the first.
        return np.concatenate(await all_of(self._embed_image(image) for image in images))

    async def _embed_image(self, image: Callable[[], bytes]) -> np.ndarray:
        return await self._embed(IMAGE, lambda: self.embedder.prepare_image(open_image(image(), self.limits)))

    async def _embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return await self._embed(TEXT, lambda: self.embedder.prepare_texts(texts))

    async def _embed(self, lane: str, prepare: Callable[[], Rows]) -> np.ndarray:
        return await self._submitted(lane, await self._threaded(prepare))

    async def _submitted(self, lane: str, rows: Rows) -> np.ndarray:
        return await asyncio.wrap_future(self._batcher.submit(lane, rows))

    async def _classify(self, image: Callable[[], bytes], labels: Sequence[str], prompts: Sequence[str]) -> list[Score]:
        image_embed, prompt_embeds = await all_of((self._embed_image(image), self._embed_texts(prompts)))
        means = torch.from_numpy(prompt_embeds).view(len(labels), -1, prompt_embeds.shape[1]).mean(1)
        cosines = torch.nn.functional.normalize(means, dim=-1) @ torch.from_numpy(image_embed[0])
        bias = self.embedder.bias
        logits = self.embedder.scale * cosines + (bias or 0.0)
        matches: list[Any] = [None] * len(labels) if bias is None else logits.sigmoid().tolist()
        scores = map(Score, labels, cosines.tolist(), logits.softmax(0).tolist(), matches)
        return sorted(scores, key=lambda score: -score.similarity)

    async def _threaded(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _in_time(self, answer: Any) -> Any:
        try:
            async with asyncio.timeout(self.limits.answer_secs):
                return await answer
        except TimeoutError as error:
            raise overloaded(f"no answer within {self.limits.answer_secs:g} seconds") from error


async def all_of(answers: Any) -> list[Any]:
    """The results in order; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(answer) for answer in answers]
    except* Refused as refusals:
        first: BaseException = refusals
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return [task.result() for task in tasks]
