"""`ViTModel`: the Vision Transformer of Dosovitskiy et al. (2021), as an image tower."""

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.files import CONFIG, written_files
from mmjax.interop.huggingface.layers import attention, linear, norm, size_fields, written_size
from mmjax.interop.layouts import PATCHES, SAME, reshaped
from mmjax.interop.mapping import Ignored, Row, Table, placed
from mmjax.models.vit import ViTConfig

LAYER: Table = (
    *norm("attention_norm", "layernorm_before"),
    *attention(
        "attention",
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ),
    *norm("mlp_norm", "layernorm_after"),
    *linear("mlp/up", "intermediate.dense"),
    *linear("mlp/down", "output.dense"),
)

BACKBONE: Table = (
    Row("stem/projection/kernel", "embeddings.patch_embeddings.projection.weight", PATCHES),
    Row("stem/projection/bias", "embeddings.patch_embeddings.projection.bias", SAME),
    Row("class_token", "embeddings.cls_token", reshaped(1, 1)),
    Row("positions", "embeddings.position_embeddings", reshaped(1)),
    *placed(LAYER, "blocks/", "encoder.layer.{l}."),
    *norm("final_norm", "layernorm"),
)


def rows(image: ViTConfig) -> Table:
    pooler = linear("pooler", "pooler.dense") if image.pooler else ()
    return placed((*BACKBONE, *pooler), "image/", "")


def read(files: Files) -> Spec:
    config = files[CONFIG]
    preprocess, normalisation = images.read(files)
    size = config["image_size"]
    height, width = (size, None) if isinstance(size, int) else size
    image = ViTConfig(
        **size_fields(config),
        image_size=height,
        image_width=width,
        patch_size=config["patch_size"],
        pool="cls",
        pooler=config.get("has_pooler", True),
        **normalisation,
    )
    return Spec(image, preprocess)


def write(spec: Spec) -> Files:
    image = spec.model
    size = image.image_size if image.image_width is None else [image.image_size, image.image_width]
    config = {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        **written_size(image),
        "image_size": size,
        "patch_size": image.patch_size,
        "pooler_output_size": image.width,
        "has_pooler": image.pooler,
    }
    return written_files(config, spec)


VIT = Format(
    "ViTModel",
    "image",
    write,
    read,
    rows,
    prefix="vit.",
    ignored=(Ignored(r"classifier\..*", "the head of a classifier is no part of a tower"),),
)
