"""The small SigLIP of `emoji_siglip` with early convolutions (Xiao et al., 2021) in place of linear patches."""

from dataclasses import replace

import ml_collections

from configs.emoji_siglip import IMAGE as PLAIN
from configs.emoji_siglip import WIDTH, experiment

# Most of the depth is in the convolutions. Tokens side by side keep their places, which attention pooling blends.
IMAGE = replace(
    PLAIN,
    patch_size=8,
    depth=1,
    mlp_dim=2 * WIDTH,
    stem="conv",
    stem_norm="batch",
    stem_residual=(0, 1, 1),
    pool="concat",
)


def get_config() -> ml_collections.ConfigDict:
    """The config with the convolutional stem."""
    return experiment(IMAGE, num_steps=240).to_config_dict()
