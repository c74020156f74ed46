"""Small fusion models of every published kind with random weights, exported with the reference of their proof."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import transformers

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.tokenizer import Tokenizer
from mmjax.experiment import Experiment
from mmjax.interop.export_folder import Trained
from mmjax.interop.formats import Spec
from mmjax.interop.fusion.exports import read_back, write_fusion
from mmjax.interop.fusion.reference import compute
from mmjax.interop.sampling import Pairs, make_sample
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.proof import sample as samples
from mmjax.proof.facts import FUSION
from tests.interop.exported import facts_of
from tests.serving.fusion_cases import IMAGE_SIZE, MODELS, REGIONS, SIZE, WORDS, regions_of, weights_of
from tests.serving.fusion_folders import WORDS as WORD_LIST

VILBERT = published.vilbert(
    replace(SIZE, depth=3),
    replace(IMAGE_SIZE, norm_eps=1e-12),
    WORDS,
    text_before=(1, 2),
    image_before=(0, 1),
    inner_width=24,
    inner_heads=4,
    **REGIONS,
)
PUBLISHED = {name: MODELS[name] for name in ("bert", "lxmert", "uniter", "visual_bert", "vilt", "albef")}
PUBLISHED["vilbert"] = VILBERT
CLASSES = {
    "bert": ("huggingface", "BertForPreTraining"),
    "lxmert": ("huggingface", "LxmertForPreTraining"),
    "visual_bert": ("huggingface", "VisualBertForPreTraining"),
    "vilt": ("huggingface", "ViltModel"),
    "vilbert": ("reference", "BertForMultiModalPreTraining"),
    "uniter": ("reference", "UniterForPretraining"),
    "albef": ("reference", "ALBEF"),
}
"""What --to calls the format that can express it beside our own, and its class."""
TEXTS = ("a red apple", "a pear", "the blue apple and the green pear of two cats and a dog")


def trained(model: FusionConfig, place: Path) -> Trained:
    """The model with random weights, a tokenizer of a few words, and texts shorter than it has places for."""
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(WORD_LIST)})
    tokenizer.save_pretrained(place / "tokenizer")
    shape = model.image_shape
    preprocess = None if shape is None else PreprocessConfig(shape[0], image_width=shape[1])
    data = DataConfig(text_len=model.text_len - 2, preprocess=preprocess or PreprocessConfig())
    facts = {"kind": FUSION, **facts_of(Experiment(model, data))}
    weights = weights_of(model)
    return Trained(Spec(model, preprocess), Tokenizer.load(str(place / "tokenizer")), weights, facts)


def write_export(folder: Path, source: Trained, to: str, dtype: str = "float32") -> Trained:
    """Writes the export and its reference into a new folder; the model with the weights that it holds."""
    folder.mkdir(parents=True)
    write_fusion(folder, source, to, dtype)
    exported = replace(source, weights=read_back(folder, source, to, dtype))
    samples.write(folder, make_sample(folder, exported, pairs(source), compute))
    return exported


def pairs(source: Trained) -> Pairs:
    model, rng = source.spec.model, np.random.default_rng(0)
    text_ids, text_mask = source.tokenizer(TEXTS, source.text_len)
    if model.image_shape is not None:
        image = {"image": rng.integers(0, 256, (len(TEXTS), *model.image_shape, 3), np.uint8)}
    else:
        image = regions_of(True, len(TEXTS), rng)
    return Pairs(TEXTS, {"text_ids": text_ids, "text_mask": text_mask, **image})
