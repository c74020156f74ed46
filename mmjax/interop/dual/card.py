"""What is particular in the model card of a dual encoder, or of one of its towers."""

from collections.abc import Mapping
from typing import Any

from mmjax.interop.card_parts import Parts, images_in_words, percent

USAGE = {
    "huggingface": """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("DIR"{trust})
pixels = AutoImageProcessor.from_pretrained("DIR")(Image.open("photo.jpg"), return_tensors="pt")
tokenizer = AutoTokenizer.from_pretrained("DIR"{trust})
texts = tokenizer(["a photo"], padding="max_length", truncation=True, return_tensors="pt")
print(model(**pixels, **texts).logits_per_image)""",
    "open_clip": """\
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:DIR")   # wants upright RGB, on white
tokenizer = open_clip.get_tokenizer("local-dir:DIR")                            # cleans texts first (ftfy, HTML)""",
    "onnx": """\
import onnxruntime

image = onnxruntime.InferenceSession("DIR/image.onnx")   # pixel_values -> image_embeds
text = onnxruntime.InferenceSession("DIR/text.onnx")     # input_ids, attention_mask -> text_embeds""",
    "torch_export": """\
import torch

image = torch.export.load("DIR/image.pt2").module()   # pixel_values -> image_embeds
text = torch.export.load("DIR/text.pt2").module()     # input_ids, attention_mask -> text_embeds""",
}
TOWER_USAGE = {
    "image": """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("DIR"{pooling})
output = model(**AutoImageProcessor.from_pretrained("DIR")(Image.open("photo.jpg"), return_tensors="pt"))""",
    "text": """\
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained("DIR"{pooling})
texts = AutoTokenizer.from_pretrained("DIR")(["a photo"], padding="max_length", truncation=True, return_tensors="pt")
output = model(**texts)""",
}
"""Of one tower, which only Hugging Face has."""
POOLS = {
    None: "output.pooler_output",
    "cls": "output.last_hidden_state[:, 0]",
    "first": "output.last_hidden_state[:, 0]",
    "mean": "output.last_hidden_state averaged over the real tokens",
}
"""The features of a tower, by `pool` of its facts."""
LIBRARIES = {"huggingface": "transformers", "open_clip": "open_clip", "onnx": "onnx", "torch_export": "pytorch"}


WHAT = {
    "both": "A dual encoder of images and texts",
    "image": "The image tower of a dual encoder",
    "text": "The text tower of a dual encoder",
}
COLUMNS = ("split", "image to text R@1", "R@5", "text to image R@1", "R@5", "candidates")


def parts(facts: Mapping[str, Any]) -> Parts:
    """Of an export with these facts."""
    part, data = facts["part"], facts["experiment"]["data"]
    trust = ", trust_remote_code=True" if facts["class"] == "MMJaxDualEncoder" else ""
    texts = () if part == "image" else (f"Texts are padded to {data['text_len']} tokens.",)
    images = () if part == "text" else (f"Images: {images_in_words(data['preprocess'])}.",)
    return Parts(
        library=LIBRARIES[facts["format"]],
        task="zero-shot-image-classification" if part == "both" else "feature-extraction",
        tag="contrastive",
        what=WHAT[part],
        usage=USAGE[facts["format"]].replace("{trust}", trust) if part == "both" else _tower_usage(facts),
        inputs=" ".join((*texts, *images)),
        columns=COLUMNS,
        rows=[_row(split, scores["retrieval"]) for split, scores in facts["evaluation"].items()],
    )


def _row(split: str, retrieval: Mapping[str, Any]) -> tuple[Any, ...]:
    recalls = (retrieval[direction][k] for direction in ("image_to_text", "text_to_image") for k in ("r@1", "r@5"))
    return (split, *map(percent, recalls), retrieval["num_candidates"])


def _tower_usage(facts: Mapping[str, Any]) -> str:
    pooling = "" if facts["pooler"] else ", add_pooling_layer=False"
    code = TOWER_USAGE[facts["part"]].replace("{pooling}", pooling)
    return f"{code}  # features: {POOLS[facts['pool']]}"
