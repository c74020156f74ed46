"""Contrastive image-text pretraining: CLIP (softmax) and SigLIP (sigmoid)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax

from mmjax.losses import contrastive
from mmjax.models.dual_encoder import DualEncoder
from mmjax.objectives.base import Embeddings, ObjectiveState
from mmjax.types import Batch, BatchSpec, Key, Loss, Mean

Kind = Literal["sigmoid", "softmax"]
LOSSES: dict[Kind, Callable[..., Mean]] = {"sigmoid": contrastive.sigmoid, "softmax": contrastive.softmax}


@dataclass(frozen=True)
class ContrastiveConfig:
    """Which loss pulls pairs together: `sigmoid` (Zhai et al. 2023) or `softmax` (Radford et al. 2021)."""

    kind: Kind = "sigmoid"

    def build(self) -> "Contrastive":
        return Contrastive(self)


@dataclass(frozen=True)
class Contrastive:
    """Image and text of one example are positives, and so are those of examples with equal `ids`; all other pairs of
    the global batch are negatives."""

    config: ContrastiveConfig
    decomposes: bool = False

    def init_state(self, model: DualEncoder, batch_spec: BatchSpec) -> ObjectiveState:
        """Nothing is carried from step to step."""
        return {}

    def encode(self, model: DualEncoder, batch: Batch, key: Key | None) -> Embeddings:
        """L2-normalised `image` and `text` (b, e)."""
        image_key, text_key = (None, None) if key is None else jax.random.split(key)
        # The names are those under which a profiler shows the time of each tower.
        with jax.named_scope("image_tower"):
            image_embed, _ = model.encode_image(batch["image"], image_key)
        with jax.named_scope("text_tower"):
            text_embed, _ = model.encode_text(batch["text_ids"], batch["text_mask"], text_key)
        return {"image": image_embed, "text": text_embed}

    def loss(
        self, model: DualEncoder, embeddings: Embeddings, batch: Batch, state: ObjectiveState, key: Key | None
    ) -> tuple[Loss, ObjectiveState]:
        """The mean over examples of the sigmoid or softmax loss."""
        mean = LOSSES[self.config.kind](
            embeddings["image"], embeddings["text"], model.log_scale[...], model.bias(), batch["ids"], batch["weights"]
        )
        return Loss(mean, {self.config.kind: mean}), state
