"""VisualBERT as published (Li et al., 2019), pretrained on the captions of COCO with 100 regions an image.

    python -m mmjax.train --config configs/visual_bert.py --config.data.source=tfds:DIR --workdir runs/visual_bert \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT

BERT is a folder of bert-base-uncased. docs/fusion.md says what DIR holds. Values are those of the released code: 10
epochs of 567 thousand captions in batches of 48. A text is two captions, of which the second is of another image half
of the time; that it is not is what the head of the pair says.
"""

from dataclasses import replace

import ml_collections

from configs.vilbert_base import bert_adam, pretraining, region_data
from mmjax.data.captions import CaptionConfig
from mmjax.models.fusion.published import FEATURE_DIM, visual_bert
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import FollowTerm, TokenTerm

NUM_STEPS = 118_000


def get_config() -> ml_collections.ConfigDict:
    model = visual_bert(feature_dim=FEATURE_DIM)
    objective = FusionObjectiveConfig(tokens=TokenTerm(), follows=FollowTerm())
    data = region_data(batch_size=48, text_len=128, num_regions=100)
    data = replace(data, captions=CaptionConfig(style="any", pair=True))
    optim = bert_adam(learning_rate=5e-5, warmup_steps=NUM_STEPS // 10)
    return pretraining(model, objective, data, optim, NUM_STEPS, "v5e:2x2").to_config_dict()
