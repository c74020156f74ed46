"""What the objectives of image-text pairs have in common: two towers, and no state."""

from dataclasses import dataclass

import jax

from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveState
from mmjax.types import Batch, BatchSpec, Key


@dataclass(frozen=True)
class PairObjective:
    """Two towers, and a loss in which each example is the others' negative."""

    @property
    def decomposes(self) -> bool:
        return False

    def init_state(self, model: DualEncoder, batch_spec: BatchSpec) -> ObjectiveState:
        """Nothing is carried from step to step."""
        return {}

    def encode(self, model: DualEncoder, batch: Batch, key: Key | None) -> Embeddings:
        """L2-normalised `image` and `text` (b, e)."""
        image_key, text_key = (None, None) if key is None else jax.random.split(key)
        image_embed, _ = model.encode_image(batch["image"], image_key)
        text_embed, _ = model.encode_text(batch["text_ids"], batch["text_mask"], text_key)
        return {"image": image_embed, "text": text_embed}

    def teach(self, model: DualEncoder, batch: Batch, state: ObjectiveState) -> Embeddings:
        """There is no teacher."""
        return {}
