"""ALBEF as published (Li et al., 2021), pretrained on 14 million image-text pairs at 256 pixels.

    python -m mmjax.train --config configs/albef.py --data imagefolder:DIR --workdir runs/albef \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT --config.init.image_source=hf:VIT

BERT is a folder of bert-base-uncased, VIT one of ViT-B/16 (DeiT's in the paper). Values are those of the paper, section
4.2, and of its released code: 30 epochs in batches of 512, a queue of 65,536 embeddings of the momentum teacher, whose
targets are mixed in up to 0.4 within the first epoch. The code's RandAugment is here crops and flips alone.
"""

import ml_collections

from configs.vilbert_base import pretraining
from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.models.fusion.published import albef
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import ContrastTerm, MatchTerm, TokenTerm
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig

IMAGE_SIZE, TEXT_LEN, BATCH_SIZE = 256, 30, 512
EPOCH_STEPS = 14_100_000 // BATCH_SIZE


def get_config() -> ml_collections.ConfigDict:
    contrast = ContrastTerm(queue_batches=65_536 // BATCH_SIZE, distillation_steps=EPOCH_STEPS)
    objective = FusionObjectiveConfig(contrast=contrast, match=MatchTerm(), tokens=TokenTerm(distilled=True))
    data, optim = paired_data(IMAGE_SIZE, BATCH_SIZE), paired_optim()
    return pretraining(albef(), objective, data, optim, 30 * EPOCH_STEPS, "v5e:4x4").to_config_dict()


def paired_data(image_size: int, batch_size: int) -> DataConfig:
    """Images beside one of their captions."""
    return DataConfig(
        source="imagefolder:DIR",
        tokenizer="BERT",
        batch_size=batch_size,
        text_len=TEXT_LEN,
        preprocess=PreprocessConfig(image_size=image_size),
        augment=AugmentConfig(crop_area=(0.2, 1.0), flip_rate=0.5),
        captions=CaptionConfig(style="any"),
    )


def paired_optim() -> OptimConfig:
    """AdamW with a cosine, as the released code has it."""
    return OptimConfig(
        learning_rate=1e-4,
        weight_decay=0.02,
        clip_norm=0.0,
        schedule=ScheduleConfig(name="cosine", warmup_steps=1_000, end_factor=0.1),
    )
