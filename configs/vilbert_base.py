"""ViLBERT as published (Lu et al., 2019), pretrained on Conceptual Captions with regions of a detector.

    python -m mmjax.train --config configs/vilbert_base.py --config.data.source=tfds:DIR --workdir runs/vilbert \
        --config.data.tokenizer=BERT --config.init.text_source=hf:BERT

BERT is a folder of bert-base-uncased. docs/fusion.md says what DIR holds. Values are those of the paper, section 3.1,
and of its released code: 10 epochs of 3.1 million pairs in batches of 512, at most 36 tokens and 36 regions. There a
tenth of the masked regions keep their features, the mean that stands for the whole image leaves out what overlaps a
masked region, and a wrong pair has another text beside the image. Here all masked regions are hidden, the mean is of
all regions that are there, and a wrong pair has another image beside the text.
"""

import ml_collections

from mmjax.data.config import DataConfig
from mmjax.data.regions import RegionsConfig, RegionTargetConfig
from mmjax.experiment import Experiment, PlanConfig
from mmjax.models.base import ModelConfig
from mmjax.models.fusion.published import REGION_CLASSES, vilbert
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import MatchTerm, RegionTerm, TokenTerm
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

PROBABILITIES = RegionTargetConfig("probabilities", "probabilities", "distribution", REGION_CLASSES)


def get_config() -> ml_collections.ConfigDict:
    return pretraining(
        vilbert(),
        # As published, all terms are read from one pass in which words and regions are hidden.
        FusionObjectiveConfig(
            match=MatchTerm(negatives="random", text="masked", image="masked"),
            tokens=TokenTerm(image="masked"),
            regions=(RegionTerm(kind="divergence", text="masked"),),
        ),
        region_data(batch_size=512, text_len=36, num_regions=36, targets=(PROBABILITIES,)),
        bert_adam(learning_rate=1e-4, warmup_steps=6_000, beta2=0.98, clip_norm=0.0),
        num_steps=60_000,
        topology="v5e:2x4",
    ).to_config_dict()


def region_data(
    *,
    batch_size: int,
    text_len: int,
    num_regions: int,
    targets: tuple[RegionTargetConfig, ...] = (),
    answer_key: str = "",
) -> DataConfig:
    """Captions beside regions in place of pixels."""
    return DataConfig(
        source="tfds:DIR",
        tokenizer="BERT",
        batch_size=batch_size,
        text_len=text_len,
        image_key="",
        answer_key=answer_key,
        regions=RegionsConfig(num_regions=num_regions, dtype="float16", targets=targets),
    )


def bert_adam(*, learning_rate: float, warmup_steps: int, beta2: float = 0.999, clip_norm: float = 1.0) -> OptimConfig:
    """AdamW with a linear schedule, as BERT was trained with."""
    return OptimConfig(
        learning_rate=learning_rate,
        weight_decay=0.01,
        beta2=beta2,
        clip_norm=clip_norm,
        schedule=ScheduleConfig(name="linear", warmup_steps=warmup_steps),
    )


def pretraining(
    model: ModelConfig,
    objective: FusionObjectiveConfig,
    data: DataConfig,
    optim: OptimConfig,
    num_steps: int,
    topology: str,
) -> Experiment:
    """A long run of them, which keeps a checkpoint every 5,000 steps; `topology` is what it is planned for."""
    return Experiment(
        model=model,
        data=data,
        objective=objective,
        optim=optim,
        train=TrainConfig(num_steps=num_steps),
        checkpoint=CheckpointConfig(every_steps=5_000),
        plan=PlanConfig(topology),
    )
