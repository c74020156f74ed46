"""The layers of a trunk as the numbered layers of a reference implementation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from mmjax.interop.huggingface.layers import linear, norm
from mmjax.interop.layouts import SAME, table
from mmjax.interop.mapping import Row, Table, numbered, placed
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.text_input import TextInputConfig
from mmjax.nn.bimodal import Group, Layer, TrunkConfig


class Part(NamedTuple):
    """What one of our layers holds of one of theirs.

    ours: "text", "image" or "shared".
    theirs: prefix of the foreign names, with the number of the layer in it.
    rows: of a block.
    counter: which count the number comes from; layers of one kind are numbered in the order in which they run.
    """

    ours: str
    theirs: str
    rows: Table
    counter: str


Parts = Callable[[Layer], Iterable[Part]]


def trunk_rows(path: str, groups: tuple[Group, ...], parts: Parts, counts: Counter[str]) -> Table:
    """The rows of the trunk at `path`; `counts` goes on counting where the trunk before it ended."""
    rows: Table = ()
    for number, group in enumerate(groups):
        where: dict[tuple[int, Part], list[int]] = defaultdict(list)
        for _ in range(group.repeat):
            for place, layer in enumerate(group.layers):
                for part in parts(layer):
                    where[place, part].append(counts[part.counter])
                    counts[part.counter] += 1
        for (place, part), numbers in where.items():
            ours = f"{path}/groups/{number}/layers/{place}/{part.ours}/"
            rows += numbered(placed(part.rows, ours, part.theirs), tuple(numbers))
    return rows


def layers_of(*trunks: TrunkConfig) -> list[Layer]:
    """The layers of trunks in the order in which they run."""
    return [layer for trunk in trunks for group in trunk.groups for layer in group.layers * group.repeat]


def joint_parts(theirs: str, rows: Table) -> Parts:
    """Of a single stream: each layer is one of theirs."""

    def parts(layer: Layer) -> Iterable[Part]:
        yield Part("shared", theirs, rows, "layer")

    return parts


def joint_depth(model: FusionConfig) -> int:
    """The layers of a single stream."""
    return sum(layer.is_joint for layer in layers_of(model.fusion))


def text_input_rows(text: TextInputConfig, theirs: str) -> Table:
    """The tables that BERT begins with, under the prefix `theirs`."""
    rows = (
        Row("tokens/table", "word_embeddings.weight", table(text.vocab_size)),
        Row("positions", "position_embeddings.weight", SAME),
        Row("token_types", "token_type_embeddings.weight", SAME),
        *norm("norm", "LayerNorm"),
    )
    return placed(rows, "text/", theirs)


def token_head_rows(text: TextInputConfig) -> Table:
    """BERT's head of masked words; its matrix is the table of tokens."""
    return (
        Row("token_head/bias", "cls.predictions.bias", table(text.vocab_size)),
        *transform_rows("token_head/transform", "cls.predictions.transform"),
    )


def transform_rows(ours: str, theirs: str) -> Table:
    return (*linear(f"{ours}/dense", f"{theirs}.dense"), *norm(f"{ours}/norm", f"{theirs}.LayerNorm"))
