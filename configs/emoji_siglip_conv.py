"""The small SigLIP of `emoji_siglip` with early convolutions (Xiao et al., 2021) in place of linear patches."""

from dataclasses import replace

import ml_collections

from configs.emoji_siglip import IMAGE as PLAIN
from configs.emoji_siglip import WIDTH, experiment

# Four tokens side by side keep their places, which attention pooling blends.
IMAGE = replace(PLAIN, depth=2, mlp_dim=2 * WIDTH, stem="conv", stem_norm="batch", pool="concat")


def get_config() -> ml_collections.ConfigDict:
    """The config with the convolutional stem."""
    return experiment(IMAGE, num_steps=600).to_config_dict()
