"""A small ViLBERT on the embedded emoji, its image stream of patches, for two CPU cores and six minutes.

    python -m mmjax.train --config configs/vilbert_emoji.py --workdir runs/vilbert

As published, words and parts of the image are hidden in one pass. Beyond it, the towers before the first co-attention
are contrasted, so that retrieval has a first stage, and the match has hard negatives and reads whole pairs: of masked
ones, and through rectified poolers, it learns nothing in so few steps.
"""

from dataclasses import replace

import ml_collections

from configs.albef_emoji import PATCHES, SMALL, TOKENS, WORDS, fusion_experiment
from mmjax.models.fusion.heads import PoolerConfig, RegionHeadConfig
from mmjax.models.fusion.published import vilbert
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import ContrastTerm, MatchTerm, RegionTerm

NUM_PIXELS = 3 * PATCHES.patch_size**2


def get_config() -> ml_collections.ConfigDict:
    """The config: one layer of the text and two of the image alone, then two co-attentions with one of each between."""
    published = vilbert(
        replace(SMALL, depth=2),
        SMALL,
        WORDS,
        text_before=(1, 2),
        image_before=(2, 3),
        inner_width=SMALL.width,
        inner_heads=SMALL.num_heads,
    )
    model = replace(
        published,
        image=replace(PATCHES, norm=True, mask_token=True),
        pooler=PoolerConfig(("text", "image"), "tanh"),
        heads=replace(published.heads, regions=(RegionHeadConfig((("pixels", NUM_PIXELS),)),)),
        pair_dropout_rate=0.0,
        embed_dim=SMALL.width,
    )
    objective = FusionObjectiveConfig(
        contrast=ContrastTerm(),
        match=MatchTerm(weight=5.0, choice=0.6),
        tokens=replace(TOKENS, image="masked", weight=0.5),
        regions=(RegionTerm(kind="pixels", text="masked", rate=0.25, weight=0.5),),
    )
    return fusion_experiment(model, objective, num_steps=360).to_config_dict()
