"""Contrastive image-text pretraining: CLIP (softmax) and SigLIP (sigmoid)."""

from dataclasses import dataclass

from mmjax.errors import UserError
from mmjax.losses import contrastive
from mmjax.losses.choice import Choice, KernelChoice, Kind
from mmjax.losses.soft_targets import word_overlap
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.pairs import PairObjective
from mmjax.types import Array, Batch, Key, Loss


@dataclass(frozen=True)
class ContrastiveConfig(ObjectiveConfig):
    """How pairs are pulled together.

    kind: `sigmoid` (Zhai et al. 2023) or `softmax` (Radford et al. 2021).
    implementation: `dense`, `gather` or `ring`, of equal values and gradients, or `auto`: one of them by sizes
        (`losses.contrastive`).
    tile: most rows of a tile of logits, for `gather` and `ring`; 0 lets it follow from the rows of a device.
    kernel: what computes a tile, `xla` or `pallas` (for TPU), or `auto`.
    overlap_target: in [0, 1], times how much the words of two examples overlap (`soft_targets.word_overlap`), is the
        target of their pair: what two concepts share is then not pushed apart. 0 leaves it out; more needs
        `data.num_words`.
    """

    kind: Kind = "sigmoid"
    implementation: Choice = "auto"
    tile: int = 0
    kernel: KernelChoice = "auto"
    overlap_target: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_target <= 1:
            raise UserError(f"objective.overlap_target = {self.overlap_target} is not in [0, 1]: correct it")
        if self.tile < 0:
            raise UserError(
                f"objective.tile = {self.tile} is negative: give the most rows of a tile, or 0 for the default"
            )

    @property
    def num_words(self) -> int:
        return 1 if self.overlap_target else 0

    def build(self) -> "Contrastive":
        return Contrastive(self)


@dataclass(frozen=True)
class Contrastive(PairObjective):
    """Image and text of one example are positives, and so are those of examples with equal `ids`; all other pairs of
    the global batch are negatives."""

    config: ContrastiveConfig = ContrastiveConfig()

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The mean over examples of the sigmoid or softmax loss."""
        mean = contrastive(
            embeddings["image"],
            embeddings["text"],
            model.log_scale[...],
            model.bias(),
            batch["ids"],
            batch["weights"],
            kind=self.config.kind,
            implementation=self.config.implementation,
            tile=self.config.tile or None,
            kernel=self.config.kernel,
            soft_targets=self._soft_targets(batch),
        )
        return Loss(mean, {self.config.kind: mean}), state

    def _soft_targets(self, batch: Batch) -> Array | None:
        if not self.config.overlap_target:
            return None
        return self.config.overlap_target * word_overlap(batch["words"], batch["weights"])
