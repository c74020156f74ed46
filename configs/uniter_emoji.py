"""A small UNITER on the embedded emoji, of patches in place of regions, for two CPU cores and six minutes.

    python -m mmjax.train --config configs/uniter_emoji.py --workdir runs/uniter

Beyond the published model a layer of the text alone and two of the image come before the joint ones: contrasted, they
are the first stage of retrieval. The match reads the product of both streams, where the published one reads the text's
first token: that learns nothing in so few steps. Terms are summed; a run of six minutes has too few steps to draw one
each.
"""

from dataclasses import replace

import ml_collections

from configs.albef_emoji import PATCHES, SMALL, TOKENS, WORDS, fusion_experiment
from mmjax.models.fusion import trunks
from mmjax.models.fusion.heads import HeadsConfig, PoolerConfig, RegionHeadConfig
from mmjax.models.fusion.published import uniter
from mmjax.nn.bimodal import Group
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import AlignTerm, ContrastTerm, MatchTerm, RegionTerm

SIZE = replace(SMALL, depth=2)
NUM_PIXELS = 3 * PATCHES.patch_size**2


def get_config() -> ml_collections.ConfigDict:
    """The config."""
    published = uniter(SIZE, WORDS)
    model = replace(
        published,
        image=replace(PATCHES, norm=True, mask_token=True),
        towers=replace(published.towers, groups=(Group((trunks.EACH_ITS_OWN,)), Group((trunks.IMAGE,)))),
        pooler=PoolerConfig(("text", "image"), "tanh"),
        heads=HeadsConfig(pair="product", regions=(RegionHeadConfig((("pixels", NUM_PIXELS),)),)),
        embed_dim=SIZE.width,
    )
    objective = FusionObjectiveConfig(
        contrast=ContrastTerm(),
        match=MatchTerm(weight=5.0, choice=0.6),
        tokens=replace(TOKENS, weight=0.5),
        regions=(RegionTerm(kind="pixels", rate=0.25, weight=0.5),),
        align=AlignTerm(),
    )
    return fusion_experiment(model, objective, num_steps=400).to_config_dict()
