"""What the trained model itself makes of a sample: the reference that its exports are compared with."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.data.preprocess import PreprocessConfig, preprocess
from mmjax.data.records import BadRecord, Record, Source
from mmjax.errors import UserError
from mmjax.interop.exports import Trained
from mmjax.interop.formats import Part
from mmjax.interop.tensors import DTYPES
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.nn.norm import l2_normalise
from mmjax.optim import paths
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.proof import cases
from mmjax.proof.sample import FOLDER, IMAGES, Sample
from mmjax.types import Array

NUM_PAIRS = 64
BATCH_SIZE = 16


def make_sample(export: Path, trained: Trained, part: Part, dtype: str, records: Source) -> Sample:
    """Writes the case files into the export; its sample: pairs of `records`, and what the model makes of them.

    Computed in float32 from the weights as they are exported, rounded to `dtype`.
    """
    text_len = trained.spec.model.text.context_len
    files = cases.write_images(export / FOLDER / IMAGES)
    pairs = spread(records, NUM_PAIRS)
    texts = tuple(record.captions[0] for record in pairs)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        model = loaded_model(trained, dtype)
        sample = _inputs(export, files, pairs, texts, trained, text_len)
        return with_outputs(sample, model, part)


def spread(records: Source, number: int) -> list[Record]:
    """Up to `number` readable records of different captions, spread over the source.

    Raises:
        UserError: none can be read.
    """
    found: dict[str, Record] = {}
    for index in np.unique(np.linspace(0, len(records) - 1, 2 * number).astype(int)):
        try:
            record = records[int(index)]
            preprocess(record.image, PreprocessConfig())
        except BadRecord:
            continue
        found.setdefault(record.captions[0], record)
    if not found:
        raise UserError("no record of the data can be read, and the proof needs some: name other data with --data")
    return list(found.values())[:number]


def loaded_model(trained: Trained, dtype: str) -> DualEncoder:
    """The model with its weights on the device, each read once and rounded to `dtype`, computing in float32."""
    config = in_float32(trained.spec.model)
    abstract = nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0)))
    graph, shapes = nnx.split(abstract)

    def value(path: str, _: Any) -> Array:
        return jnp.asarray(trained.weights[path].astype(DTYPES[dtype]).astype(np.float32))

    return nnx.merge(graph, paths.map_leaves(value, nnx.to_pure_dict(shapes)))


def in_float32(config: DualEncoderConfig) -> DualEncoderConfig:
    """The config of the same model computing in float32."""
    return replace(config, image=_tower_in_float32(config.image), text=_tower_in_float32(config.text))


def _tower_in_float32(tower: Any) -> Any:
    return replace(tower, compute_dtype="float32")


def with_outputs(sample: Sample, model: DualEncoder, part: Part) -> Sample:
    """The sample with the embeddings of `model`, without projections where one tower is meant, and with the logits."""
    graph, params = nnx.split(model)

    @jax.jit
    def image_embed(params: Any, image: Array) -> Array:
        towers = nnx.merge(graph, params)
        return towers.encode_image(image)[0] if part == "both" else l2_normalise(towers.image(image)[0])

    @jax.jit
    def text_embed(params: Any, text_ids: Array, text_mask: Array) -> Array:
        towers = nnx.merge(graph, params)
        if part == "both":
            return towers.encode_text(text_ids, text_mask)[0]
        return l2_normalise(towers.text(text_ids, text_mask)[0])

    found: dict[str, Any] = {}
    if part != "text":
        found["image_embeds"] = _in_batches(functools.partial(image_embed, params), sample.pixels)
    if part != "image":
        found["text_embeds"] = _in_batches(functools.partial(text_embed, params), sample.text_ids, sample.text_mask)
    if part == "both":
        found["logits"] = _logits(model, **found)
    return sample._replace(**found)


def _logits(model: DualEncoder, image_embeds: np.ndarray, text_embeds: np.ndarray) -> np.ndarray:
    scale, bias = np.exp(np.float64(model.log_scale[...])), np.float64(model.bias())
    return (image_embeds.astype(np.float64) @ text_embeds.T.astype(np.float64) * scale + bias).astype(np.float32)


def _in_batches(encode: Callable[..., Array], *arrays: np.ndarray) -> np.ndarray:
    """`encode` of rows of `arrays`, `BATCH_SIZE` at a time; the last batch is filled with the first row."""
    num_rows = len(arrays[0])
    filled = [np.concatenate([array, array[:1].repeat(-num_rows % BATCH_SIZE, axis=0)]) for array in arrays]
    starts = range(0, len(filled[0]), BATCH_SIZE)
    batches = (encode(*(array[start : start + BATCH_SIZE] for array in filled)) for start in starts)
    return np.concatenate([np.asarray(batch) for batch in batches])[:num_rows]


def _inputs(
    export: Path, files: Sequence[str], pairs: Sequence[Record], texts: Sequence[str], trained: Trained, text_len: int
) -> Sample:
    config = trained.spec.preprocess
    case_bytes = [(export / FOLDER / IMAGES / name).read_bytes() for name in files]
    case_ids, case_mask = trained.tokenizer(cases.TEXTS, text_len)
    text_ids, text_mask = trained.tokenizer(texts, text_len)
    nothing = np.zeros((0, 0), np.float32)
    return Sample(
        case_files=tuple(files),
        case_pixels=_pixels(case_bytes, config),
        case_texts=cases.TEXTS,
        case_ids=case_ids,
        case_mask=case_mask,
        pixels=_pixels([record.image for record in pairs], config),
        texts=tuple(texts),
        text_ids=text_ids,
        text_mask=text_mask,
        image_embeds=nothing,
        text_embeds=nothing,
        logits=nothing,
    )


def _pixels(images: Iterable[bytes | np.ndarray], config: PreprocessConfig | None) -> np.ndarray:
    assert config is not None, "a trained model has its preprocessing"
    return np.stack([preprocess(image, config) for image in images])
