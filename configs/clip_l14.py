"""CLIP ViT-L/14 as published (Radford et al., 2021), for web-scale image-text pairs.

    python -m mmjax.plan --config configs/clip_l14.py
    python -m mmjax.train --config configs/clip_l14.py --data wds:PATTERN --workdir runs/clip_l14 \
        --config.data.tokenizer=CLIP

CLIP is a folder of openai/clip-vit-large-patch14, or that name. Values are those of the paper, tables 18 and 19: 32
epochs of 400 million pairs in batches of 32,768, and a crop of the image as the only augmentation.
"""

from dataclasses import replace

import ml_collections

from configs.siglip_b16 import BATCH_SIZE, sharded, web_data
from mmjax.data.augment import AugmentConfig
from mmjax.models.sizes import clip
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim.optimizer import CLIP_CLAMPS, OptimConfig
from mmjax.optim.schedules import ScheduleConfig

NUM_EXAMPLES = 32 * 400_000_000


def get_config() -> ml_collections.ConfigDict:
    model = clip("L/14")
    data = web_data(model, "openai/clip-vit-large-patch14", "clip")
    optim = OptimConfig(
        learning_rate=4e-4,
        weight_decay=0.2,
        beta2=0.98,
        eps=1e-6,
        clip_norm=0.0,
        schedule=ScheduleConfig(name="cosine", warmup_steps=2_000),
        clamps=CLIP_CLAMPS,
    )
    experiment = sharded(model, data, optim, NUM_EXAMPLES // BATCH_SIZE, "v5e:16x16")
    augmented = replace(data, augment=AugmentConfig(crop_area=(0.9, 1.0)))
    return replace(experiment, data=augmented, objective=ContrastiveConfig(kind="softmax")).to_config_dict()
