"""The smallest run of a fusion model on regions: a config file for tests, on data of `tests/data/tiny_regions.py`."""

from dataclasses import replace

import ml_collections

from mmjax.data.config import DataConfig
from mmjax.experiment import EvalsConfig, Experiment
from mmjax.models.fusion import trunks
from mmjax.models.fusion.heads import HeadsConfig, RegionHeadConfig
from mmjax.models.fusion.published import Size, uniter
from mmjax.nn.bimodal import Group
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import AnswerTerm, ContrastTerm, MatchTerm, RegionTerm, TokenTerm
from mmjax.objectives.masking import MaskingConfig
from mmjax.parallel.mesh import MeshConfig
from mmjax.training.logs import LogsConfig
from mmjax.training.step import TrainConfig
from tests.data import tiny_regions
from tests.tiny_fusion_config import MASK_ID, SPECIAL_IDS, WORDS

TEXT_LEN = WORDS.context_len
SIZE = Size(width=16, depth=1, num_heads=2, mlp_dim=16, dropout_rate=0.0, attention_dropout_rate=0.0)
REGIONS = {"feature_dim": tiny_regions.FEATURE_DIM, "num_classes": tiny_regions.NUM_CLASSES}


def get_config() -> ml_collections.ConfigDict:
    published = uniter(SIZE, replace(WORDS, context_len=2 * TEXT_LEN, num_token_types=2), **REGIONS)
    features, classes = published.heads.regions
    model = replace(
        published,
        towers=replace(published.towers, groups=(Group((trunks.EACH_ITS_OWN,), 1),)),
        heads=HeadsConfig(regions=(RegionHeadConfig(features.outputs), classes), num_answers=3),
        embed_dim=16,
    )
    masking = MaskingConfig(rate=0.3, at_least_one=True)
    return Experiment(
        model=model,
        data=DataConfig(
            source="tfds:DIR",
            tokenizer="emoji+mask",
            batch_size=4,
            text_len=TEXT_LEN,
            image_key="",
            answer_key="answer",
            regions=tiny_regions.CONFIG,
            num_threads=0,
        ),
        objective=FusionObjectiveConfig(
            contrast=ContrastTerm(),
            match=MatchTerm(),
            tokens=TokenTerm(masking=masking, mask_id=MASK_ID, special_ids=SPECIAL_IDS),
            regions=(RegionTerm(), RegionTerm(kind="classes", confidence=True), RegionTerm(kind="divergence")),
            answers=AnswerTerm(),
        ),
        train=TrainConfig(num_steps=2),
        mesh=MeshConfig(data=1),
        logs=LogsConfig(peak_flops_per_sec=1e11),
        evals=EvalsConfig(splits=("test",), batch_size=4, num_candidates=3),
    ).to_config_dict()
