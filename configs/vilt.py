"""ViLT as published (Kim et al., 2021), pretrained on image-text pairs from raw patches of 32 pixels.

    python -m mmjax.train --config configs/vilt.py --data imagefolder:DIR --workdir runs/vilt \
        --config.data.tokenizer=BERT --config.init.image_source=hf:VIT

BERT is a folder of bert-base-uncased, of which the tokenizer is used, VIT one of ViT-B/32 at 384 pixels, from which
the layers start. Values are those of the paper, section 4.2, and of its released code, with whole words masked. There
images keep their aspect up to 384 x 640 pixels, and about 200 patches of them are taken; here they are scaled to a
square. The alignment there leaves out the class token and the text's ends; here it has all tokens, as UNITER's.
"""

from dataclasses import replace

import ml_collections

from configs.vilbert_base import bert_adam, pretraining
from mmjax.data.augment import AugmentConfig
from mmjax.data.captions import CaptionConfig
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.models.fusion.heads import HeadsConfig
from mmjax.models.fusion.published import vilt
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import AlignTerm, MatchTerm, TokenTerm

IMAGE_SIZE, TEXT_LEN = 384, 40
NUM_STEPS = 100_000


def get_config() -> ml_collections.ConfigDict:
    model = replace(vilt(), heads=HeadsConfig())
    objective = FusionObjectiveConfig(
        match=MatchTerm(negatives="random"),
        align=AlignTerm(weight=0.1),
        tokens=TokenTerm(),
    )
    data = DataConfig(
        source="imagefolder:DIR",
        tokenizer="BERT",
        batch_size=4096,
        text_len=TEXT_LEN,
        preprocess=PreprocessConfig(image_size=IMAGE_SIZE),
        augment=AugmentConfig(),
        captions=CaptionConfig(style="any"),
        word_starts=True,
    )
    optim = bert_adam(learning_rate=1e-4, warmup_steps=NUM_STEPS // 10, beta2=0.98)
    return pretraining(model, objective, data, optim, NUM_STEPS, "v5e:8x16").to_config_dict()
