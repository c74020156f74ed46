"""`ResNetModel`: residual convolutions (He et al., 2016), as an image tower."""

import numpy as np

from mmjax.interop.formats import Files, Format, Spec, choice, inverted
from mmjax.interop.huggingface import images
from mmjax.interop.huggingface.files import CONFIG, written_files
from mmjax.interop.huggingface.layers import ACTIVATIONS
from mmjax.interop.layouts import CONVOLUTION, SAME, constant
from mmjax.interop.mapping import Ignored, Row, Table
from mmjax.models.resnet import ResNetConfig

NUM_UNITS = {"basic": 2, "bottleneck": 3}
"""Convolutions of a layer."""
NO_BATCHES = constant(np.zeros((), np.int64))
"""PyTorch counts the batches of a batch norm and does nothing with the number at this momentum."""


def unit(ours: str, theirs: str) -> Table:
    """A convolution and its batch norm."""
    norm = f"{theirs}.normalization"
    return (
        Row(f"{ours}/kernel", f"{theirs}.convolution.weight", CONVOLUTION),
        Row(f"{ours}/norm/scale", f"{norm}.weight", SAME),
        Row(f"{ours}/norm/bias", f"{norm}.bias", SAME),
        Row(f"{ours}/norm/running_mean", f"{norm}.running_mean", SAME),
        Row(f"{ours}/norm/running_variance", f"{norm}.running_var", SAME),
        Row((), f"{norm}.num_batches_tracked", NO_BATCHES),
    )


def rows(image: ResNetConfig) -> Table:
    layers = ((stage, layer) for stage, depth in enumerate(image.depths) for layer in range(depth))
    return (
        *unit("image/stem", "embedder.embedder"),
        *(row for stage, layer in layers for row in _layer(image, stage, layer)),
    )


def _layer(image: ResNetConfig, stage: int, layer: int) -> Table:
    ours, theirs = f"image/stages/{stage}/layers/{layer}", f"encoder.stages.{stage}.layers.{layer}"
    units = range(NUM_UNITS[image.layer])
    shortcut = unit(f"{ours}/shortcut", f"{theirs}.shortcut") if image.has_shortcut(stage, layer) else ()
    return (*shortcut, *(row for u in units for row in unit(f"{ours}/units/{u}", f"{theirs}.layer.{u}")))


def read(files: Files) -> Spec:
    config = files[CONFIG]
    preprocess, normalisation = images.read(files)
    image = ResNetConfig(
        image_size=224 if preprocess is None else preprocess.image_size,
        image_width=None if preprocess is None else preprocess.image_width,
        embedding_dim=config["embedding_size"],
        stage_dims=tuple(config["hidden_sizes"]),
        depths=tuple(config["depths"]),
        layer=config["layer_type"],
        downsample_in_first_stage=config["downsample_in_first_stage"],
        downsample_in_bottleneck=config["downsample_in_bottleneck"],
        activation=choice("hidden_act", config["hidden_act"], ACTIVATIONS),
        **normalisation,
    )
    return Spec(image, preprocess)


def write(spec: Spec) -> Files:
    image = spec.model
    config = {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "embedding_size": image.embedding_dim,
        "hidden_sizes": list(image.stage_dims),
        "depths": list(image.depths),
        "layer_type": image.layer,
        "downsample_in_first_stage": image.downsample_in_first_stage,
        "downsample_in_bottleneck": image.downsample_in_bottleneck,
        "hidden_act": inverted(ACTIVATIONS)[image.activation],
    }
    return written_files(config, spec)


RESNET = Format(
    "ResNetModel",
    "image",
    write,
    read,
    rows,
    images=(ResNetConfig,),
    prefix="resnet.",
    ignored=(Ignored(r"classifier\..*", "the head of a classifier is no part of a tower"),),
)
