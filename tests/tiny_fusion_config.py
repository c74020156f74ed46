"""The smallest run of a fusion model, an ALBEF: a config file for tests, on a folder of images given with `--data`."""

from dataclasses import replace

import ml_collections

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.experiment import Experiment
from mmjax.models.fusion import published
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import ContrastTerm, TokenTerm
from mmjax.objectives.masking import MaskingConfig
from mmjax.optim.optimizer import OptimConfig
from mmjax.optim.schedules import ScheduleConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.training.logs import LogsConfig
from mmjax.training.step import TrainConfig

SIZE = published.Size(width=16, depth=2, num_heads=2, mlp_dim=16)
WORDS = published.Vocabulary(vocab_size=8194, context_len=8)
MASK_ID, SPECIAL_IDS = 8193, (0, 1, 8192, 8193)
"""Of the tokenizer `emoji+mask`."""


def get_config() -> ml_collections.ConfigDict:
    model = published.albef(
        SIZE, replace(SIZE, depth=1, norm_eps=1e-6), WORDS, fusion_depth=1, image_side=16, patch_size=8, embed_dim=12
    )
    tokens = TokenTerm(masking=MaskingConfig(rate=0.5), mask_id=MASK_ID, special_ids=SPECIAL_IDS)
    return Experiment(
        model=model,
        data=DataConfig(
            batch_size=8,
            text_len=WORDS.context_len,
            tokenizer="emoji+mask",
            word_starts=True,
            preprocess=PreprocessConfig(image_size=16),
            num_threads=0,
        ),
        objective=FusionObjectiveConfig(contrast=ContrastTerm(), tokens=tokens),
        optim=OptimConfig(learning_rate=1e-2, schedule=ScheduleConfig(name="constant")),
        train=TrainConfig(num_steps=2),
        mesh=MeshConfig(data=1),
        logs=LogsConfig(peak_flops_per_sec=1e11),
    ).to_config_dict()
