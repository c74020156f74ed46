"""The sigmoid loss with negatives of a chunk of the batch only, as an objective."""

from dataclasses import dataclass

from mmjax.losses.chunked import chunked_sigmoid
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveConfig, ObjectiveState
from mmjax.objectives.pairs import PairObjective
from mmjax.types import Batch, Key, Loss


@dataclass(frozen=True)
class ChunkedConfig(ObjectiveConfig):
    """num_chunks: parts of the batch, each of which has its own negatives; a multiple of the devices of a batch."""

    num_chunks: int = 1

    def build(self) -> "Chunked":
        return Chunked(self)


@dataclass(frozen=True)
class Chunked(PairObjective):
    """`losses.chunked.chunked_sigmoid`: no embedding is sent."""

    config: ChunkedConfig = ChunkedConfig()

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The mean over examples of the sigmoid loss of their chunk."""
        args = embeddings["image"], embeddings["text"], model.log_scale[...], model.bias(), batch["ids"]
        mean = chunked_sigmoid(*args, batch["weights"], num_chunks=self.config.num_chunks)
        return Loss(mean, {"sigmoid": mean}), state
