"""A ResNet-50 and a BERT-base, both trained already, joined by a contrastive softmax (ConVIRT, Zhang et al. 2022).

    python -m mmjax.train --config configs/resnet_bert.py --data imagefolder:DIR --workdir runs/joined

with --config.init.image_source=hf:RESNET --config.init.text_source=hf:BERT --config.data.tokenizer=BERT, where RESNET
and BERT are folders of Hugging Face's `ResNetModel` (microsoft/resnet-50) and `BertModel` (bert-base-uncased). Without
the two sources both towers learn from nothing. DIR is described in `imagefolder_siglip`.

To keep a tower as it is, which saves its backward pass: --config.model.locked=image, or text.

The values are those that such towers are commonly fine-tuned with; none is tuned on a data set of ours.
"""

import ml_collections

from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.evals.zero_shot import ZeroShotConfig
from mmjax.experiment import EvalsConfig, Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.sizes import CLIP_LOG_SCALE, bert, resnet
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim.optimizer import CLIP_CLAMPS, OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

IMAGE_SIZE, TEXT_LEN = 224, 64


def get_config() -> ml_collections.ConfigDict:
    return Experiment(
        model=DualEncoderConfig(
            image=resnet("50", image_size=IMAGE_SIZE),
            # The first token's state goes straight to the projection: BERT's pooler learnt to tell whether a sentence
            # follows another, and its tanh would bound what the new projection sees.
            text=bert("B", context_len=TEXT_LEN, dropout_rate=0.1, attention_dropout_rate=0.1),
            embed_dim=512,
            image_projection="linear",
            text_projection="linear",
            log_scale=CLIP_LOG_SCALE,
            logit_bias=None,
        ),
        data=DataConfig(
            source="imagefolder:DIR",
            tokenizer="DIR",
            batch_size=256,
            text_len=TEXT_LEN,
            cache_bytes=2 * 2**30,
            preprocess=PreprocessConfig(image_size=IMAGE_SIZE, resize="crop"),
            augment=AugmentConfig(crop_area=(0.5, 1.0)),
            captions=CaptionConfig(style="any"),
        ),
        objective=ContrastiveConfig(kind="softmax"),
        optim=OptimConfig(
            learning_rate=5e-5,
            weight_decay=0.1,
            clamps=CLIP_CLAMPS,
            schedule=ScheduleConfig(name="cosine", warmup_steps=200),
        ),
        train=TrainConfig(num_steps=5000),
        checkpoint=CheckpointConfig(every_steps=500),
        evals=EvalsConfig(zero_shot=ZeroShotConfig(templates=("a photo of {}", "a photo of a {}", "{}"))),
    ).to_config_dict()
