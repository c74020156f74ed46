"""What a pretraining recipe is to the training step: a few functions and a state."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.base import ModelConfig
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.types import Array, Batch, BatchSpec, Key, Loss, Params

Embeddings = dict[str, Array]
ObjectiveState = dict[str, Any]


class Objective(Protocol):
    """A pretraining recipe.

    `encode` maps examples to embeddings, each example on its own; `loss` sees all embeddings of the global batch. The
    split is what lets the step run `encode` in microbatches and still differentiate the loss of the whole batch.
    `model` is the `nnx.Module` that the recipe is written for.
    """

    @property
    def decomposes(self) -> bool:
        """True where the loss of a batch is the sum of its examples' losses, so that microbatches may be summed.

        Never true of a contrastive loss, where each example is the others' negative.
        """
        ...

    def init_state(self, model: Any, batch_spec: BatchSpec) -> ObjectiveState:
        """The objective's own arrays (queues, momentum teachers), sharded and checkpointed as parameters are."""
        ...

    def encode(self, model: Any, batch: Batch, key: Key | None) -> Embeddings:
        """Embeddings of each example, leading dimension `b`; `key` None means no dropout."""
        ...

    def teach(self, model: Any, batch: Batch, state: ObjectiveState) -> Embeddings:
        """What a teacher kept in `state` makes of the batch, for the loss, without gradient; {} where there is none."""
        ...

    def loss(
        self, model: Any, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The loss of the global batch, and the state for the next step."""
        ...


@dataclass(frozen=True)
class ObjectiveConfig(ABC):
    """What a config file may put in the place of `objective`."""

    @property
    def num_words(self) -> int:
        """The least `data.num_words` that the objective needs."""
        return 0

    @property
    def vocabulary(self) -> tuple[int, tuple[int, ...]] | None:
        """The ids of the mask and of the special tokens that it counts on, where it masks tokens."""
        return None

    def fields(self, model: ModelConfig) -> dict[str, int | None]:
        """Fields of a batch that it reads beside those that the model sees, by how many numbers each region has of
        them; None where it has one."""
        return {}

    @property
    def matches(self) -> bool:
        """Whether it trains the head of a pair to tell a text and an image that belong together from others."""
        return False

    def similarity_scale(self, params: Params) -> Array:
        """What a similarity of the towers adds, times this, to the log odds of a match; see `evals.rerank`."""
        return jnp.zeros(())

    def check_model(self, model: ModelConfig) -> None:
        """Refuses a model that this objective cannot train.

        Raises:
            UserError: with what is missing.
        """
        if not isinstance(model, DualEncoderConfig):
            raise UserError(
                f"{type(self).__name__} trains a dual encoder, not a {type(model).__name__}: set objective to "
                "mmjax.objectives.fusion:FusionObjectiveConfig"
            )

    @abstractmethod
    def build(self) -> Objective:
        """The objective itself."""
