"""Checkpoints of big_vision: `.npz` files of a ViT, or of the two towers of SigLIP and LiT.

Such a file holds arrays alone. What the model is, is read off their names and shapes; what these do not tell is as
big_vision has it by default: GELU in its tanh approximation, norms with an epsilon of 1e-6, a ViT that
averages its patches where it has no class token and no probe, and a text tower that is not causal and takes its last
token where it has no probe.
"""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.errors import UserError
from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.layouts import SAME, Layout, Shape, expect, flattened_patches, reshaped, table, with_heads
from mmjax.interop.layouts import Arrays as Several
from mmjax.interop.mapping import Ignored, Row, Table, placed
from mmjax.interop.npz import Arrays
from mmjax.models.dual_encoder import DualEncoderConfig, Projection
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig

ROOT = "params/"
"""Before each parameter of a checkpoint that was saved in training; beside it lies the state of the optimizer."""
IMAGE, TEXT = "img/", "txt/"

OLD_NAMES = (
    (re.compile(r"(.*)Transformer/(posembed_input/)?pos_embedding"), r"\1pos_embedding"),
    (re.compile(r"(.*encoderblock.*)/MultiHeadDotProductAttention_1/(.*)"), r"\1/MultiHeadDotProductAttention_0/\2"),
    (re.compile(r"(.*encoderblock.*)/LayerNorm_2/(.*)"), r"\1/LayerNorm_1/\2"),
    (re.compile(r"(.*encoderblock.*)/MlpBlock_3/(.*)"), r"\1/MlpBlock_0/\2"),
)
"""Names in the first ViT checkpoints (Dosovitskiy et al., 2021; Steiner et al., 2021), and what they became."""


def present_name(name: str) -> str:
    """What big_vision calls a parameter today."""
    for pattern, replacement in OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


@contextmanager
def opened_file(path: Path) -> Iterator[tuple[Format, Spec, Arrays]]:
    """The model in a file and its arrays.

    Raises:
        UserError: there is none that we have a counterpart for.
    """
    with Arrays(path, ROOT, present_name) as arrays:
        yield *understood(arrays), arrays


class Stack(NamedTuple):
    """The blocks of a tower: where they are, and whether each array holds the same weight of all of them."""

    place: str
    is_scanned: bool

    @property
    def names(self) -> str:
        return f"{self.place}encoderblock/" if self.is_scanned else f"{self.place}encoderblock_{{l}}/"

    def sizes(self, arrays: Arrays) -> dict[str, Any]:
        """The fields of a tower that they decide."""
        first = self.names.replace("{l}", "0")
        *layers, width, num_heads, _ = arrays.shape(f"{first}MultiHeadDotProductAttention_0/query/kernel")
        mlp_dim = arrays.shape(f"{first}MlpBlock_0/Dense_0/kernel")[-1]
        depth = layers[0] if self.is_scanned else self._num_blocks(arrays)
        return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}

    def _num_blocks(self, arrays: Arrays) -> int:
        pattern = re.compile(re.escape(self.place) + r"encoderblock_(\d+)/LayerNorm_0/scale")
        return sum(pattern.fullmatch(name) is not None for name in arrays)


def _stack(arrays: Arrays, place: str) -> Stack:
    return Stack(place, f"{place}encoderblock/LayerNorm_0/scale" in arrays)


def understood(arrays: Arrays) -> tuple[Format, Spec]:
    """What a file holds: two towers, or one ViT.

    Raises:
        UserError: neither, or a ViT whose sizes cannot be told.
    """
    if any(name.startswith(TEXT) for name in arrays):
        return _two_towers(arrays)
    image = _image(arrays, "")
    heads = Ignored(r"(head|pre_logits)/.*", "the head of a classifier is no part of a tower")
    rows = placed(_image_rows(arrays, "", image), "image/", "")
    return _format("ViT of big_vision", "image", rows, heads), Spec(image, None)


def _two_towers(arrays: Arrays) -> tuple[Format, Spec]:
    image, text = _image(arrays, IMAGE), _text(arrays)
    model = DualEncoderConfig(
        image=image,
        text=text,
        embed_dim=arrays.shape(f"{TEXT}head/kernel")[-1] if f"{TEXT}head/kernel" in arrays else text.width,
        image_projection=_projection(arrays, IMAGE),
        text_projection=_projection(arrays, TEXT),
        logit_bias=0.0 if "b" in arrays else None,
    )
    rows = (
        *placed(_image_rows(arrays, IMAGE, image), "image/", IMAGE),
        *placed(_text_rows(arrays, text), "text/", TEXT),
        *_projection_rows("image_projection", f"{IMAGE}head", model.image_projection),
        *_projection_rows("text_projection", f"{TEXT}head", model.text_projection),
        Row("log_scale", "t", reshaped(1)),
        *((Row("logit_bias", "b", reshaped(1)),) if "b" in arrays else ()),
    )
    return _format("two towers of big_vision", "both", rows), Spec(model, None)


def _format(name: str, part: Any, rows: Table, *ignored: Ignored) -> Format:
    """A format of one file: its names depend on how it was saved, and it is not written."""
    return Format(name, part, _not_written, _not_read, lambda model: rows, ignored=ignored)


def _not_written(spec: Spec) -> Files:
    raise UserError("big_vision's files are read alone: export the model with --to huggingface")


def _not_read(files: Files) -> Spec:
    raise UserError("big_vision's files bring no config: open them as big_vision:FILE")


def _image(arrays: Arrays, prefix: str) -> ViTConfig:
    rows, columns, _, _ = arrays.shape(f"{prefix}embedding/kernel")
    if rows != columns:
        raise UserError(f"{arrays.path} has patches of {rows} x {columns}: choose a checkpoint of square ones")
    grid = _grid(arrays, prefix)
    pool: Any = "cls" if f"{prefix}cls" in arrays else "map" if f"{prefix}MAPHead_0/probe" in arrays else "mean"
    return ViTConfig(
        **_stack(arrays, f"{prefix}Transformer/").sizes(arrays),
        patch_size=rows,
        # Fixed positions are of no certain size.
        **({"position": "sincos2d"} if grid is None else {"image_size": grid * rows}),
        pool=pool,
    )


def _grid(arrays: Arrays, prefix: str) -> int | None:
    """Patches a side, by the position table; None without one."""
    name = f"{prefix}pos_embedding"
    if name not in arrays:
        return None
    num_rows = arrays.shape(name)[1]
    num_patches = num_rows - (f"{prefix}cls" in arrays and not _is_square(num_rows))
    if not _is_square(num_patches):
        raise UserError(f"{arrays.path} has {num_patches} patches, which are no square: cut its table to a square grid")
    return math.isqrt(num_patches)


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _text(arrays: Arrays) -> TextConfig:
    vocab_size, _ = arrays.shape(f"{TEXT}Embed_0/embedding")
    return TextConfig(
        **_stack(arrays, f"{TEXT}Encoder_0/").sizes(arrays),
        vocab_size=vocab_size,
        context_len=arrays.shape(f"{TEXT}pos_embedding")[1],
        pool="map" if f"{TEXT}MAPHead_0/probe" in arrays else "last",
    )


def _projection(arrays: Arrays, prefix: str) -> Projection:
    if f"{prefix}head/kernel" not in arrays:
        return "none"
    return "biased" if f"{prefix}head/bias" in arrays else "linear"


def _projection_rows(ours: str, theirs: str, projection: Projection) -> Table:
    return {"none": (), "linear": _linear(ours, theirs)[:1], "biased": _linear(ours, theirs)}[projection]


def _linear(ours: str, theirs: str, kernel: Layout = SAME, bias: Layout = SAME) -> Table:
    """Both sides multiply from the right."""
    return Row(f"{ours}/kernel", f"{theirs}/kernel", kernel), Row(f"{ours}/bias", f"{theirs}/bias", bias)


def _norm(ours: str, theirs: str) -> Table:
    return tuple(Row(f"{ours}/{leaf}", f"{theirs}/{leaf}", SAME) for leaf in ("scale", "bias"))


MLP: Table = (*_linear("mlp/up", "MlpBlock_0/Dense_0"), *_linear("mlp/down", "MlpBlock_0/Dense_1"))


def _attention(num_heads: int) -> Table:
    ours, theirs, heads = "attention", "MultiHeadDotProductAttention_0", with_heads(num_heads)
    inward = (_linear(f"{ours}/{name}", f"{theirs}/{name}", heads, heads) for name in ("query", "key", "value"))
    return (*itertools.chain(*inward), *_linear(f"{ours}/out", f"{theirs}/out", with_heads(num_heads, num_behind=1)))


def _layer(num_heads: int) -> Table:
    attention = _attention(num_heads)
    return (*_norm("attention_norm", "LayerNorm_0"), *attention, *_norm("mlp_norm", "LayerNorm_1"), *MLP)


def _map_head(num_heads: int) -> Table:
    probe = Row("probe", "probe", reshaped(1))
    return placed((probe, *_attention(num_heads), *_norm("norm", "LayerNorm_0"), *MLP), "pool/", "MAPHead_0/")


def _image_rows(arrays: Arrays, prefix: str, image: ViTConfig) -> Table:
    return (
        Row("stem/projection/kernel", "embedding/kernel", flattened_patches()),
        Row("stem/projection/bias", "embedding/bias", SAME),
        *((Row("class_token", "cls", reshaped(1, 1)),) if image.pool == "cls" else ()),
        *_position_rows(arrays, prefix, image),
        *placed(_layer(image.num_heads), "blocks/", _stack(arrays, f"{prefix}Transformer/").names.removeprefix(prefix)),
        *_norm("final_norm", "Transformer/encoder_norm"),
        *(_map_head(image.num_heads) if image.pool == "map" else ()),
    )


def _position_rows(arrays: Arrays, prefix: str, image: ViTConfig) -> Table:
    if image.position == "sincos2d":
        return ()
    has_own = arrays.shape(f"{prefix}pos_embedding")[1] == image.num_tokens
    return (Row("positions", "pos_embedding", reshaped(1) if has_own else POSITIONS_BEHIND_CLASS),)


def _positions_to_ours(theirs: np.ndarray, shapes: tuple[Shape, ...]) -> Several:
    ((num_tokens, width),) = shapes
    expect(theirs, (1, num_tokens - 1, width))
    return (np.pad(theirs[0], ((1, 0), (0, 0))),)


POSITIONS_BEHIND_CLASS = Layout(lambda ours: ours[0][None, 1:], _positions_to_ours)
"""Ours begins with a row of zeros: in theirs (1, p, d) the class token has no position."""


def _text_rows(arrays: Arrays, text: TextConfig) -> Table:
    return (
        Row("tokens/table", "Embed_0/embedding", table(text.vocab_size)),
        Row("positions", "pos_embedding", reshaped(1)),
        *placed(_layer(text.num_heads), "blocks/", _stack(arrays, f"{TEXT}Encoder_0/").names.removeprefix(TEXT)),
        *_norm("final_norm", "Encoder_0/encoder_norm"),
        *(_map_head(text.num_heads) if text.pool == "map" else ()),
    )
