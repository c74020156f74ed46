"""SigLIP B/16 at 224 pixels as published (Zhai et al., 2023), for web-scale image-text pairs.

    python -m mmjax.plan --config configs/siglip_b16.py
    python -m mmjax.train --config configs/siglip_b16.py --data wds:PATTERN --workdir runs/siglip_b16 \
        --config.data.tokenizer=SIGLIP

SIGLIP is a folder of google/siglip-base-patch16-224, or that name. Batch, learning rate, decay, second momentum and the
40 billion examples are the paper's (section 4). It used Adafactor; here it is AdamW with its first moment in bfloat16.
The state is split over sixteen chips, and a layer is computed again in the backward pass: on TPU v5e that costs less
than the memory that it would take.
"""

from dataclasses import replace

import ml_collections

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.experiment import Experiment, PlanConfig
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.sizes import siglip
from mmjax.models.vit import ViTConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.training.retention import CheckpointConfig
from mmjax.training.step import TrainConfig

BATCH_SIZE = 32_768
NUM_EXAMPLES = 40_000_000_000
TOKENIZER = "google/siglip-base-patch16-224"


def get_config() -> ml_collections.ConfigDict:
    return pretraining(siglip("B/16-224"), "v5e:8x16").to_config_dict()


def pretraining(model: DualEncoderConfig, topology: str) -> Experiment:
    """The paper's run of a size of it."""
    optim = OptimConfig(
        learning_rate=1e-3,
        weight_decay=1e-4,
        beta2=0.95,
        momentum_dtype="bfloat16",
        schedule=ScheduleConfig(name="cosine", warmup_steps=10_000),
    )
    data = web_data(model, TOKENIZER, "siglip")
    return sharded(model, data, optim, NUM_EXAMPLES // BATCH_SIZE, topology)


def web_data(model: DualEncoderConfig, tokenizer: str, text_rules: str) -> DataConfig:
    """Pairs from tars, read by processes beside the one that trains."""
    assert isinstance(model.image, ViTConfig)
    return DataConfig(
        source="wds:PATTERN",
        tokenizer=tokenizer,
        text_rules=text_rules,
        batch_size=BATCH_SIZE,
        text_len=model.text_len,
        preprocess=PreprocessConfig(image_size=model.image.image_size),
        num_workers=8,
    )


def sharded(
    model: DualEncoderConfig,
    data: DataConfig,
    optim: OptimConfig,
    num_steps: int,
    topology: str,
) -> Experiment:
    """A long run in bfloat16."""
    assert isinstance(model.image, ViTConfig)
    image = replace(model.image, compute_dtype="bfloat16", remat="full")
    text = replace(model.text, compute_dtype="bfloat16", remat="full")
    return Experiment(
        model=replace(model, image=image, text=text),
        data=data,
        optim=optim,
        train=TrainConfig(num_steps=num_steps),
        # The state is split over the sixteen chips of a row, which are neighbours and divide every width.
        mesh=MeshConfig(data=-1, fsdp=16),
        checkpoint=CheckpointConfig(every_steps=2_000),
        plan=PlanConfig(topology),
    )
