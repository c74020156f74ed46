"""BERT base as published (Devlin et al., 2019), pretrained on sentences.

    python -m mmjax.train --config configs/bert_base.py --config.data.source=tfds:DIR --workdir runs/bert \
        --config.data.tokenizer=BERT

BERT is a folder of bert-base-uncased, of which the tokenizer is used. A record of DIR has sentences that follow each
other as its `text`; what comes behind the first is half of the time the second, and otherwise one of another record.
Values are those of the paper, appendix A.2, for texts of 128 tokens.
"""

import ml_collections

from configs.vilbert_base import bert_adam, pretraining
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.models.fusion.published import bert
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import FollowTerm, TokenTerm


def get_config() -> ml_collections.ConfigDict:
    data = DataConfig(
        source="tfds:DIR",
        tokenizer="BERT",
        batch_size=256,
        text_len=128,
        image_key="",
        captions=CaptionConfig(pair=True),
    )
    optim = bert_adam(learning_rate=1e-4, warmup_steps=10_000)
    objective = FusionObjectiveConfig(tokens=TokenTerm(), follows=FollowTerm())
    return pretraining(bert(), objective, data, optim, 1_000_000, "v5e:2x2").to_config_dict()
