"""UNITER large as published (Chen et al., 2020); see `uniter_base`, of which it has the data and the values.

    python -m mmjax.train --config configs/uniter_large.py --config.data.source=tfds:DIR --workdir runs/uniter \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT

BERT is a folder of bert-large-cased.
"""

from dataclasses import replace

import ml_collections

from configs.uniter_base import training
from mmjax.models.fusion.published import LARGE, uniter


def get_config() -> ml_collections.ConfigDict:
    model = uniter(LARGE)
    # Layers are computed again in the backward pass: kept, they would take twice the memory of the chips.
    model = replace(model, fusion=replace(model.fusion, remat="full"))
    return training(model, num_steps=500_000, topology="v5e:8x8")
