"""Two streams, text and image, through layers that say who attends to whom: data, not code.

The layers of ViLBERT, LXMERT, UNITER, VisualBERT, ViLT and ALBEF are special cases, as Bugliarello et al. (2021,
"Multimodal Pretraining Unmasked", section 3) showed with gates on the four attentions text-to-text, text-to-image,
image-to-text and image-to-image, and on the feed-forward parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mmjax.errors import UserError
from mmjax.nn.attention import source_mask
from mmjax.nn.block import Block, BlockConfig
from mmjax.nn.dropout import split
from mmjax.nn.module import Module
from mmjax.nn.stack import Remat, StackConfig, repeated, scan
from mmjax.types import Array, Key

Sees = Literal["nothing", "text", "image", "both"]
Name = Literal["text", "image"]
STREAMS: tuple[Name, ...] = ("text", "image")


@dataclass(frozen=True)
class Layer:
    """One layer of both streams. Each attends first, both from what came in, and then has its feed-forward part.

    text, image: what the queries of that stream attend to, by one softmax; "nothing" leaves the attention out.
    text_mlp, image_mlp: whether the stream has a feed-forward part.
    shared: both streams use the same parameters, also those of the norms.
    inner_width, num_heads: of the attention; 0 is what the querying stream has.

    Raises:
        UserError: the streams share parameters that one of them has no use for.
    """

    text: Sees = "nothing"
    image: Sees = "nothing"
    text_mlp: bool = True
    image_mlp: bool = True
    shared: bool = False
    inner_width: int = 0
    num_heads: int = 0

    def __post_init__(self) -> None:
        attends = (self.text != "nothing", self.image != "nothing")
        if self.shared and (len(set(attends)) > 1 or self.text_mlp != self.image_mlp):
            raise UserError(f"{self} shares what only one stream has: give both an attention, an MLP, or neither")

    @property
    def is_separate(self) -> bool:
        """Whether neither stream sees the other."""
        return self.text in ("nothing", "text") and self.image in ("nothing", "image")

    @property
    def is_joint(self) -> bool:
        """Whether it is a plain layer over the tokens of both streams together."""
        return self.shared and (self.text, self.image) == ("both", "both") and self.text_mlp and self.image_mlp


@dataclass(frozen=True)
class Group:
    """Layers one after the other, and that as often as `repeat` says; the repeats are held stacked and scanned over."""

    layers: tuple[Layer, ...]
    repeat: int = 1


@dataclass(frozen=True)
class TrunkConfig:
    """Blocks of either stream, of which layers take what they need, and the groups of layers.

    remat, unroll: of each group, see `StackConfig`.

    Raises:
        UserError: streams that differ share parameters, streams of two widths are attended to together, or the heads of
            an attention do not divide its width.
    """

    text: BlockConfig
    image: BlockConfig
    groups: tuple[Group, ...]
    remat: Remat = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        for layer in (layer for group in self.groups for layer in group.layers):
            if layer.shared and self.text != self.image:
                raise UserError(f"{layer} shares parameters, but the blocks of text and image differ: make them equal")
            if "both" in (layer.text, layer.image) and self.text.width != self.image.width:
                widths = f"{self.text.width} (text) and {self.image.width} (image)"
                raise UserError(f"{layer} attends to streams of widths {widths} together: make them equal")
            for name in STREAMS:
                _check_heads(_block(layer, name, self))


class Streams(NamedTuple):
    """text (b, t, d) and image (b, p, d), each of its own width; None where a stream is not run.

    Layers in which no stream sees the other can be run on one of them alone, with the same result.
    """

    text: Array | None
    image: Array | None


class Masks(NamedTuple):
    """Bool (b, t) and (b, p): True for the tokens that may be seen. None hides nothing."""

    text: Array | None = None
    image: Array | None = None


def grouped(layers: Sequence[Layer], max_period: int = 2) -> tuple[Group, ...]:
    """The same layers with what repeats gathered, first come first, in periods of at most `max_period` layers."""
    groups: list[Group] = []
    rest = tuple(layers)
    while rest:
        period, repeat = max(
            ((period, _repeats(rest, period)) for period in range(1, max_period + 1)),
            key=lambda found: (found[0] * found[1] if found[1] > 1 else 1, -found[0]),
        )
        groups.append(Group(rest[:period], repeat))
        rest = rest[period * repeat :]
    return tuple(groups)


def _repeats(layers: tuple[Layer, ...], period: int) -> int:
    count = 1
    while layers[count * period : (count + 1) * period] == layers[:period]:
        count += 1
    return count


class BimodalLayer(Module):
    """See `Layer`."""

    def __init__(self, layer: Layer, config: TrunkConfig, key: Key):
        self.layer = layer
        text_key, image_key = jax.random.split(key)
        if layer.shared:
            self.shared = Block(_block(layer, "text", config), text_key)
            return
        if layer.text != "nothing" or layer.text_mlp:
            self.text = Block(_block(layer, "text", config), text_key)
        if layer.image != "nothing" or layer.image_mlp:
            self.image = Block(_block(layer, "image", config), image_key)

    def __call__(self, streams: Streams, masks: Masks, key: Key | None = None) -> Streams:
        text_key, image_key = split(key, 2)
        if self.layer.is_joint:
            return self._joint(streams, masks, text_key)
        return Streams(
            self._stream("text", streams, masks, text_key),
            self._stream("image", streams, masks, image_key),
        )

    def _joint(self, streams: Streams, masks: Masks, key: Key | None) -> Streams:
        """As below, with fewer and larger products."""
        source, mask = _joined(streams, masks)
        joint, text_len = self.shared(source, mask, None, key), both(streams)[0].shape[1]
        return Streams(joint[:, :text_len], joint[:, text_len:])

    def _stream(self, name: Name, streams: Streams, masks: Masks, key: Key | None) -> Array | None:
        x: Array | None = getattr(streams, name)
        block: Block | None = getattr(self, "shared" if self.layer.shared else name, None)
        if x is None or block is None:
            return x
        sees: Sees = getattr(self.layer, name)
        if sees == "nothing":
            return block(x, None, None, key)
        source, mask = _source(sees, streams, masks)
        if source is None:
            raise ValueError(f"{self.layer} reads a stream that is not run: only towers can be run on one alone")
        return block(x, mask, None, key, None if sees == name else source)


def _block(layer: Layer, name: Name, config: TrunkConfig) -> BlockConfig:
    own: BlockConfig = getattr(config, name)
    sees: Sees = getattr(layer, name)
    source = config.image if sees == "image" else config.text if sees == "text" else own
    return replace(
        own,
        attention=sees != "nothing",
        mlp=getattr(layer, f"{name}_mlp"),
        source_width=source.width,
        inner_width=layer.inner_width or own.width,
        num_heads=layer.num_heads or own.num_heads,
    )


def _check_heads(block: BlockConfig) -> None:
    width = block.inner_width or block.width
    if block.attention and width % block.num_heads:
        raise UserError(f"num_heads {block.num_heads} does not divide the attention's width {width}: change either")


def both(streams: Streams) -> tuple[Array, Array]:
    """Text and image.

    Raises:
        ValueError: one of them is not there.
    """
    text, image = streams
    if text is None or image is None:
        raise ValueError("a layer that joins the streams was run on one of them alone: only towers can be")
    return text, image


def _source(sees: Sees, streams: Streams, masks: Masks) -> tuple[Array | None, Array | None]:
    """What is attended to, and its mask (b, 1, 1, s)."""
    if sees == "both":
        return _joined(streams, masks)
    mask: Array | None = getattr(masks, sees)
    return getattr(streams, sees), None if mask is None else source_mask(mask)


def _joined(streams: Streams, masks: Masks) -> tuple[Array, Array | None]:
    """Both streams side by side, and their mask."""
    text, image = both(streams)
    joint = jnp.concatenate([text, image], axis=1)
    if masks.text is None and masks.image is None:
        return joint, None
    each = [_mask(masks.text, text), _mask(masks.image, image)]
    return joint, source_mask(jnp.concatenate(each, axis=1))


def _mask(mask: Array | None, x: Array) -> Array:
    return jnp.ones_like(x[..., 0], bool) if mask is None else mask


class Layers(Module):
    """The layers of a group, once."""

    def __init__(self, group: Group, config: TrunkConfig, key: Key):
        keys = jax.random.split(key, len(group.layers))
        self.layers = nnx.List(
            [BimodalLayer(layer, config, key) for layer, key in zip(group.layers, keys, strict=True)]
        )

    def __call__(self, streams: Streams, masks: Masks, key: Key | None = None) -> Streams:
        for layer, layer_key in zip(self.layers, split(key, len(self.layers)), strict=True):
            streams = layer(streams, masks, layer_key)
        return streams


def _repeated(group: Group, key: Key, config: TrunkConfig) -> Layers:
    return repeated(lambda key: Layers(group, config, key), group.repeat, key)


class Trunk(Module):
    """All groups, one after the other."""

    def __init__(self, config: TrunkConfig, key: Key):
        self.config = config
        keys = jax.random.split(key, len(config.groups))
        self.groups = nnx.List([_repeated(*pair, config) for pair in zip(config.groups, keys, strict=True)])

    def __call__(self, streams: Streams, masks: Masks = Masks(), key: Key | None = None) -> Streams:
        """The streams after the last layer; `key` switches dropout on, and gives each layer its own."""
        for group, layers, group_key in zip(self.config.groups, self.groups, split(key, len(self.groups)), strict=True):
            streams = self._run(group, layers, streams, masks, group_key)
        return streams

    def _run(self, group: Group, layers: Layers, streams: Streams, masks: Masks, key: Key | None) -> Streams:
        def once(layers: Layers, streams: Streams, rate: None, key: Key | None) -> Streams:
            return layers(streams, masks, key)

        how = StackConfig(group.repeat, remat=self.config.remat, unroll=self.config.unroll)
        return scan(once, layers, how, streams, key)
