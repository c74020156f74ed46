"""A SigLIP for your own photographs, of a size between a laptop and one GPU.

    python -m mmjax.train --config configs/imagefolder_siglip.py --data imagefolder:DIR --workdir runs/own

DIR holds images and a `metadata.jsonl` with a line for each: {"file_name": "0001.jpg", "text": "a caption"}. What TFDS
wrote as ArrayRecord is `--data tfds:DIR`, tars of img2dataset are `--data 'wds:tars/*.tar'`; docs/data.md has the rest.

The shipped tokenizer needs no download and has ids for every text, but was trained on the captions of emoji, so that
a photo's caption takes one and a half to two tokens a word. For a large data set name another one (a folder, or a name
on the hub), and the rows that its ids need:

    --config.data.tokenizer=openai/clip-vit-base-patch32 --config.model.text.vocab_size=49408

Where memory is short, --config.train.accumulate=4 takes the batch in four parts, with the gradient of the whole.
"""

import ml_collections

from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.evals.zero_shot import ZeroShotConfig
from mmjax.experiment import EvalsConfig, Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.sizes import SIZES
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

SMALL = vars(SIZES["S"])
# 64 patches of a 128-pixel photo, not 196 of 224 pixels: a third of the work, and still enough to tell things apart.
IMAGE_SIZE, TEXT_LEN = 128, 48


def get_config() -> ml_collections.ConfigDict:
    return Experiment(
        model=DualEncoderConfig(
            # Half of the patches are left out in training, which halves its cost (Li et al. 2023, FLIP, section 4.1).
            image=ViTConfig(**SMALL, image_size=IMAGE_SIZE, patch_size=16, patch_dropout_rate=0.5, unroll=-1),
            text=TextConfig(**SMALL | {"depth": 6}, vocab_size=8192, context_len=TEXT_LEN, unroll=-1),
            embed_dim=SMALL["width"],
        ),
        data=DataConfig(
            source="imagefolder:DIR",
            batch_size=256,
            text_len=TEXT_LEN,
            # Random crops want the whole photo: 2 GiB keep 1,000 of half a megapixel decoded from epoch to epoch.
            cache_bytes=2 * 2**30,
            preprocess=PreprocessConfig(image_size=IMAGE_SIZE),
            # Set flip_rate to 0 where captions say "left" and "right" or the pictures show writing.
            augment=AugmentConfig(
                crop_area=(0.5, 1.0), flip_rate=0.5, brightness=0.2, contrast=0.2, saturation=0.2, gray_rate=0.05
            ),
            captions=CaptionConfig(style="any"),
        ),
        optim=OptimConfig(
            learning_rate=1e-3, weight_decay=0.1, beta2=0.95, schedule=ScheduleConfig(name="cosine", warmup_steps=200)
        ),
        train=TrainConfig(num_steps=5000),
        checkpoint=CheckpointConfig(every_steps=500),
        evals=EvalsConfig(zero_shot=ZeroShotConfig(templates=("a photo of {}", "a photo of a {}", "{}"))),
    ).to_config_dict()
