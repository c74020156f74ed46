"""The model card: what stands in `README.md` of an export, for people and for the hub."""

import json
from collections.abc import Mapping
from typing import Any

import jinja2

TEMPLATE = """\
---
library_name: {{ library }}
pipeline_tag: {{ task }}
tags: [mmjax, contrastive, vision-language]
{% if licence_id %}license: {{ licence_id }}
{% endif %}---

# {{ class }}

{{ {"both": "A dual encoder of images and texts,", "image": "The image tower of a dual encoder",
"text": "The text tower of a dual encoder"}[part] }} trained with mmjax {{ mmjax_version }} for {{ step }} steps on \
{{ data.source }} (split {{ data.split }}){{ ", averaged parameters" if ema else "" }}. Weights are {{ dtype }}.

## How to use it

```python
{{ usage }}
```

{% if part != "image" %}Texts are padded to {{ text_len }} tokens. {% endif -%}
{% if part != "text" %}Images: {{ images }}.{% endif %}

## Evaluation
{% if evaluation %}
| split | image to text R@1 | R@5 | text to image R@1 | R@5 | candidates |
|---|---|---|---|---|---|
{% for split, scores in evaluation.items() -%}
| {{ split }} \
| {{ percent(scores.retrieval.image_to_text["r@1"]) }} | {{ percent(scores.retrieval.image_to_text["r@5"]) }} \
| {{ percent(scores.retrieval.text_to_image["r@1"]) }} | {{ percent(scores.retrieval.text_to_image["r@5"]) }} \
| {{ scores.retrieval.num_candidates }} |
{% endfor %}
{%- else %}
None is recorded for this step.
{% endif %}
## Proof

`parity.json` says how far this export is from the model that was trained, if it was proven. Anyone can prove it again:
`python -m mmjax.prove DIR` compares it, in PyTorch and without JAX, with the outputs in `proof/`.

## Licence of the training data

{{ data_licence }}

## Fingerprint

{% for name, digest in fingerprint.items() -%}
- {{ name }}: `{{ digest }}`
{% endfor %}
## Training config

```json
{{ config }}
```
"""

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


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of an export with these facts (see `exports.write_facts`)."""
    experiment = facts["experiment"]
    trust = ", trust_remote_code=True" if facts["class"] == "MMJaxDualEncoder" else ""
    return jinja2.Template(TEMPLATE).render(
        **facts,
        library=LIBRARIES[facts["format"]],
        task="zero-shot-image-classification" if facts["part"] == "both" else "feature-extraction",
        data=experiment["data"],
        text_len=experiment["data"]["text_len"],
        images=_images(experiment["data"]["preprocess"]),
        usage=USAGE[facts["format"]].replace("{trust}", trust) if facts["part"] == "both" else _tower_usage(facts),
        config=json.dumps(experiment, indent=2, ensure_ascii=False),
        percent=lambda share: f"{share:.1%}",
    )


def _tower_usage(facts: Mapping[str, Any]) -> str:
    pooling = "" if facts["pooler"] else ", add_pooling_layer=False"
    code = TOWER_USAGE[facts["part"]].replace("{pooling}", pooling)
    return f"{code}  # features: {POOLS[facts['pool']]}"


def _images(preprocess: Mapping[str, Any]) -> str:
    height, width = preprocess["image_size"], preprocess.get("image_width") or preprocess["image_size"]
    how = {"squash": "scaled to", "crop": "scaled by the shorter side and cut in the middle to"}[preprocess["resize"]]
    turned = "turned upright, transparent parts on white"
    return f"{turned}, {how} {height} x {width} pixels ({preprocess['interpolation']})"
