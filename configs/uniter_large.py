"""UNITER large as published (Chen et al., 2020); see `uniter_base`, of which it has the data and the values.

    python -m mmjax.train --config configs/uniter_large.py --config.data.source=tfds:DIR --workdir runs/uniter \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT

BERT is a folder of bert-large-cased.
"""

import ml_collections

from configs.uniter_base import training
from mmjax.models.fusion.published import LARGE, uniter


def get_config() -> ml_collections.ConfigDict:
    return training(uniter(LARGE), num_steps=500_000, topology="v5e:8x8")
