"""What a trained dual encoder, or one of its towers, makes of a sample."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from mmjax.interop.formats import Part
from mmjax.interop.sampling import Compute, Computed, in_batches, similarity_logits
from mmjax.models.dual_encoder import DualEncoder
from mmjax.nn.norm import l2_normalise
from mmjax.proof.sample import Arrays
from mmjax.types import Array

NUM_PAIRS = 64


def computing(part: Part) -> Compute:
    """Embeddings of the towers, without projections where one tower is meant, and the logits of all with all."""
    return functools.partial(_computed, part)


def _computed(part: Part, model: DualEncoder, inputs: Arrays) -> Computed:
    graph, params = nnx.split(model)

    @jax.jit
    def image_features(params: Any, batch: dict[str, Array]) -> Array:
        towers = nnx.merge(graph, params)
        if part == "both":
            return towers.encode_image(batch["image"])[0]
        return l2_normalise(towers.image(batch["image"])[0])

    @jax.jit
    def text_features(params: Any, batch: dict[str, Array]) -> Array:
        towers = nnx.merge(graph, params)
        texts = batch["text_ids"], batch["text_mask"]
        return towers.encode_text(*texts)[0] if part == "both" else l2_normalise(towers.text(*texts)[0])

    found: dict[str, np.ndarray] = {}
    if part != "text":
        found["image_features"] = in_batches(functools.partial(image_features, params), inputs)
    if part != "image":
        found["text_features"] = in_batches(functools.partial(text_features, params), inputs)
    if part == "both":
        found["logits"] = similarity_logits(**found, log_scale=model.log_scale, bias=model.bias())
    return Computed(found, {})
