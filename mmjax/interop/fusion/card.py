"""What is particular in the model card of a fusion model."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.card_parts import Parts, images_in_words, percent

LIBRARIES = {"mmjax": "mmjax", "huggingface": "transformers", "reference": "pytorch"}
REPOSITORIES = {
    "BertForMultiModalPreTraining": "facebookresearch/vilbert-multi-task",
    "UniterForPretraining": "ChenRocks/UNITER",
    "ALBEF": "salesforce/ALBEF",
}
"""Of the authors' code, by class."""

TEXTS = 'texts = AutoTokenizer.from_pretrained("DIR")(["a photo"], padding=True, return_tensors="pt")'
IMAGES = {
    "pixels": 'pixels = AutoImageProcessor.from_pretrained("DIR")(Image.open("photo.jpg"), return_tensors="pt")',
    "regions": "features, boxes = torch.zeros(1, 36, {feature_dim}), torch.zeros(1, 36, 4)  # of a detector",
}

MODULE = """\
from pathlib import Path

import torch
{image_imports}from transformers import {loaders}

from mmjax.serving.models.folder import load_module  # PyTorch alone, without JAX

model = load_module(Path("DIR"))
{inputs}
batch = {{"text_ids": texts["input_ids"], "text_mask": texts["attention_mask"].bool(){image}}}
with torch.inference_mode():
    outputs = model(batch)  # {names}"""

CLASS = """\
import torch
{image_imports}from transformers import {loaders}

model = {class}.from_pretrained("DIR")
{inputs}
with torch.inference_mode():
    outputs = model(**texts{image})"""

REFERENCE = """\
from safetensors.torch import load_file

weights = load_file("DIR/model.safetensors")  # under the names of {class} in the code of {repository}"""

MODULE_IMAGES = {
    "pixels": ', "image": pixels["pixel_values"]',
    "regions": ', "region_features": features, "region_boxes": boxes, "region_mask": boxes[..., 0] >= 0',
    "none": "",
}
CLASS_IMAGES = {
    "BertForPreTraining": "",
    "LxmertForPreTraining": ", visual_feats=features, visual_pos=boxes",
    "VisualBertForPreTraining": ", visual_embeds=features, visual_attention_mask=torch.ones(1, 36)",
    "ViltModel": ", **pixels",
}
COLUMNS = (
    "split",
    "image to text R@1",
    "reranked",
    "text to image R@1",
    "reranked",
    "match accuracy",
    "masked words",
    "with another image",
    "candidates",
)


def parts(facts: Mapping[str, Any]) -> Parts:
    """Of an export with these facts."""
    data, model = facts["experiment"]["data"], facts["experiment"]["model"]
    image = _image(model)
    images = {
        "pixels": f"Images: {images_in_words(data['preprocess'])}.",
        "regions": "Images are regions of a detector: features, and boxes as fractions of the image.",
        "none": "It reads no images.",
    }
    return Parts(
        library=LIBRARIES[facts["format"]],
        task="feature-extraction",
        tag="fusion",
        what="A fusion model, whose texts and images attend to each other",
        usage=_usage(facts, model, image),
        inputs=f"Texts have at most {data['text_len']} tokens. {images[image]}{_served(facts, model)}",
        columns=COLUMNS,
        rows=[_row(split, scores) for split, scores in facts["evaluation"].items()],
    )


def _image(model: Mapping[str, Any]) -> str:
    """What of an image the model looks at."""
    if model["image"] is None:
        return "none"
    return "regions" if "feature_dim" in model["image"] else "pixels"


def _usage(facts: Mapping[str, Any], model: Mapping[str, Any], image: str) -> str:
    name = facts["class"]
    if facts["format"] == "reference":
        return REFERENCE.format_map({"class": name, "repository": REPOSITORIES[name]})
    seen = [IMAGES[image].format_map(model["image"])] if image in IMAGES else []
    loaders = ["AutoTokenizer"] + ["AutoImageProcessor"] * (image == "pixels")
    by_module = facts["format"] == "mmjax"
    return (MODULE if by_module else CLASS).format_map(
        {
            "class": name,
            "image_imports": "from PIL import Image\n" if image == "pixels" else "",
            "loaders": ", ".join(sorted(loaders if by_module else [*loaders, name])),
            "inputs": "\n".join([TEXTS, *seen]),
            "image": MODULE_IMAGES[image] if by_module else CLASS_IMAGES[name],
            "names": ", ".join(_names(model)),
        }
    )


def _names(model: Mapping[str, Any]) -> list[str]:
    """What the heads give."""
    heads, pooler = model["heads"], model["pooler"] or {"streams": ()}
    there = {
        "token_logits": heads["tokens"],
        "pair_logits": heads["num_pair_classes"],
        "answer_logits": heads["num_answers"],
    }
    regions = [name for head in heads["regions"] for name, _ in head["outputs"]]
    return [f"{stream}_pooled" for stream in pooler["streams"]] + [name for name in there if there[name]] + regions


def _served(facts: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    heads = model["heads"]
    answers = ["/v1/match"] * (heads["num_pair_classes"] > 1) + ["/v1/fill_mask"] * heads["tokens"]
    if facts["format"] != "mmjax" or model["image"] is None or not answers:
        return ""
    return f"\n`python -m mmjax.serving --model DIR` answers {' and '.join(f'`{answer}`' for answer in answers)}."


def _row(split: str, scores: Mapping[str, Any]) -> tuple[Any, ...]:
    """A line of the table; of a model without a common space it holds what was chosen among a few, and says so."""
    choice, reranked, words = (scores.get(name, {}) for name in ("choice", "reranked", "masked_words"))
    retrieval = scores.get("retrieval", choice)
    recalls = (
        percent(found.get(direction, {}).get("r@1"))
        for direction in ("image_to_text", "text_to_image")
        for found in (retrieval, reranked)
    )
    shares = ((reranked or choice).get("match_accuracy"), words.get("with_image"), words.get("other_image"))
    name = f"{split}, chosen" if "choice" in scores else split
    return (name, *recalls, *map(percent, shares), retrieval.get("num_candidates", "-"))
