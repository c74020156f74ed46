"""A small SigLIP on the embedded emoji, for two CPU cores and four minutes."""

import ml_collections

from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.evals.zero_shot import ZeroShotConfig
from mmjax.experiment import EvalsConfig, Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.training.step import TrainConfig

WIDTH, IMAGE_SIZE, TEXT_LEN = 192, 64, 16


def get_config() -> ml_collections.ConfigDict:
    return Experiment(
        model=DualEncoderConfig(
            image=ViTConfig(
                image_size=IMAGE_SIZE, patch_size=16, width=WIDTH, depth=4, mlp_dim=4 * WIDTH, num_heads=4, unroll=-1
            ),
            text=TextConfig(
                vocab_size=8192, context_len=TEXT_LEN, width=WIDTH, depth=2, mlp_dim=4 * WIDTH, num_heads=4, unroll=-1
            ),
            embed_dim=WIDTH,
        ),
        data=DataConfig(
            source="emoji",
            batch_size=256,
            text_len=TEXT_LEN,
            preprocess=PreprocessConfig(image_size=IMAGE_SIZE),
            augment=AugmentConfig(rotate_degrees=15, zoom=(0.7, 1.1), translate=0.1, hue_degrees=20, saturation=0.5),
            captions=CaptionConfig(style="tags"),
        ),
        optim=OptimConfig(
            learning_rate=2e-3, weight_decay=0.1, beta2=0.95, schedule=ScheduleConfig(name="cosine", warmup_steps=50)
        ),
        train=TrainConfig(num_steps=600),
        evals=EvalsConfig(splits=("unseen_style", "unseen_concept_noto"), zero_shot=ZeroShotConfig()),
    ).to_config_dict()
