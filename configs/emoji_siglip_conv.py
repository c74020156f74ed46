"""The small SigLIP of `emoji_siglip` with early convolutions (Xiao et al., 2021) in place of linear patches."""

import ml_collections

from configs.emoji_siglip import WIDTH, experiment
from mmjax.models.vit import ViTConfig

IMAGE = ViTConfig(
    image_size=48, patch_size=8, width=WIDTH, depth=2, mlp_dim=2 * WIDTH, num_heads=4, stem="conv", unroll=-1
)


def get_config() -> ml_collections.ConfigDict:
    """The config with the convolutional stem."""
    return experiment(IMAGE).to_config_dict()
