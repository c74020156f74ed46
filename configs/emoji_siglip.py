"""A small SigLIP on the embedded emoji, for two CPU cores and four minutes: what `launch/quickstart.sh` trains.

Its towers are ones that Hugging Face's `SiglipModel` can hold: linear patches, learned positions, attention pooling,
and a bidirectional text tower that is read at its last position.
"""

import math

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
from mmjax.objectives.contrastive import ContrastiveConfig
from mmjax.optim.muon import Matrix, MuonConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.rules import NO_DECAY, Rule
from mmjax.optim.schedules import ScheduleConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

IMAGE_SIZE, TEXT_LEN, WIDTH = 32, 16, 128

# A few large patches: in four minutes, more steps are worth more than finer detail. White, the background of all
# emoji, is 0; and positions as large as the patches' embeddings let the first steps see what is where.
IMAGE = ViTConfig(
    image_size=IMAGE_SIZE,
    patch_size=16,
    width=WIDTH,
    depth=4,
    mlp_dim=3 * WIDTH,
    num_heads=4,
    image_mean=(1.0, 1.0, 1.0),
    image_std=(0.35, 0.35, 0.35),
    position_stddev=0.9,
    unroll=-1,
)
# The mask keeps padding, most of a short caption's positions, from drowning its words.
TEXT = TextConfig(
    vocab_size=8192,
    context_len=TEXT_LEN,
    width=WIDTH,
    depth=1,
    mlp_dim=2 * WIDTH,
    num_heads=4,
    use_mask=True,
    unroll=-1,
)

# With few and large patches, the stem is a hidden matrix like the others; so is a convolution over its window.
STEM = (Matrix("image/stem/projection/kernel"), Matrix(r"image/stem/stages/\d+/(down|residual/\d+)/kernel", num_in=3))


def get_config() -> ml_collections.ConfigDict:
    """The config of the quickstart."""
    return experiment(IMAGE, num_steps=600).to_config_dict()


def model(image: ViTConfig) -> DualEncoderConfig:
    """The image tower beside the text tower.

    One pair in 256 is a positive, and sigmoid(-5) is about as rare: the loss starts without a push down.
    """
    return DualEncoderConfig(image=image, text=TEXT, embed_dim=WIDTH, log_scale=math.log(10), logit_bias=-5.0)


def experiment(image: ViTConfig, num_steps: int) -> Experiment:
    """Everything but the image tower, which `emoji_siglip_conv` exchanges, and the steps that four minutes allow."""
    return Experiment(
        model=model(image),
        data=DataConfig(
            source="emoji",
            split="train",
            batch_size=256,
            text_len=TEXT_LEN,
            preprocess=PreprocessConfig(image_size=IMAGE_SIZE),
            augment=AugmentConfig(
                rotate_degrees=8,
                shear_degrees=4,
                zoom=(0.75, 1.15),
                translate=0.08,
                brightness=0.15,
                contrast=0.3,
                saturation=0.3,
                hue_degrees=10,
            ),
            # A label alone often shares no word with any other; with its tags it can be guessed. Commas would take a
            # third of the tokens.
            captions=CaptionConfig(
                style="tags",
                tag_rate=0.9,
                max_tags=12,
                tags_only_rate=0.2,
                separator=" ",
                rare_drop_rate=0.5,
                evaluation="all",
            ),
            num_words=24,
            num_threads=1,
        ),
        # Concepts that share words are not pushed as far apart as others, or new ones would find no known place.
        objective=ContrastiveConfig(overlap_target=0.5),
        optim=OptimConfig(
            optimizer="muon",
            learning_rate=3e-3,
            weight_decay=0.1,
            beta2=0.98,
            schedule=ScheduleConfig(name="cosine", warmup_steps=25),
            muon=MuonConfig(update_rms=0.6, matrices=(*MuonConfig().matrices, *STEM)),
            # Scale and bias have far to go in few steps.
            rules=(
                Rule("log_scale|logit_bias", lr_scale=5.0, decay_scale=0.0),
                Rule(NO_DECAY, decay_scale=0.0),
                Rule(".*"),
            ),
        ),
        train=TrainConfig(num_steps=num_steps),
        checkpoint=CheckpointConfig(every_steps=200),
        evals=EvalsConfig(splits=("unseen_style", "unseen_concept_noto", "unseen_concept"), zero_shot=ZeroShotConfig()),
    )
