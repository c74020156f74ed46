"""A dual encoder of two small layers a side: it compiles in a second, and shards and drops out as the real one does."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from mmjax.nn.dropout import dropout
from mmjax.nn.linear import Linear
from mmjax.nn.norm import l2_normalise
from mmjax.nn.parameter import parameter
from mmjax.objectives.contrastive import Contrastive, ContrastiveConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.rules import Rule
from mmjax.optim.schedules import ScheduleConfig
from mmjax.parallel.rules import batch_sharding
from mmjax.training.program import Program, batch_shapes, build_program
from mmjax.training.step import TrainConfig
from mmjax.types import Array, Batch, Key
from tests import tiny

WIDTH, HIDDEN, NUM_ROWS = 16, 24, 32
SGD = OptimConfig(
    optimizer="sgd",
    momentum=0.0,
    learning_rate=0.1,
    clip_norm=0.0,
    schedule=ScheduleConfig(name="constant"),
    rules=(Rule(".*"),),
)
SIGMOID = Contrastive(ContrastiveConfig("sigmoid"))


class Tower(nnx.Module):
    """x (b, c) -> (b, d), of length 1."""

    def __init__(self, key: Key, num_features: int, dropout_rate: float):
        up_key, down_key = jax.random.split(key)
        self.dropout_rate = dropout_rate
        self.up = Linear(up_key, "cf", (num_features, HIDDEN))
        self.down = Linear(down_key, "fd", (HIDDEN, WIDTH))

    def __call__(self, x: Array, key: Key | None) -> Array:
        hidden = dropout(jax.nn.gelu(self.up(x)), self.dropout_rate, key, "bf")
        return l2_normalise(self.down(hidden))


class Toy(nnx.Module):
    """What `Contrastive` asks of a model."""

    def __init__(self, key: Key, dropout_rate: float = 0.0):
        image_key, text_key, scale_key = jax.random.split(key, 3)
        self.image = Tower(image_key, 3 * tiny.IMAGE_SIZE, dropout_rate)
        self.text = Tower(text_key, tiny.CONTEXT_LEN, dropout_rate)
        self.log_scale = parameter(scale_key, "", (), initializers.constant(1.0))
        self.logit_bias = parameter(scale_key, "", (), initializers.constant(-1.0))

    def run_tower(self, name: str, batch: Batch, key: Key | None) -> Any:
        if name == "image":
            return self.encode_image(batch["image"], key)
        return self.encode_text(batch["text_ids"], batch["text_mask"], key)

    def encode_image(self, image: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        pixels = jnp.mean(image.astype(jnp.float32) / 255 - 0.5, axis=1)
        return self.image(pixels.reshape(pixels.shape[0], -1), key), {}

    def encode_text(self, text_ids: Array, text_mask: Array, key: Key | None = None) -> tuple[Array, dict[str, Array]]:
        return self.text(jnp.where(text_mask, text_ids / tiny.VOCAB_SIZE, 0.0), key), {}

    def bias(self) -> Array:
        return self.logit_bias[...]


def build(dropout_rate: float = 0.0) -> Any:
    return lambda key: Toy(key, dropout_rate)


def program(
    mesh: jax.sharding.Mesh, train: TrainConfig, optim: OptimConfig = SGD, dropout_rate: float = 0.0
) -> Program:
    spec = batch_shapes(tiny.data(NUM_ROWS), mesh)
    return build_program(build(dropout_rate), SIGMOID, optim, train, mesh, spec)


def batch(mesh: jax.sharding.Mesh, seed: int = 0) -> Batch:
    """Rows of unequal weights, some of them 0, every id twice."""
    rows = tiny.batch(NUM_ROWS, seed)
    rows["weights"] *= 1 + rows["ids"] % 3
    rows["weights"][4] = 0
    return jax.device_put(rows, batch_sharding(mesh))
