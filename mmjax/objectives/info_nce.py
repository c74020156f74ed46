"""InfoNCE as an objective: the options of `losses.info_nce`."""

import math
from dataclasses import dataclass

from mmjax.errors import UserError
from mmjax.losses.info_nce import Direction, clamped_log_scale, info_nce
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.pairs import PairObjective
from mmjax.types import Array, Batch, Key, Loss


@dataclass(frozen=True)
class InfoNCEConfig(ObjectiveConfig):
    """How pairs are told from the others; without changes it is CLIP's loss.

    direction: which side's rows choose among the other's; `both` is the mean.
    temperature: fixed; 0 learns the model's scale, which is then at most `largest_scale`.
    label_smoothing: in [0, 1), the part of a target that is split over all columns.
    hardness: how much more a negative weighs the nearer it is; 0 weighs all alike.
    """

    direction: Direction = "both"
    temperature: float = 0.0
    largest_scale: float = 100.0
    label_smoothing: float = 0.0
    hardness: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "hardness"):
            if getattr(self, name) < 0:
                raise UserError(f"objective.{name} = {getattr(self, name)} is negative: set it to 0 or more")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"objective.label_smoothing = {self.label_smoothing} is not in [0, 1): correct it")
        if self.largest_scale <= 0:
            raise UserError(f"objective.largest_scale = {self.largest_scale} is not positive: CLIP has 100")

    def build(self) -> "InfoNCE":
        return InfoNCE(self)


@dataclass(frozen=True)
class InfoNCE(PairObjective):
    """`losses.info_nce` of the global batch, as a dense matrix with its rows split over the mesh."""

    config: InfoNCEConfig = InfoNCEConfig()

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The mean over examples, of one direction or of both."""
        mean = info_nce(
            embeddings["image"],
            embeddings["text"],
            self._log_scale(model),
            batch["ids"],
            batch["weights"],
            direction=self.config.direction,
            label_smoothing=self.config.label_smoothing,
            hardness=self.config.hardness,
        )
        return Loss(mean, {"info_nce": mean}), state

    def _log_scale(self, model: DualEncoder) -> Array | float:
        if self.config.temperature:
            return -math.log(self.config.temperature)
        return clamped_log_scale(model.log_scale[...], self.config.largest_scale)
