"""Folders of tiny fusion models, as an export writes them, with a tokenizer of a few words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import transformers

from mmjax.data.preprocess import PreprocessConfig
from mmjax.interop.formats import Spec
from mmjax.interop.fusion.own import MMJAX_FUSION
from mmjax.interop.tensors import write_tensors
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from tests.serving.fusion_cases import FEATURE_DIM, IMAGE_SIZE, REGIONS, SIZE, TWO_STREAMS, weights_of

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("a", "red", "green", "blue", "apple", "pear", "dog", "cat", "on", "the", "of", "and", "two"),
)
TEXT_LEN = 11
VOCABULARY = published.Vocabulary(vocab_size=24, context_len=TEXT_LEN)
"""Some more rows than there are words."""
PIXELS = published.albef(SIZE, IMAGE_SIZE, VOCABULARY, fusion_depth=1, image_side=12, patch_size=4, embed_dim=10)
BY_REGIONS = replace(TWO_STREAMS, text=VOCABULARY.inputs(SIZE))
WITHOUT_BOXES = published.visual_bert(SIZE, VOCABULARY, feature_dim=FEATURE_DIM)
ONE_STREAM = published.uniter(SIZE, VOCABULARY, **REGIONS)
PREPROCESS = PreprocessConfig(12)


def write_fusion(folder: Path, model: FusionConfig, seed: int = 0, max_file_bytes: int = 10**9) -> Path:
    folder.mkdir(parents=True)
    write_tensors(folder, MMJAX_FUSION.tensors(model, weights_of(model, seed)), "float32", max_file_bytes)
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(WORDS)})
    tokenizer.save_pretrained(folder)
    preprocess = None if model.image_shape is None else PREPROCESS
    for name, values in MMJAX_FUSION.write(Spec(model, preprocess)).items():
        change(folder / name, values)
    return folder


def change(path: Path, values: Any) -> None:
    """Writes `values` into a JSON file, over what is there."""
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**there, **values}))


def regions(count: int, seed: int = 0) -> tuple[np.ndarray, list[list[float]]]:
    """Features (count, c) and boxes."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(size=(count, 2, 2)), axis=1).reshape(count, 4)
    return rng.normal(size=(count, FEATURE_DIM)).astype(np.float32), corners.tolist()
