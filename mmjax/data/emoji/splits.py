"""The named splits of the embedded data set, as unions of its vendor x part splits (TFDS split syntax).

Parts: `fit` and `validation` are the training concepts, `heldout` the held-out families. Tune on the `tune_` splits
only, which never touch Fluent 3D or a held-out family: they repeat both questions inside the training concepts, with
Twemoji as the unseen style and the validation families as the unseen concepts.
"""

NAMED_SPLITS = {
    "train": "noto_fit+noto_validation+twemoji_fit+twemoji_validation",
    "unseen_style": "fluent_fit+fluent_validation",
    "unseen_concept": "noto_heldout+twemoji_heldout+fluent_heldout",
    "unseen_concept_noto": "noto_heldout",
    "unseen_concept_twemoji": "twemoji_heldout",
    "unseen_concept_fluent": "fluent_heldout",
    "tune_train": "noto_fit+twemoji_fit",
    "tune_concept": "noto_validation",
    "tune_train_one_style": "noto_fit",
    "tune_style": "twemoji_fit",
}
