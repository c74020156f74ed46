"""What a trained fusion model makes of a sample."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from mmjax.interop.sampling import Computed, in_batches, similarity_logits
from mmjax.models.fusion.model import Fusion
from mmjax.proof.sample import Arrays
from mmjax.types import Array

NUM_PAIRS = 16
"""Each is compared at every token of both streams: more of them would weigh much and say little more."""

ALONG_TEXT = ("text", "token_logits")
"""Outputs with a row for each token of the text; others of three dimensions have one for each token of the image."""


def compute(model: Fusion, inputs: Arrays) -> Computed:
    """Both streams, what every head makes of them, and the embeddings and logits of the towers where they have any.

    What has a row for each token is kept where a token stands: nothing reads what is computed at padding, and libraries
    need not agree on it. Of the logits of words only one row a text is kept, of another place in each: all rows go
    through the same head, and a vocabulary is large.
    """
    if model.image is None:
        inputs = {name: array for name, array in inputs.items() if name.startswith("text_")}
    graph, params = nnx.split(model)
    function = jax.jit(lambda params, batch: _outputs(nnx.merge(graph, params), batch))
    whole = in_batches(functools.partial(function, params), inputs)
    image_mask = whole.pop("image_mask", None)
    if "image_features" in whole:
        whole["logits"] = similarity_logits(whole["image_features"], whole["text_features"], model.log_scale)
    places = {name: _places(name, inputs["text_mask"], image_mask) for name, array in whole.items() if array.ndim == 3}
    kept = {name: array[places[name]] if name in places else array for name, array in whole.items()}
    return Computed(kept, places)


def _outputs(model: Fusion, batch: dict[str, Array]) -> dict[str, Any]:
    streams, outputs = model(batch)
    found = {"text": streams.text, **outputs}
    if model.image is None:
        return found
    image = model.encode_image(batch)
    mask = jax.numpy.ones(image.tokens.shape[:2], bool) if image.mask is None else image.mask
    found |= {"image": streams.image, "image_mask": mask}
    if model.config.embeds:
        text = model.encode_text(batch["text_ids"], batch["text_mask"])
        found |= {"image_features": model.embed_image(image), "text_features": model.embed_text(text)}
    return found


def _places(name: str, text_mask: np.ndarray, image_mask: np.ndarray) -> np.ndarray:
    """bool (b, tokens) of the rows that are kept."""
    if name == "token_logits":
        chosen = [np.flatnonzero(row)[number % row.sum()] for number, row in enumerate(text_mask)]
        return np.arange(text_mask.shape[1]) == np.asarray(chosen)[:, None]
    return text_mask if name in ALONG_TEXT else image_mask
