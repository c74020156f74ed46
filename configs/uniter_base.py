"""UNITER base as published (Chen et al., 2020), pretrained on captions with up to 100 regions an image.

    python -m mmjax.train --config configs/uniter_base.py --config.data.source=tfds:DIR --workdir runs/uniter \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT

BERT is a folder of bert-base-cased. docs/fusion.md says what DIR holds. Values are those of the paper, appendix A, and
of its released code, in which one task is drawn a step, and the transport of words and regions comes with the match.
There a batch is counted in tokens, about as many as here, and the divergence of regions is divided by the number of
classes, 1,601, which the paper's formula is not.
"""

from dataclasses import replace

import ml_collections

from configs.vilbert_base import PROBABILITIES, bert_adam, pretraining, region_data
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.published import uniter
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import AlignTerm, MatchTerm, RegionTerm, TokenTerm


def get_config() -> ml_collections.ConfigDict:
    return training(uniter(), num_steps=200_000, topology="v5e:8x8")


def training(model: FusionConfig, num_steps: int, topology: str) -> ml_collections.ConfigDict:
    """Either size. Layers are computed again in the backward pass: kept, they would fill the chips, and of the large
    model take twice what these have."""
    model = replace(model, fusion=replace(model.fusion, remat="full"))
    objective = FusionObjectiveConfig(
        match=MatchTerm(weight=2.0, negatives="random"),
        align=AlignTerm(weight=0.1),
        tokens=TokenTerm(weight=2.0),
        regions=(RegionTerm(kind="features"), RegionTerm(kind="divergence")),
        mix="draw",
    )
    data = region_data(batch_size=2048, text_len=60, num_regions=100, targets=(PROBABILITIES,))
    optim = bert_adam(learning_rate=5e-5, warmup_steps=10_000, beta2=0.98, clip_norm=5.0)
    return pretraining(model, objective, data, optim, num_steps, topology).to_config_dict()
