"""The small dual encoder of `emoji_siglip` taught by a momentum teacher over a queue (ALBEF's image-text contrast)."""

import math
from dataclasses import replace

import ml_collections

from configs.emoji_siglip import IMAGE, experiment, model
from mmjax.objectives.momentum import MomentumConfig


def get_config() -> ml_collections.ConfigDict:
    """The config with a queue of eight batches; its softmax has a temperature of 0.07 at the start, and no bias."""
    base = experiment(IMAGE, num_steps=600)
    return replace(
        base,
        model=replace(model(IMAGE), log_scale=math.log(1 / 0.07), logit_bias=None),
        data=replace(base.data, num_words=0),
        # A run of 600 steps has no time for ALBEF's 0.995.
        objective=MomentumConfig(queue_batches=8, momentum=0.97, distillation_steps=200),
    ).to_config_dict()
