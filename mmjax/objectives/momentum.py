"""Momentum contrast of images and texts (MoCo, ALBEF): a slowly moving teacher and a queue of its embeddings."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmjax.errors import UserError
from mmjax.losses.info_nce import clamped_log_scale
from mmjax.losses.momentum import Queue, momentum_contrastive
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.pairs import PairObjective
from mmjax.types import Array, Batch, BatchSpec, Key, Loss


@dataclass(frozen=True)
class MomentumConfig(ObjectiveConfig):
    """How the teacher follows, and what it teaches; the defaults are ALBEF's.

    queue_batches: batches of teacher embeddings that are compared with, the present one among them (ALBEF: 128 of 512).
    momentum: in [0, 1), what the teacher keeps of itself each step.
    distillation: in [0, 1], the part of the targets that are the teacher's own probabilities; the rest are the pairs.
    distillation_steps: over which that part grows from 0 (ALBEF: the first epoch).
    largest_scale: bound of the learned scale.
    """

    queue_batches: int = 16
    momentum: float = 0.995
    distillation: float = 0.4
    distillation_steps: int = 0
    largest_scale: float = 100.0

    def __post_init__(self) -> None:
        if self.queue_batches < 1:
            raise UserError(f"objective.queue_batches = {self.queue_batches} must be at least 1: correct it")
        if not 0 <= self.momentum < 1:
            raise UserError(f"objective.momentum = {self.momentum} is not in [0, 1): correct it")
        if not 0 <= self.distillation <= 1:
            raise UserError(f"objective.distillation = {self.distillation} is not in [0, 1]: correct it")

    def build(self) -> "Momentum":
        return Momentum(config=self)


@dataclass(frozen=True)
class Momentum(PairObjective):
    """Each image is drawn to the teacher's text of the same example among all texts of the queue, and each text to the
    teacher's image.

    Source: He et al. (2020), algorithm 1; Li et al. (2021), section 3.2 and 3.3.
    """

    config: MomentumConfig = MomentumConfig()

    def init_state(self, model: DualEncoder, batch_spec: BatchSpec) -> ObjectiveState:
        """`teacher`, the parameters of the start; an empty `queue`; `step`, int32 ()."""
        embeddings = jax.eval_shape(lambda batch: self.encode(model, batch, None), dict(batch_spec))
        queue = Queue.empty(self.config.queue_batches, *embeddings["text"].shape)
        return {"teacher": jax.tree.map(jnp.copy, _params(model)), "queue": queue, "step": jnp.zeros((), jnp.int32)}

    def teach(self, model: DualEncoder, batch: Batch, state: ObjectiveState) -> Embeddings:
        """The teacher's `image` and `text` (b, e), without dropout; all rows at once, since nothing of it is kept."""
        teacher: Any = nnx.merge(nnx.split(model)[0], state["teacher"])
        return jax.lax.stop_gradient(self.encode(teacher, batch, None))

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """First the teacher moves and embeds the batch, then the loss is taken over the queue with this batch in it."""
        params = jax.lax.stop_gradient(_params(model))
        teacher = optax.incremental_update(params, state["teacher"], 1 - self.config.momentum)
        state = {**state, "teacher": teacher}
        taught = self.teach(model, batch, state)
        queue = state["queue"].push(taught["image"], taught["text"], batch["ids"], batch["weights"])
        mean = momentum_contrastive(
            embeddings["image"],
            embeddings["text"],
            taught["image"],
            taught["text"],
            queue,
            clamped_log_scale(model.log_scale[...], self.config.largest_scale),
            batch["ids"],
            batch["weights"],
            distillation=self._distillation(state["step"]),
        )
        return Loss(mean, {"momentum": mean}), {**state, "queue": queue, "step": state["step"] + 1}

    def _distillation(self, step: Array) -> Array:
        if not self.config.distillation_steps:
            return jnp.asarray(self.config.distillation)
        return self.config.distillation * jnp.minimum(1.0, step / self.config.distillation_steps)


def _params(model: DualEncoder) -> Any:
    return nnx.to_pure_dict(nnx.split(model)[1])
