"""`SiglipModel`: SigLIP, and SigLIP 2 of a fixed resolution."""

from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.clip import text_rows
from mmjax.interop.huggingface.files import CONFIG, wants_mask, written_files
from mmjax.interop.huggingface.layers import (
    CLIP_BLOCKS,
    POSITION_IDS,
    fused_attention,
    linear,
    norm,
    size_fields,
    written_size,
)
from mmjax.interop.layouts import PATCHES, SAME, reshaped
from mmjax.interop.mapping import Row, Table, placed
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig

IMAGE: Table = (
    Row("stem/projection/kernel", "embeddings.patch_embedding.weight", PATCHES),
    Row("stem/projection/bias", "embeddings.patch_embedding.bias", SAME),
    Row("positions", "embeddings.position_embedding.weight", SAME),
    *CLIP_BLOCKS,
    *norm("final_norm", "post_layernorm"),
    Row("pool/probe", "head.probe", reshaped(1)),
    *fused_attention("pool/attention", "head.attention"),
    *norm("pool/norm", "head.layernorm"),
    *linear("pool/mlp/up", "head.mlp.fc1"),
    *linear("pool/mlp/down", "head.mlp.fc2"),
)


def rows(model: DualEncoderConfig) -> Table:
    return (
        *placed(IMAGE, "image/", "vision_model."),
        *placed(text_rows(model.text.vocab_size), "text/", "text_model."),
        *linear("text_projection", "text_model.head"),
        Row("log_scale", "logit_scale", reshaped(1)),
        Row("logit_bias", "logit_bias", reshaped(1)),
    )


def read(files: Files) -> Spec:
    vision, text = files[CONFIG]["vision_config"], files[CONFIG]["text_config"]
    preprocess, normalisation = images.read(files)
    model = DualEncoderConfig(
        image=ViTConfig(
            **size_fields(vision),
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            pool="map",
            **normalisation,
        ),
        text=TextConfig(
            **size_fields(text),
            vocab_size=text["vocab_size"],
            context_len=text["max_position_embeddings"],
            use_mask=wants_mask(files),
            pool="last",
        ),
        embed_dim=text.get("projection_size") or text["hidden_size"],
        image_projection="none",
        text_projection="biased",
    )
    return Spec(model, preprocess)


def write(spec: Spec) -> Files:
    model = spec.model
    config = {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {
            "model_type": "siglip_vision_model",
            **written_size(model.image),
            "image_size": model.image.image_size,
            "patch_size": model.image.patch_size,
        },
        "text_config": {
            "model_type": "siglip_text_model",
            **written_size(model.text),
            "projection_size": model.embed_dim,
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_len,
        },
    }
    return written_files(config, spec, {"processor_class": "SiglipProcessor"})


SIGLIP = Format("SiglipModel", "both", write, read, rows, ignored=(POSITION_IDS,))
