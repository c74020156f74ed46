"""LXMERT as published (Tan and Bansal, 2019), pretrained on captions and questions with 36 regions an image.

    python -m mmjax.train --config configs/lxmert.py --config.data.source=tfds:DIR --workdir runs/lxmert \
        --config.data.tokenizer=BERT

BERT is a folder of bert-base-uncased, of which the tokenizer is used: the model starts from nothing. docs/fusion.md
says what DIR holds. Values are those of the paper, section 3.3, and of its released code: 20 epochs of 9.18 million
sentences in batches of 256. There a masked region's features are now and then those of another one, or its own; here
they are 0.
"""

import ml_collections

from configs.vilbert_base import bert_adam, pretraining, region_data
from mmjax.data.regions import RegionTargetConfig
from mmjax.models.fusion.published import lxmert
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import AnswerTerm, MatchTerm, RegionTerm, TokenTerm

NUM_STEPS = 670_000
# The authors divide the losses of regions by this share of them.
MASKED_SHARE = 0.15

TARGETS = (
    RegionTargetConfig("objects", "objects_id"),
    RegionTargetConfig("objects_confidence", "objects_conf", "score"),
    RegionTargetConfig("attributes", "attrs_id"),
    RegionTargetConfig("attributes_confidence", "attrs_conf", "score"),
)
"""Of each region, as the authors' files name it."""


def get_config() -> ml_collections.ConfigDict:
    data = region_data(batch_size=256, text_len=20, num_regions=36, targets=TARGETS, answer_key="answer")
    optim = bert_adam(learning_rate=1e-4, warmup_steps=NUM_STEPS // 20)
    return pretraining(lxmert(), objective(), data, optim, NUM_STEPS, "v5e:2x2").to_config_dict()


def objective() -> FusionObjectiveConfig:
    """Everything is read from one pass in which words and regions are hidden."""
    return FusionObjectiveConfig(
        match=MatchTerm(negatives="random", text="masked", image="masked"),
        tokens=TokenTerm(image="masked"),
        regions=(
            classes("objects"),
            classes("attributes"),
            RegionTerm(kind="features", text="masked", rate=MASKED_SHARE, smooth=True),
        ),
        answers=AnswerTerm(text="masked", image="masked"),
    )


def classes(target: str) -> RegionTerm:
    """Predicted of all regions, each as far as the detector was sure."""
    return RegionTerm(
        kind="classes",
        target=target,
        confidence=True,
        everywhere=True,
        text="masked",
        rate=MASKED_SHARE,
        weight=1 / MASKED_SHARE,
    )
