"""What each stream reads from the other, beside what it has itself."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mmjax.nn.attention import Attention, source_mask
from mmjax.nn.bimodal import Masks, Streams, TrunkConfig, both
from mmjax.nn.dropout import split
from mmjax.nn.module import Module
from mmjax.nn.parameter import BERT_INIT
from mmjax.types import Array, Key


@dataclass(frozen=True)
class ConcatConfig:
    """The co-attention of a concatenation.

    num_heads: of each of the two attentions, which have biases and an output projection as all attentions here.
    """

    num_heads: int = 8
    dropout_rate: float = 0.0


class Concat(Module):
    """[h_w ; A h_v] and [h_v ; A' h_w], side by side: streams of twice their width.

    A h_v is softmax(Q_w K_v^T / sqrt(h)) V_v of each head, projected to the width of h_w; A' h_w is the same the other
    way. What was read is not added to what a stream has, and so stays apart until the layers that follow.
    """

    def __init__(self, config: ConcatConfig, towers: TrunkConfig, key: Key):
        text_key, image_key = jax.random.split(key)
        self.text = _attention(config, towers.text.width, towers.image.width, text_key)
        self.image = _attention(config, towers.image.width, towers.text.width, image_key)

    def __call__(self, streams: Streams, masks: Masks, key: Key | None = None) -> Streams:
        """Text (b, t, d) and image (b, p, d) -> both with what they read behind what they have."""
        text, image = both(streams)
        text_key, image_key = split(key, 2)
        read_by_text = self.text(text, image, _mask(masks.image), text_key)
        read_by_image = self.image(image, text, _mask(masks.text), image_key)
        return Streams(jnp.concatenate([text, read_by_text], axis=-1), jnp.concatenate([image, read_by_image], axis=-1))


def _attention(config: ConcatConfig, width: int, source_width: int, key: Key) -> Attention:
    return Attention(
        key,
        width,
        config.num_heads,
        source_width=source_width,
        dropout_rate=config.dropout_rate,
        init=BERT_INIT,
    )


def _mask(mask: Array | None) -> Array | None:
    return None if mask is None else source_mask(mask)
