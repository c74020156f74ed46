"""Two streams through layers that say who attends to whom, and the concatenation that may stand before them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmjax.serving.models.layers import Attention, Block, added_to_scores

STREAMS = ("text", "image")
Hidden = Mapping[str, Tensor | None]
"""What is added to the scores (b, 1, 1, s) of the tokens of "text", "image" and "both"; None hides nothing."""


class Streams(NamedTuple):
    """text (b, t, d) and image (b, p, d), each of its own width; None where a stream is not run."""

    text: Tensor | None
    image: Tensor | None


class Masks(NamedTuple):
    """Bool (b, t) and (b, p): True for the tokens that may be seen. None hides nothing."""

    text: Tensor | None = None
    image: Tensor | None = None


def both(streams: Streams) -> tuple[Tensor, Tensor]:
    """Text and image.

    Raises:
        ValueError: one of them is not there.
    """
    text, image = streams
    if text is None or image is None:
        raise ValueError("a layer that joins the streams was run on one of them alone: only towers can be")
    return text, image


def hidden_of(streams: Streams, masks: Masks) -> Hidden:
    """The masks as numbers that are added to scores."""
    hidden = {name: _added(getattr(streams, name), getattr(masks, name)) for name in STREAMS}
    unmasked = masks.text is None and masks.image is None
    if streams.text is None or streams.image is None or unmasked:
        return {**hidden, "both": None}
    each = [_seen(x, mask) for x, mask in zip(both(streams), masks, strict=True)]
    return {**hidden, "both": added_to_scores(torch.cat(each, dim=1), streams.text.dtype)}


def _added(x: Tensor | None, mask: Tensor | None) -> Tensor | None:
    return None if x is None or mask is None else added_to_scores(mask, x.dtype)


def _seen(x: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


class BimodalLayer(nn.Module):
    """Each stream attends first, both from what came in, and then has its feed-forward part.

    layer: what the `text` and the `image` attend to ("nothing", "text", "image" or "both"), whether they have a
        feed-forward part, and whether both use the same parameters.
    """

    def __init__(self, layer: SimpleNamespace, config: SimpleNamespace):
        super().__init__()
        self.layer = layer
        self.is_joint = layer.shared and layer.text == layer.image == "both" and layer.text_mlp and layer.image_mlp
        if layer.shared:
            self.shared = Block(_block(layer, "text", config))
            return
        for name in STREAMS:
            if getattr(layer, name) != "nothing" or getattr(layer, f"{name}_mlp"):
                self.add_module(name, Block(_block(layer, name, config)))

    def forward(self, streams: Streams, hidden: Hidden) -> Streams:
        if not self.is_joint:
            return Streams(self._stream("text", streams, hidden), self._stream("image", streams, hidden))
        text, image = both(streams)
        joint = self.shared(torch.cat([text, image], dim=1), hidden["both"])
        return Streams(joint[:, : text.shape[1]], joint[:, text.shape[1] :])

    def _stream(self, name: str, streams: Streams, hidden: Hidden) -> Tensor | None:
        x: Tensor | None = getattr(streams, name)
        block: Block | None = getattr(self, "shared" if self.layer.shared else name, None)
        if x is None or block is None:
            return x
        sees = getattr(self.layer, name)
        if sees in ("nothing", name):
            return block(x, hidden[name])
        source = torch.cat(both(streams), dim=1) if sees == "both" else getattr(streams, sees)
        if source is None:
            raise ValueError(f"a layer of the {name} reads the {sees}, which is not run: only towers can be run alone")
        return block(x, hidden[sees], source)


def _block(layer: SimpleNamespace, name: str, config: SimpleNamespace) -> SimpleNamespace:
    """The config of a stream's block in one layer."""
    own, sees = getattr(config, name), getattr(layer, name)
    changes = {
        "attention": sees != "nothing",
        "mlp": getattr(layer, f"{name}_mlp"),
        "source_width": getattr(config, sees).width if sees in STREAMS else own.width,
        "inner_width": layer.inner_width or own.width,
        "num_heads": layer.num_heads or own.num_heads,
    }
    return SimpleNamespace(**{**vars(own), **changes})


class Layers(nn.Module):
    """The layers of a group, once."""

    def __init__(self, group: SimpleNamespace, config: SimpleNamespace):
        super().__init__()
        self.layers = nn.ModuleList(BimodalLayer(layer, config) for layer in group.layers)

    def forward(self, streams: Streams, hidden: Hidden) -> Streams:
        for layer in self.layers:
            streams = layer(streams, hidden)
        return streams


class Group(nn.ModuleList):
    """Layers one after the other, and that as often as the group repeats."""

    def __init__(self, group: SimpleNamespace, config: SimpleNamespace):
        super().__init__(Layers(group, config) for _ in range(group.repeat))

    def forward(self, streams: Streams, hidden: Hidden) -> Streams:
        for layers in self:
            streams = layers(streams, hidden)
        return streams


class Trunk(nn.Module):
    """All groups, one after the other."""

    def __init__(self, config: SimpleNamespace):
        super().__init__()
        self.groups = nn.ModuleList(Group(group, config) for group in config.groups)

    def forward(self, streams: Streams, masks: Masks = Masks()) -> Streams:
        hidden = hidden_of(streams, masks)
        for group in self.groups:
            streams = group(streams, hidden)
        return streams


class Concat(nn.Module):
    """[h_w ; A h_v] and [h_v ; A' h_w], side by side: streams of twice their width."""

    def __init__(self, config: SimpleNamespace, towers: SimpleNamespace):
        super().__init__()
        text, image = towers.text.width, towers.image.width
        self.text = Attention(text, config.num_heads, source_width=image, inner_width=text)
        self.image = Attention(image, config.num_heads, source_width=text, inner_width=image)

    def forward(self, streams: Streams, masks: Masks) -> Streams:
        """Text (b, t, d) and image (b, p, d) -> both with what they read behind what they have."""
        (text, image), hidden = both(streams), hidden_of(streams, masks)
        read_by_text = self.text(text, image, hidden["image"])
        read_by_image = self.image(image, text, hidden["text"])
        return Streams(torch.cat([text, read_by_text], dim=-1), torch.cat([image, read_by_image], dim=-1))
