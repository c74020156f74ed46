"""Triplets of images and texts (VSE++), and the distance of pairs, as one objective."""

from dataclasses import dataclass

from mmjax.errors import UserError
from mmjax.losses.ranking import alignment, triplet
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.pairs import PairObjective
from mmjax.types import Batch, Key, Loss, Mean


@dataclass(frozen=True)
class TripletConfig(ObjectiveConfig):
    """How far a pair must be nearer than others.

    margin: by which the similarity of a pair should exceed those of others.
    hardest: only the negative that breaks the margin most counts; otherwise all do.
    alignment: weight of the squared distance of pairs, added to the hinge.
    """

    margin: float = 0.2
    hardest: bool = True
    alignment: float = 0.0

    def __post_init__(self) -> None:
        if self.margin <= 0:
            raise UserError(f"objective.margin = {self.margin} is not positive: VSE++ has 0.2")
        if self.alignment < 0:
            raise UserError(f"objective.alignment = {self.alignment} is negative: set it to 0 or more")

    def build(self) -> "Triplet":
        return Triplet(self)


@dataclass(frozen=True)
class Triplet(PairObjective):
    """`losses.ranking.triplet` of the global batch, and `losses.ranking.alignment` where it has a weight.

    Neither looks at the model's scale and bias, which then only decay: freeze them by a rule of the optimizer.
    """

    config: TripletConfig = TripletConfig()

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The mean over examples of the hinge, of both directions together, and the weighted distance."""
        pair, weights, weight = (embeddings["image"], embeddings["text"]), batch["weights"], self.config.alignment
        hinge = triplet(*pair, batch["ids"], weights, margin=self.config.margin, hardest=self.config.hardest)
        if not weight:
            return Loss(hinge, {"triplet": hinge}), state
        distance = alignment(*pair, weights)
        total = Mean(hinge.sum + weight * distance.sum, hinge.count)
        return Loss(total, {"triplet": hinge, "alignment": distance}), state
