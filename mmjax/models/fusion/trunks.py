"""The layers of published vision-language models, as data for `nn.bimodal.Trunk`."""

from collections.abc import Sequence

from mmjax.nn.bimodal import Group, Layer, grouped

TEXT = Layer(text="text", image_mlp=False)
IMAGE = Layer(image="image", text_mlp=False)
EACH_ITS_OWN = Layer(text="text", image="image")
JOINT = Layer(text="both", image="both", shared=True)


def text_stack(depth: int) -> tuple[Group, ...]:
    """BERT: the text stream alone (Devlin et al., 2019)."""
    return (Group((TEXT,), depth),)


def single_stream(depth: int) -> tuple[Group, ...]:
    """UNITER (Chen et al., 2020), VisualBERT (Li et al., 2019), ViLT (Kim et al., 2021): one sequence of all tokens."""
    return (Group((JOINT,), depth),)


def vilbert(
    text_depth: int,
    image_depth: int,
    text_before: Sequence[int],
    image_before: Sequence[int],
    inner_width: int,
    num_heads: int,
) -> tuple[Group, ...]:
    """ViLBERT (Lu et al., 2019, figure 2): co-attentions between layers of either stream.

    `text_before[i]`, `image_before[i]`: how many layers of that stream come before co-attention i, as
    `t_biattention_id` and `v_biattention_id` of the released code say. What is between two of them is paired from the
    first on.
    """
    connection = Layer(text="image", image="text", inner_width=inner_width, num_heads=num_heads)
    layers: list[Layer] = []
    text_done = image_done = 0
    for text_end, image_end in zip((*text_before, text_depth), (*image_before, image_depth), strict=True):
        layers += _side_by_side(text_end - text_done, image_end - image_done)
        text_done, image_done = text_end, image_end
        layers.append(connection)
    return grouped(layers[:-1])


def _side_by_side(num_text: int, num_image: int) -> list[Layer]:
    paired = min(num_text, num_image)
    return [EACH_ITS_OWN] * paired + [TEXT] * (num_text - paired) + [IMAGE] * (num_image - paired)


def lxmert(language_depth: int, vision_depth: int, cross_depth: int) -> tuple[Group, ...]:
    """LXMERT (Tan and Bansal, 2019, section 2.2): its cross-attention has the same parameters in both directions."""
    cross = Layer(text="image", image="text", text_mlp=False, image_mlp=False, shared=True)
    ends = (Group((TEXT,), language_depth), Group((IMAGE,), vision_depth))
    return (*ends, Group((cross, EACH_ITS_OWN), cross_depth))


def albef(text_depth: int, fusion_depth: int) -> tuple[Group, ...]:
    """ALBEF's text encoder (Li et al., 2021, section 3.1): its last layers also attend to the image, which stays."""
    own = Layer(text="text", text_mlp=False, image_mlp=False)
    cross = Layer(text="image", image_mlp=False)
    return (Group((TEXT,), text_depth - fusion_depth), Group((own, cross), fusion_depth))


def parted(groups: tuple[Group, ...]) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
    """The groups before a stream first sees the other one, and the rest."""
    for number, group in enumerate(groups):
        if not all(layer.is_separate for layer in group.layers):
            return groups[:number], groups[number:]
    return groups, ()


def before_connections(layers: Sequence[Layer]) -> tuple[list[int], list[int]]:
    """How many layers of text and of image come before each co-attention: what `vilbert` was given."""
    text = image = 0
    before: tuple[list[int], list[int]] = ([], [])
    for layer in layers:
        if layer.text == "image":
            before[0].append(text)
            before[1].append(image)
        text, image = text + (layer.text == "text"), image + (layer.image == "image")
    return before
