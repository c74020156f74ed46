"""A sample of the data, and what a trained model makes of it: the reference that its exports are compared with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.data.config import DataConfig
from mmjax.data.examples import Examples
from mmjax.data.preprocess import PreprocessConfig, preprocess
from mmjax.data.records import Source
from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.export_folder import Trained
from mmjax.interop.tensors import DTYPES
from mmjax.models.base import Model
from mmjax.optim import paths
from mmjax.proof import cases
from mmjax.proof.sample import FOLDER, IMAGES, Arrays, Sample
from mmjax.types import Array

BATCH_SIZE = 16


class Pairs(NamedTuple):
    """Some pairs of the data: their texts, and the fields of a batch that a model sees of them, each (k, ...)."""

    texts: tuple[str, ...]
    inputs: Arrays


class Computed(NamedTuple):
    """`outputs` and `places` of a `Sample`."""

    outputs: Arrays
    places: Arrays


Compute = Callable[[Any, Arrays], Computed]
"""A model and its inputs -> what it makes of them."""


def spread(data: DataConfig, records: Source, tokenizer: Tokenizer, number: int) -> Pairs:
    """Up to `number` readable pairs of different captions, spread over the source, as evaluations see them.

    Raises:
        UserError: none can be read.
    """
    examples = Examples(data, records, tokenizer)
    found: dict[str, Arrays] = {}
    for index in np.unique(np.linspace(0, len(records) - 1, 2 * number).astype(int)):
        row = examples.eval_batch([int(index)]).batch
        if row["weights"][0]:
            found.setdefault(records[int(index)].captions[0], row)
    if not found:
        raise UserError("no record of the data can be read, and the proof needs some: name other data with --data")
    texts, rows = zip(*list(found.items())[:number], strict=True)
    seen = [name for name in rows[0] if name not in ("ids", "weights")]
    return Pairs(texts, {name: np.concatenate([row[name] for row in rows]) for name in seen})


def make_sample(export: Path, trained: Trained, pairs: Pairs, compute: Compute) -> Sample:
    """Writes the case files into the export; its sample: `pairs`, and what the model makes of them in float32.

    `trained` has the weights as they are exported. Pixels are only sampled for a model that looks at them.
    """
    config = trained.spec.preprocess
    inputs = {name: array for name, array in pairs.inputs.items() if name != "image" or config is not None}
    case_ids, case_mask = trained.tokenizer(cases.TEXTS, inputs["text_ids"].shape[1])
    files = () if config is None else cases.write_images(export / FOLDER / IMAGES)
    computed = compute(loaded_model(trained), inputs)
    return Sample(
        case_files=files,
        case_pixels=_case_pixels(export, files, config),
        case_texts=cases.TEXTS,
        case_ids=case_ids,
        case_mask=case_mask,
        texts=pairs.texts,
        inputs=inputs,
        outputs=computed.outputs,
        places=computed.places,
    )


def _case_pixels(export: Path, files: tuple[str, ...], config: PreprocessConfig | None) -> np.ndarray:
    if config is None:
        return np.zeros((0, 0), np.uint8)
    return np.stack([preprocess((export / FOLDER / IMAGES / name).read_bytes(), config) for name in files])


class Rounded(Mapping[str, np.ndarray]):
    """Weights rounded to a type, as float32; each is read when it is asked for."""

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: str):
        self._weights, self._dtype = weights, DTYPES[dtype]

    def __getitem__(self, path: str) -> np.ndarray:
        return self._weights[path].astype(self._dtype).astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def loaded_model(trained: Trained) -> Model:
    """The model with its weights on the device, each read once, computing in float32."""
    config = in_float32(trained.spec.model)
    abstract = nnx.eval_shape(lambda: config.build(jax.random.key(0)))
    graph, shapes = nnx.split(abstract)

    def value(path: str, _: Any) -> Array:
        return jnp.asarray(trained.weights[path])

    return nnx.merge(graph, paths.map_leaves(value, nnx.to_pure_dict(shapes)))


def in_float32(config: Any) -> Any:
    """The config of the same model computing in float32, in all its parts."""
    changes = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name == "compute_dtype":
            changes[field.name] = "float32"
        elif is_dataclass(value):
            changes[field.name] = in_float32(value)
    return replace(config, **changes)


def in_batches(function: Callable[[dict[str, np.ndarray]], Any], inputs: Arrays) -> Any:
    """`function` of rows of `inputs`, `BATCH_SIZE` at a time; the last batch is filled with the first row.

    It may return any tree of arrays with as many rows.
    """
    num_rows = len(next(iter(inputs.values())))
    filled = {
        name: np.concatenate([array, array[:1].repeat(-num_rows % BATCH_SIZE, axis=0)])
        for name, array in inputs.items()
    }
    starts = range(0, num_rows, BATCH_SIZE)
    parts = [
        jax.device_get(function({name: array[start : start + BATCH_SIZE] for name, array in filled.items()}))
        for start in starts
    ]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:num_rows], *parts)


def similarity_logits(
    image_features: np.ndarray, text_features: np.ndarray, log_scale: Any, bias: Any = 0.0
) -> np.ndarray:
    """float32 (b, b), an image a row: exp(log_scale) x the similarity of each with each, plus the bias."""
    scale, bias = np.exp(np.float64(log_scale[...])), np.float64(bias)
    logits = image_features.astype(np.float64) @ text_features.T.astype(np.float64) * scale + bias
    return logits.astype(np.float32)
