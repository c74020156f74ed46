"""SigLIP L/16 at 256 pixels as published (Zhai et al., 2023); see `siglip_b16.py`.

    python -m mmjax.plan --config configs/siglip_l16_256.py
    python -m mmjax.train --config configs/siglip_l16_256.py --data wds:PATTERN --workdir runs/siglip_l16 \
        --config.data.tokenizer=SIGLIP

SIGLIP is a folder of google/siglip-large-patch16-256, or that name.
"""

import ml_collections

from configs.siglip_b16 import pretraining
from mmjax.models.sizes import siglip


def get_config() -> ml_collections.ConfigDict:
    return pretraining(siglip("L/16-256"), "v5e:16x16").to_config_dict()
