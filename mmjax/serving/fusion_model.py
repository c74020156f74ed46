"""An exported fusion model: how well an image and a text match, and which words fill the masks of a text.

Where its towers are trained to be compared, they embed images and texts as a dual encoder does.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmjax.serving.limits import Limits, Refused
from mmjax.serving.model import DTYPES, ModelConfig, Rows, fingerprint
from mmjax.serving.models.fusion import Fusion, Tokens
from mmjax.serving.models.inputs import RegionInput
from mmjax.serving.models.trunk import Streams
from mmjax.serving.regions import region_rows

MATCH_CLASS = 1
"""Of the pair's classes: image and text belong together. Training has it so (`losses.pairs`)."""


class FusionModel:
    """A fusion model with its preprocessing. `prepare_*` may run in any thread, the others where batches are run.

    takes_regions: its images are regions of a detector, each of `feature_dim` numbers, and not pixels.
    can_match, can_fill: whether it has what `match` and `fill` need.
    mask_token: what stands in a text where a word is missing; None where it cannot fill it.
    embed_dim: width e of the embeddings of its towers; 0 where it has none.
    scale, bias: as of an `Embedder`.
    image_size: rows and columns of pixels that it sees; None where it takes regions.
    text_len: tokens that it reads.
    num_words: that its tokenizer knows.
    fingerprint: SHA-256 over the files that decide the answers.
    """

    def __init__(self, model: Any, processor: Any, tokenizer: Any, config: ModelConfig):
        self._model: Fusion = model
        self._processor, self._tokenizer = processor, tokenizer
        self._device, self._dtype = torch.device(config.device), DTYPES[config.dtype]
        self._tokenizer_lock = threading.Lock()  # It keeps padding and truncation as its own state.
        self.config = config
        self.fingerprint = fingerprint(config.folder)
        parts = model.config
        self.takes_regions = isinstance(model.image, RegionInput)
        self.image_size: tuple[int, int] | None = getattr(model.image, "size", None)
        self.feature_dim: int | None = parts.image.feature_dim if self.takes_regions else None
        # A model may have more places than its texts had tokens in training; those were never trained.
        self.text_len: int = min(parts.text.context_len, tokenizer.model_max_length)
        self.embed_dim: int = parts.embed_dim
        self.scale, self.bias = model.log_scale.float().exp().item() if self.embed_dim else 1.0, None
        self.num_words = min(len(tokenizer), parts.text.vocab_size)
        self.can_match = parts.heads.num_pair_classes > MATCH_CLASS
        self.can_fill: bool = parts.heads.tokens and tokenizer.mask_token_id is not None
        self.mask_token: str | None = tokenizer.mask_token if self.can_fill else None

    def prepare_image(self, image: Image.Image) -> Rows:
        """The pixels (1, 3, y, x) of an image of any mode and size, normalised.

        Raises:
            Refused: (404) the model takes regions.
        """
        if self.takes_regions:
            raise Refused(404, "no_pixels", "this model takes regions of a detector, and no images of pixels")
        pixels = self._processor(images=[image], do_convert_rgb=True, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def prepare_regions(self, features: str, boxes: Sequence[Sequence[float]] | None, limits: Limits) -> Rows:
        """One image as regions, see `region_rows`; for models that take regions."""
        assert self.feature_dim is not None
        takes_boxes = self._model.config.image.location != "none"
        return region_rows(features, boxes, self.feature_dim, takes_boxes, limits)

    def prepare_texts(self, texts: Sequence[str]) -> Rows:
        """The tokens (n, t) of texts and their mask, for embeddings; what the model does not read is cut."""
        return self._tokens(texts, truncation=True, max_length=self.text_len)

    def prepare_pairs(self, texts: Sequence[str]) -> Rows:
        """The same for texts that stand beside an image.

        Raises:
            Refused: (422) a text has more tokens than the model reads.
        """
        rows = self._tokens(texts)
        length = rows["input_ids"].shape[1]
        if length > self.text_len:
            raise Refused(422, "long_text", f"a text has {length} tokens: at most {self.text_len}")
        return rows

    def prepare_masked(self, text: str, most: int) -> Rows:
        """The tokens (1, t) of a text, and the places (1, m) of its masks.

        Raises:
            Refused: (422) it has more tokens than the model reads, no mask, or more than `most` of them.
        """
        rows = self.prepare_pairs([text])
        (places,) = torch.nonzero(rows["input_ids"][0] == self._tokenizer.mask_token_id, as_tuple=True)
        if not len(places):
            raise Refused(422, "no_mask", f"the text has no {self.mask_token}: put it where a word is missing")
        if len(places) > most:
            raise Refused(422, "many_masks", f"the text has {len(places)} masks: at most {most}")
        return {**rows, "places": places[None]}

    def beside(self, texts: Rows, image: Rows, tokens: np.ndarray) -> Rows:
        """The rows of texts (n, ...), each with the `image` (1, ...) whose tokens (1, p, d) `encode_tokens` gave.

        Among images with more regions they are longer than they were: the rest is padding, and cut off.
        """
        num_rows, image_tokens = len(texts["input_ids"]), torch.from_numpy(tokens)
        if not self.takes_regions:
            return {**texts, "image_tokens": image_tokens.expand(num_rows, -1, -1)}
        count = image["region_mask"].shape[1] + self._model.config.image.whole_image
        mask = torch.ones(num_rows, count, dtype=torch.bool)
        return {**texts, "image_tokens": image_tokens[:, :count].expand(num_rows, -1, -1), "image_mask": mask}

    def words(self, ids: Sequence[int]) -> list[str]:
        """Each as the tokenizer writes it."""
        with self._tokenizer_lock:
            return [self._tokenizer.decode([number]).strip() for number in ids]

    def encode_images(self, rows: Rows) -> np.ndarray:
        """float32 (n, e), L2-normalised."""
        with torch.inference_mode():
            return self._model.embed_image(self._image(rows)).cpu().numpy()

    def encode_texts(self, rows: Rows) -> np.ndarray:
        """float32 (n, e), L2-normalised."""
        with torch.inference_mode():
            return self._model.embed_text(self._text(rows)).cpu().numpy()

    def encode_tokens(self, rows: Rows) -> np.ndarray:
        """The tokens float32 (n, p, d) of images behind their tower, the same for every text beside them."""
        with torch.inference_mode():
            return self._image(rows).tokens.float().cpu().numpy()

    def match(self, rows: Rows) -> np.ndarray:
        """The probability float32 (n,) that image and text of each of the rows `beside` belong together."""
        with torch.inference_mode():
            streams = self._fused(rows)
            logits = self._model.pair_logits(streams, self._model.pool(streams))
            return logits.float().softmax(dim=-1)[:, MATCH_CLASS].cpu().numpy()

    def fill(self, rows: Rows, count: int) -> np.ndarray:
        """For each of the `places` float64 (n, m, count, 2): ids of the likeliest words and their probabilities.

        Only words that the tokenizer knows are thought of.
        """
        with torch.inference_mode():
            text = self._fused(rows).text
            assert text is not None
            places = rows["places"].to(self._device)
            masked = text.gather(1, places[..., None].expand(-1, -1, text.shape[-1]))
            shares = self._model.token_logits(masked)[..., : self.num_words].float().softmax(dim=-1)
            best = shares.topk(min(count, self.num_words), dim=-1)
            return torch.stack([best.indices.double(), best.values.double()], dim=-1).cpu().numpy()

    def _tokens(self, texts: Sequence[str], **options: Any) -> Rows:
        with self._tokenizer_lock:
            tokens = self._tokenizer(
                list(texts), padding=True, return_tensors="pt", return_attention_mask=True, verbose=False, **options
            )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _text(self, rows: Rows) -> Tokens:
        return self._model.encode_text(self._placed(rows["input_ids"]), self._placed(rows["attention_mask"]).bool())

    def _image(self, rows: Rows) -> Tokens:
        names = {"pixel_values": "image"}
        return self._model.encode_image({names.get(name, name): self._placed(x) for name, x in rows.items()})

    def _fused(self, rows: Rows) -> Streams:
        mask = rows.get("image_mask")
        image = Tokens(self._placed(rows["image_tokens"]), None if mask is None else self._placed(mask))
        return self._model.fuse(self._text(rows), image)

    def _placed(self, x: Tensor) -> Tensor:
        return x.to(self._device, self._dtype if x.is_floating_point() else None)
