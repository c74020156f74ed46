"""Encoders and splits small enough to score by hand: pixels and token ids say where on the circle they lie."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from mmjax.evals.embed import Encoders, PairScorer
from mmjax.evals.split import EvalSplit
from mmjax.types import Array, Batch, HostBatch, Params


@dataclass(frozen=True)
class FakeRecord:
    """`image` and every caption are angles in degrees on the unit circle, so that similarities are cosines."""

    image: int
    captions: tuple[str, ...]
    class_name: str | None = None
    weight: float = 1.0


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    devices = jax.devices()[: data * fsdp * tensor]
    axis_types = (AxisType.Explicit,) * 3
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=axis_types, devices=devices)


def encoders(mesh: Mesh, pairs: PairScorer | None = None) -> Encoders:
    return Encoders(jax.jit(_encode_image), jax.jit(_encode_text), mesh, pairs)


def split_of(records: list[FakeRecord], batch_size: int, angles: dict[str, int] | None = None) -> EvalSplit:
    """`angles` says where a caption lies; a caption without an entry is itself the angle, as "90"."""

    def tokenize(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = np.array([[(angles or {}).get(text) or int(text)] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)

    return EvalSplit(records, lambda: _batches(records, batch_size), tokenize, text_batch_size=batch_size)


def _batches(records: list[FakeRecord], batch_size: int) -> Iterator[HostBatch]:
    for start in range(0, len(records), batch_size):
        rows = records[start : start + batch_size]
        image = np.zeros((batch_size, 1, 1, 3), np.uint8)
        weights = np.zeros(batch_size, np.float32)
        for place, record in enumerate(rows):
            image[place, 0, 0, :2] = divmod(record.image, 256)
            weights[place] = record.weight
        yield {"image": image, "weights": weights}


def degrees_of(params: Params, fields: Batch) -> Array:
    high, low = (fields["image"][:, 0, 0, place].astype(jnp.float32) for place in (0, 1))
    return 256 * high + low


def _encode_image(params: Params, fields: Batch) -> Array:
    return on_circle(params, degrees_of(params, fields))


def _encode_text(params: Params, text_ids: Array, text_mask: Array) -> Array:
    return on_circle(params, jnp.where(text_mask, text_ids, 0)[:, 0].astype(jnp.float32))


def on_circle(params: Params, degrees: Array) -> Array:
    radians = jnp.deg2rad(degrees) * params["turn"]
    return jnp.stack([jnp.cos(radians), jnp.sin(radians)], axis=-1)
