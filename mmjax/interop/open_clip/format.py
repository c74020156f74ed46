"""`CLIP` and `CustomTextCLIP` of open_clip, which differ in the names of the text tower alone."""

import dataclasses
import functools
from typing import Any

import numpy as np

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface.files import TOKENIZER
from mmjax.interop.layouts import SAME, Arrays, Layout, Shape, expect
from mmjax.interop.mapping import Row, Table, placed
from mmjax.interop.open_clip import images, siglip, towers
from mmjax.interop.open_clip.fields import IMAGE, MODEL, TEXT, completed
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.vit import ViTConfig

CONFIG = "open_clip_config.json"
OWN_JOINT_FIELDS = ("embed_dim", "vision_cfg", "text_cfg")


def _scalar_to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
    expect(theirs.reshape(-1), (1,))
    return (theirs.reshape(shapes[0]),)


SCALAR = Layout(lambda ours: ours[0], _scalar_to_ours)
"""One number; theirs may have an axis, as `nonscalar_logit_scale` gives it."""


def rows(text_prefix: str, model: DualEncoderConfig) -> Table:
    image: Any = model.image
    return (
        *_image_rows(image, model),
        *placed(towers.text_rows(model.text, model.text_projection), "", text_prefix),
        Row("log_scale", "logit_scale", SCALAR),
        *(() if model.logit_bias is None else (Row("logit_bias", "logit_bias", SCALAR),)),
    )


def _image_rows(image: ViTConfig, model: DualEncoderConfig) -> Table:
    if _is_own(image):
        projection = Row("image_projection/kernel", "visual.proj", SAME)
        return (*placed(towers.image_rows(image), "image/", "visual."), projection)
    projection_rows = siglip.projection_rows(model.image_projection)
    return (*placed(siglip.image_rows(image), "image/", "visual.trunk."), *placed(projection_rows, "", "visual."))


def _is_own(image: Any) -> bool:
    """Whether the tower is nearest to open_clip's own one, which has a class token, and not to one of timm's."""
    return getattr(image, "pool", "cls") == "cls"


def read(files: Files) -> Spec:
    config = files[CONFIG]
    joint = {name: value for name, value in config["model_cfg"].items() if name not in OWN_JOINT_FIELDS}
    joint = completed(joint, MODEL, "model_cfg")
    vision = completed(config["model_cfg"]["vision_cfg"], IMAGE, "vision_cfg")
    text = completed(config["model_cfg"]["text_cfg"], TEXT, "text_cfg")
    image = _read_image(vision, joint["quick_gelu"])
    preprocess, normalisation = images.read(config.get("preprocess_cfg", {}), image.image_shape)
    model = DualEncoderConfig(
        image=dataclasses.replace(image, **normalisation),
        text=towers.read_text(text, joint["quick_gelu"]),
        embed_dim=config["model_cfg"]["embed_dim"],
        image_projection=siglip.image_projection(vision) if vision["timm_model_name"] else "linear",
        text_projection=towers.text_projection(text),
        log_scale=joint["init_logit_scale"],
        logit_bias=joint["init_logit_bias"],
    )
    return Spec(model, preprocess)


def _read_image(vision: dict[str, Any], quick_gelu: bool) -> ViTConfig:
    # timm's towers take no notice of quick_gelu.
    return siglip.read_image(vision) if vision["timm_model_name"] else towers.read_image(vision, quick_gelu)


def write(custom_text: bool, spec: Spec) -> Files:
    model = spec.model
    quick_gelu = model.text.activation == "quick_gelu"
    vision = (
        towers.written_image(model.image, quick_gelu)
        if _is_own(model.image)
        else siglip.written_image(model.image, model.image_projection)
    )
    config = {
        "embed_dim": model.embed_dim,
        **({"quick_gelu": True} if quick_gelu else {}),
        "init_logit_scale": model.log_scale,
        **({} if model.logit_bias is None else {"init_logit_bias": model.logit_bias}),
        **({"custom_text": True} if custom_text else {}),
        "vision_cfg": vision,
        "text_cfg": {**towers.written_text(model.text, model.text_projection, quick_gelu), **HF_TOKENIZER},
    }
    files: dict[str, Any] = {CONFIG: {"model_cfg": config}}
    if spec.preprocess is not None:
        files[CONFIG]["preprocess_cfg"] = images.written(spec.preprocess, model.image)
    tokenizer = {"model_max_length": model.text.context_len, "model_input_names": ["input_ids"]}
    return {**files, TOKENIZER: {**tokenizer, "padding_side": "right"}}


HF_TOKENIZER = {"hf_tokenizer_name": "tokenizer.json", "tokenizer_kwargs": {"clean": "whitespace"}}
"""Any name makes open_clip take the tokenizer that lies beside the config. It then repairs texts as it always does
(Unicode, HTML entities) and joins white space; of its three ways of cleaning this changes a text least."""

CLIP = Format("CLIP", "both", functools.partial(write, False), read, functools.partial(rows, ""))
CUSTOM_TEXT_CLIP = Format(
    "CustomTextCLIP", "both", functools.partial(write, True), read, functools.partial(rows, "text.")
)


def format_for(model: DualEncoderConfig) -> Format:
    """The class that open_clip itself would give a model with this image tower."""
    return CLIP if _is_own(model.image) else CUSTOM_TEXT_CLIP
