"""A small ALBEF on the embedded emoji, for two CPU cores and six minutes: towers that are contrasted, then a fusion
that tells hard negatives apart and guesses masked words.

    python -m mmjax.train --config configs/albef_emoji.py --workdir runs/albef
    python -m mmjax.evaluate --workdir runs/albef
"""

from dataclasses import replace

import ml_collections

from configs.emoji_siglip import IMAGE as SIGLIP_IMAGE
from configs.emoji_siglip import IMAGE_SIZE, WIDTH, experiment
from mmjax.experiment import Experiment
from mmjax.models.fusion.heads import PoolerConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.models.fusion.published import Size, Vocabulary, albef
from mmjax.objectives.fusion import FusionObjectiveConfig
from mmjax.objectives.fusion_terms import ContrastTerm, MatchTerm, TokenTerm
from mmjax.objectives.masking import MaskingConfig

TEXT_LEN = 10
"""Holds all but one of the captions that are evaluated, and all tags of seven in eight that are trained on."""

SMALL = Size(width=WIDTH, depth=3, num_heads=4, mlp_dim=2 * WIDTH, dropout_rate=0.0, attention_dropout_rate=0.0)
WORDS = Vocabulary(vocab_size=8194, context_len=TEXT_LEN, num_token_types=1)
MASK_ID, SPECIAL_IDS = 8193, (0, 1, 8192, 8193)
"""Of the tokenizer `emoji+mask`."""

PATCHES = PatchInputConfig(
    width=WIDTH,
    dropout_rate=0.0,
    image_size=IMAGE_SIZE,
    image_mean=SIGLIP_IMAGE.image_mean,
    image_std=SIGLIP_IMAGE.image_std,
    patch_size=SIGLIP_IMAGE.patch_size,
    position_stddev=SIGLIP_IMAGE.position_stddev or 0.02,
)
# Captions are short: with the usual 15% most would have no masked word.
TOKENS = TokenTerm(
    masking=MaskingConfig(rate=0.3, max_labels=4, at_least_one=True), mask_id=MASK_ID, special_ids=SPECIAL_IDS
)


def get_config() -> ml_collections.ConfigDict:
    """The config."""
    model = albef(
        SMALL,
        replace(SMALL, mlp_dim=3 * WIDTH, norm_eps=1e-6),
        WORDS,
        fusion_depth=2,
        image_side=IMAGE_SIZE,
        patch_size=PATCHES.patch_size,
        embed_dim=WIDTH,
    )
    # Read from the text's first token alone, the match learns nothing in so few steps: a product of both streams, as
    # ViLBERT has it, begins where the towers are.
    model = replace(
        model,
        image=PATCHES,
        pooler=PoolerConfig(("text", "image"), "tanh"),
        heads=replace(model.heads, pair="product"),
    )
    # Its gradient is small beside that of the words.
    objective = FusionObjectiveConfig(
        contrast=ContrastTerm(), match=MatchTerm(weight=2.5, choice=0.6), tokens=replace(TOKENS, weight=0.5)
    )
    return fusion_experiment(model, objective, num_steps=380).to_config_dict()


def fusion_experiment(model: FusionConfig, objective: FusionObjectiveConfig, num_steps: int) -> Experiment:
    """The data, augmentation and optimizer of `emoji_siglip` around a fusion model, run as straight-line code.

    Half the batch leaves time for more steps. The towers are contrasted by the mean of their tokens: the first token
    would have to learn to read the others first.
    """
    base = experiment(SIGLIP_IMAGE, num_steps)
    return replace(
        base,
        model=replace(
            model,
            towers=replace(model.towers, unroll=-1),
            fusion=replace(model.fusion, unroll=-1),
            embed_pool="mean",
        ),
        data=replace(
            base.data, batch_size=128, text_len=TEXT_LEN, tokenizer="emoji+mask", num_words=0, word_starts=True
        ),
        objective=objective,
        # Of images in a style that it never saw the match is too sure; half is what a split of the training data wants.
        evals=replace(base.evals, zero_shot=None, match_weight=0.5),
    )
