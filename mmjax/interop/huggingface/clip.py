"""`CLIPModel`: OpenAI's CLIP and what has its shape."""

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.files import CONFIG, written_files
from mmjax.interop.huggingface.layers import CLIP_BLOCKS, POSITION_IDS, norm, size_fields, written_size
from mmjax.interop.layouts import LINEAR, PATCHES, SAME, table
from mmjax.interop.mapping import Row, Table, placed
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig

LARGEST_ID = 2
"""The `eos_token_id` of configs that are older than the field: the end of text is then the largest id."""

IMAGE: Table = (
    Row("stem/projection/kernel", "embeddings.patch_embedding.weight", PATCHES),
    Row("class_token", "embeddings.class_embedding", SAME),
    Row("positions", "embeddings.position_embedding.weight", SAME),
    *norm("embedding_norm", "pre_layrnorm"),
    *CLIP_BLOCKS,
    *norm("final_norm", "post_layernorm"),
)


def text_rows(vocab_size: int) -> Table:
    """The text tower of CLIP, and of SigLIP."""
    return (
        Row("tokens/table", "embeddings.token_embedding.weight", table(vocab_size)),
        Row("positions", "embeddings.position_embedding.weight", SAME),
        *CLIP_BLOCKS,
        *norm("final_norm", "final_layer_norm"),
    )


def rows(model: DualEncoderConfig) -> Table:
    return (
        *placed(IMAGE, "image/", "vision_model."),
        *placed(text_rows(model.text.vocab_size), "text/", "text_model."),
        Row("image_projection/kernel", "visual_projection.weight", LINEAR),
        Row("text_projection/kernel", "text_projection.weight", LINEAR),
        Row("log_scale", "logit_scale", SAME),
    )


def read(files: Files) -> Spec:
    config = files[CONFIG]
    vision, text = config["vision_config"], config["text_config"]
    preprocess, normalisation = images.read(files)
    eos_id = text["eos_token_id"]
    model = DualEncoderConfig(
        image=ViTConfig(
            **size_fields(vision),
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            pool="cls",
            embedding_norm=True,
            patch_bias=False,
            **normalisation,
        ),
        text=TextConfig(
            **size_fields(text),
            vocab_size=text["vocab_size"],
            context_len=text["max_position_embeddings"],
            causal=True,
            pool="eot",
            eos_id=None if eos_id == LARGEST_ID else eos_id,
        ),
        embed_dim=config["projection_dim"],
        image_projection="linear",
        text_projection="linear",
        log_scale=config["logit_scale_init_value"],
        logit_bias=None,
    )
    return Spec(model, preprocess)


def write(spec: Spec) -> Files:
    model = spec.model
    eos_id = LARGEST_ID if model.text.eos_id is None else model.text.eos_id
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": model.log_scale,
        "vision_config": {
            "model_type": "clip_vision_model",
            **written_size(model.image),
            "projection_dim": model.embed_dim,
            "image_size": model.image.image_size,
            "patch_size": model.image.patch_size,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **written_size(model.text),
            "projection_dim": model.embed_dim,
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_len,
            "eos_token_id": eos_id,
        },
    }
    return written_files(config, spec, {"processor_class": "CLIPProcessor"})


CLIP = Format("CLIPModel", "both", write, read, rows, ignored=(POSITION_IDS,))
