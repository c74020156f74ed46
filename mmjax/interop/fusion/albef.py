"""ALBEF under the names of its authors' `ALBEF` for pretraining (Li et al., 2021): timm's ViT and a BERT whose last
layers have cross-attention. Momentum copies and queues are what training carries from step to step: an import leaves
them out, an export has them as their class makes them where training starts, and so its class loads it with
`strict=True`. The queues hold random directions of a fixed seed."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mmjax.interop.fusion.fields import read_size, read_vocabulary, written_size, written_vocabulary
from mmjax.interop.fusion.files import Config, fusion_format
from mmjax.interop.fusion.trunk import Part, layers_of, text_input_rows, token_head_rows, trunk_rows
from mmjax.interop.huggingface.bert import LAYER
from mmjax.interop.huggingface.layers import POSITION_IDS, attention, linear, norm
from mmjax.interop.layouts import (
    LINEAR,
    PATCHES,
    SAME,
    Arrays,
    Layout,
    Shape,
    constant,
    expect,
    fused,
    reshaped,
)
from mmjax.interop.mapping import Copy, Ignored, Row, Table
from mmjax.models.fusion import published
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.nn.bimodal import Layer

IMAGE, TEXT = "visual_encoder.", "text_encoder."
TIED = (
    Copy(f"{TEXT}cls.predictions.decoder.weight", of=f"{TEXT}bert.embeddings.word_embeddings.weight", written=True),
    Copy(f"{TEXT}cls.predictions.decoder.bias", of=f"{TEXT}cls.predictions.bias", written=True),
)
MOMENTUM = re.compile(r"(visual_encoder|text_encoder|vision_proj|text_proj)\.(.*)")
"""Tensors of which training keeps a momentum copy."""
QUEUE_LEN = 65536
"""Of the queues that the authors' configs for pretraining ask for."""
TRAINING = Ignored(r".*_m\..*|image_queue|text_queue|queue_ptr", "training carries them from step to step")

IMAGE_LAYER: Table = (
    *norm("attention_norm", "norm1"),
    Row(tuple(f"attention/{name}/kernel" for name in ("query", "key", "value")), "attn.qkv.weight", fused(LINEAR)),
    Row(tuple(f"attention/{name}/bias" for name in ("query", "key", "value")), "attn.qkv.bias", fused(SAME)),
    *linear("attention/out", "attn.proj"),
    *norm("mlp_norm", "norm2"),
    *linear("mlp/up", "mlp.fc1"),
    *linear("mlp/down", "mlp.fc2"),
)
SELF: Table = tuple(row for row in LAYER if row.theirs.startswith("attention."))
CROSS: Table = (
    *attention(
        "attention",
        "crossattention.self.query",
        "crossattention.self.key",
        "crossattention.self.value",
        "crossattention.output.dense",
    ),
    *norm("attention_norm", "crossattention.output.LayerNorm"),
    *(row for row in LAYER if not row.theirs.startswith("attention.")),
)


def _temperature() -> Layout:
    """Ours is the logarithm of the scale, theirs the temperature, its inverse."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        (log_scale,) = ours
        return np.exp(-log_scale)

    def to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Arrays:
        (shape,) = shapes
        expect(theirs, shape)
        return (-np.log(theirs),)

    return Layout(to_theirs, to_ours)


def rows(model: FusionConfig) -> Table:
    depth = sum(layer.text == "text" for layer in layers_of(model.towers))
    # Layers with cross-attention are two of ours, and numbered on from those without.
    counts = Counter({"cross": depth})
    heads = tuple(Row(row.ours, TEXT + row.theirs, row.layout) for row in token_head_rows(model.text))
    return (
        *text_input_rows(model.text, f"{TEXT}bert.embeddings."),
        Row("image/stem/projection/kernel", f"{IMAGE}patch_embed.proj.weight", PATCHES),
        Row("image/stem/projection/bias", f"{IMAGE}patch_embed.proj.bias", SAME),
        Row("image/class_token", f"{IMAGE}cls_token", reshaped(1, 1)),
        Row("image/positions", f"{IMAGE}pos_embed", reshaped(1)),
        *trunk_rows("towers", model.towers.groups, _parts, counts),
        *norm("image_tower_norm", f"{IMAGE}norm"),
        *trunk_rows("fusion", model.fusion.groups, _parts, counts),
        *heads,
        *linear("pair_head", "itm_head"),
        *linear("text_projection", "text_proj"),
        *linear("image_projection", "vision_proj"),
        Row("log_scale", "temp", _temperature()),
    )


def momentum_rows(model: FusionConfig) -> Table:
    """The copies that the authors' `copy_params` makes, tied tensors too."""
    table = rows(model)
    by_name = {row.theirs: row for row in table}
    tied = (replace(by_name[copy.of], theirs=copy.theirs) for copy in TIED)
    return tuple(
        replace(row, theirs=MOMENTUM.sub(r"\1_m.\2", row.theirs))
        for row in (*table, *tied)
        if MOMENTUM.fullmatch(row.theirs)
    )


def carried_rows(model: FusionConfig) -> Table:
    """What training carries beside weights: queues of embeddings, a place in them; and position ids."""
    positions = constant(np.arange(model.text.context_len)[None])
    return (
        *(Row((), f"{name}_queue", _queue(model.embed_dim, seed)) for seed, name in enumerate(("image", "text"))),
        Row((), "queue_ptr", constant(np.zeros(1, np.int64))),
        *(Row((), f"text_encoder{copy}.bert.embeddings.position_ids", positions) for copy in ("", "_m")),
    )


def _queue(embed_dim: int, seed: int) -> Layout:
    """Random directions, drawn when they are written: at the published size they are 64 MiB."""

    def to_theirs(ours: Arrays) -> np.ndarray:
        columns = np.random.default_rng(seed).standard_normal((embed_dim, QUEUE_LEN), np.float32)
        return columns / np.linalg.norm(columns, axis=0)

    return Layout(to_theirs, lambda theirs, shapes: ())


def _parts(layer: Layer) -> Iterable[Part]:
    theirs = f"{TEXT}bert.encoder.layer.{{l}}."
    if layer.image == "image":
        yield Part("image", f"{IMAGE}blocks.{{l}}.", IMAGE_LAYER, "image")
    if layer.text == "text":
        yield Part("text", theirs, LAYER if layer.text_mlp else SELF, "text")
    if layer.text == "image":
        yield Part("text", theirs, CROSS, "cross")


def read(config: Config) -> FusionConfig:
    """The authors' sizes are spread over their code; ours are one file."""
    return published.albef(
        read_size(config),
        read_size(config["vision_config"]),
        read_vocabulary(config),
        fusion_depth=config["num_hidden_layers"] - config["fusion_layer"],
        image_side=config["vision_config"]["image_size"],
        patch_size=config["vision_config"]["patch_size"],
        embed_dim=config["embed_dim"],
    )


def write(model: FusionConfig) -> Config:
    assert isinstance(model.image, PatchInputConfig)
    towers = layers_of(model.towers)
    text_depth = sum(layer.text == "text" for layer in towers)
    fusion_depth = sum(layer.text == "image" for layer in layers_of(model.fusion))
    vision = written_size(model.towers.image, sum(layer.image == "image" for layer in towers))
    return {
        **written_size(model.towers.text, text_depth + fusion_depth),
        **written_vocabulary(model.text),
        "fusion_layer": text_depth,
        "embed_dim": model.embed_dim,
        "vision_config": {
            **vision,
            "image_size": model.image.image_size,
            "patch_size": model.image.patch_size,
        },
    }


ALBEF = fusion_format(
    "ALBEF",
    "albef",
    write,
    read,
    rows,
    images=(PatchInputConfig,),
    ignored=(TRAINING, POSITION_IDS),
    copies=TIED,
    unused=carried_rows,
    again=momentum_rows,
)
