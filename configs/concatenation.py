"""A fusion by concatenation: BERT and ViT-B/16, each beside what it reads from the other, under two joint layers.

    python -m mmjax.train --config configs/concatenation.py --data imagefolder:DIR --workdir runs/concatenation \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT --config.init.image_source=hf:VIT

BERT is a folder of bert-base-uncased, VIT one of ViT-B/16 at 224 pixels. No paper gives sizes or a recipe: batch,
steps, optimizer and data are those of ALBEF (`configs/albef.py`), without its momentum teacher.
"""

import ml_collections

from configs.albef import BATCH_SIZE, EPOCH_STEPS, paired_data, paired_optim
from configs.vilbert_base import pretraining
from mmjax.models.fusion.published import concatenation
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import ContrastTerm, MatchTerm, TokenTerm

IMAGE_SIZE = 224


def get_config() -> ml_collections.ConfigDict:
    objective = FusionObjectiveConfig(contrast=ContrastTerm(), match=MatchTerm(), tokens=TokenTerm())
    data, optim = paired_data(IMAGE_SIZE, BATCH_SIZE), paired_optim()
    return pretraining(concatenation(), objective, data, optim, 30 * EPOCH_STEPS, "v5e:4x8").to_config_dict()
