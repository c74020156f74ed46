"""The smallest run that has every part: a config file for tests, on a folder of images given with `--data`."""

import ml_collections

from mmjax.data.augment import AugmentConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.evals.zero_shot import ZeroShotConfig
from mmjax.experiment import EvalsConfig, Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.training.logs import LogsConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

SIZE = {"width": 16, "depth": 1, "mlp_dim": 16, "num_heads": 2, "dropout_rate": 0.1, "unroll": -1}
IMAGE_SIZE, TEXT_LEN = 16, 8


def get_config() -> ml_collections.ConfigDict:
    return Experiment(
        model=DualEncoderConfig(
            image=ViTConfig(**SIZE, image_size=IMAGE_SIZE, patch_size=8, pool="mean"),
            text=TextConfig(**SIZE, vocab_size=8192, context_len=TEXT_LEN),
            embed_dim=16,
        ),
        data=DataConfig(
            batch_size=8,
            text_len=TEXT_LEN,
            preprocess=PreprocessConfig(image_size=IMAGE_SIZE),
            augment=AugmentConfig(rotate_degrees=15, flip_rate=0.5),
            num_threads=0,
        ),
        optim=OptimConfig(learning_rate=1e-2, schedule=ScheduleConfig(name="constant")),
        train=TrainConfig(num_steps=6, ema_decay=0.9),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every_steps=2),
        # Each run would measure what a machine of tests can do, which takes seconds.
        logs=LogsConfig(peak_flops_per_sec=1e11),
        evals=EvalsConfig(splits=("test",), every_steps=4, batch_size=8, zero_shot=ZeroShotConfig()),
    ).to_config_dict()
