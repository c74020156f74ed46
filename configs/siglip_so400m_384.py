"""SigLIP So400m/14 at 384 pixels as published (Zhai et al., 2023; Alabdulmohsin et al., 2023); see `siglip_b16.py`.

    python -m mmjax.plan --config configs/siglip_so400m_384.py
    python -m mmjax.train --config configs/siglip_so400m_384.py --data wds:PATTERN --workdir runs/siglip_so400m \
        --config.data.tokenizer=SIGLIP

The published model was trained at 224 pixels first and for 5 billion examples at 384, which a run does that starts from
the other with --config.init.source; here is a whole run at 384.
"""

import ml_collections

from configs.siglip_b16 import pretraining
from mmjax.models.sizes import siglip


def get_config() -> ml_collections.ConfigDict:
    return pretraining(siglip("So400m/14-384"), "v5e:16x16").to_config_dict()
