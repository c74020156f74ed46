"""The smallest models that have every part, and a batch for them."""

import numpy as np

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.types import HostBatch

VOCAB_SIZE, CONTEXT_LEN, IMAGE_SIZE = 100, 8, 16
EOS_ID = VOCAB_SIZE - 1
SIZE = {"width": 32, "depth": 2, "mlp_dim": 32, "num_heads": 8}

CLIP = DualEncoderConfig(
    image=ViTConfig(
        **SIZE,
        image_size=IMAGE_SIZE,
        patch_size=8,
        pool="cls",
        norm_eps=1e-5,
        embedding_norm=True,
        patch_bias=False,
        activation="quick_gelu",
    ),
    text=TextConfig(
        **SIZE,
        vocab_size=VOCAB_SIZE,
        context_len=CONTEXT_LEN,
        causal=True,
        pool="eot",
        eos_id=EOS_ID,
        norm_eps=1e-5,
        activation="quick_gelu",
    ),
    embed_dim=12,
    image_projection="linear",
    text_projection="linear",
    log_scale=2.6592,
    logit_bias=None,
)
"""As OpenAI's CLIP: class token, causal text with end-of-text pooling, linear projections, no bias."""

SIGLIP = DualEncoderConfig(
    image=ViTConfig(**SIZE, image_size=IMAGE_SIZE, patch_size=8),
    text=TextConfig(**SIZE, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN),
    embed_dim=32,
)
"""As SigLIP: attention pooling, bidirectional text with its last token, bias."""


def data(num_rows: int = 16) -> DataConfig:
    """What `batch` has the shapes of."""
    return DataConfig(batch_size=num_rows, text_len=CONTEXT_LEN, preprocess=PreprocessConfig(IMAGE_SIZE))


def batch(num_rows: int = 16, seed: int = 0) -> HostBatch:
    """Random rows: texts of 2 to 8 tokens that end in `EOS_ID`, every id twice, the last row of weight 0."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, CONTEXT_LEN, num_rows, endpoint=True)
    text_mask = np.arange(CONTEXT_LEN) < lengths[:, None]
    text_ids = np.where(text_mask, rng.integers(1, EOS_ID, text_mask.shape), 0).astype(np.int32)
    text_ids[np.arange(num_rows), lengths - 1] = EOS_ID
    return {
        "image": rng.integers(0, 256, (num_rows, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8),
        "text_ids": text_ids,
        "text_mask": text_mask,
        "ids": (np.arange(num_rows) // 2).astype(np.int32),
        "weights": (np.arange(num_rows) < num_rows - 1).astype(np.float32),
    }
