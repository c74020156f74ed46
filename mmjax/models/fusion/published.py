"""The models of the papers as configs; the defaults are the published sizes.

| function | parameters | paper |
|---|---|---|
| `bert` | 110,106,428 | Devlin et al. (2019), table 1, base; with both heads |
| `vilbert` | 239,023,229, and 11,020,800 that nothing passes through | Lu et al. (2019), released code, 6 connections |
| `lxmert` | 228,051,752 | Tan and Bansal (2019), section 2.2 |
| `uniter`, base and large | 112,938,887 and 340,524,935 | Chen et al. (2020), section 3.1 |
| `visual_bert` | 110,895,164 | Li et al. (2019) |
| `vilt` | 111,595,008 | Kim et al. (2021), table 6; without heads |
| `albef` | 209,937,725 | Li et al. (2021), section 3.1 |
| `concatenation` | 260,048,189 | none: the formula of `fusion.concat`, between BERT, ViT-B/16 and two layers |

Layers, tables and heads are drawn as BERT's code does (`nn.parameter.BERT_INIT`); the released PyTorch code of these
models does not cut the normal off. Patches are drawn with a variance of 1 / inputs (`nn.stem.PatchStem`), where the
code of ViLT has 0.02 and that of ALBEF PyTorch's default, as it has for projections and the head of the pair. Masks
are exact: where the references add -10,000 to a score, or the least float, a hidden token here has no weight at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from mmjax.models.fusion import trunks
from mmjax.models.fusion.concat import ConcatConfig
from mmjax.models.fusion.heads import HeadsConfig, PoolerConfig, RegionHeadConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import PatchInputConfig
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.models.fusion.text_input import TextInputConfig
from mmjax.nn.bimodal import Group, TrunkConfig
from mmjax.nn.block import BlockConfig
from mmjax.nn.mlp import Activation

REGION_CLASSES = 1601
"""Of the detector that found the regions, the background among them (Anderson et al., 2018)."""
FEATURE_DIM = 2048
"""Of its features."""


@dataclass(frozen=True)
class Size:
    """Of one stream."""

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1

    @property
    def block(self) -> BlockConfig:
        """Its layers, which normalise after each branch as BERT's do."""
        return BlockConfig(
            width=self.width,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm="post",
            norm_eps=self.norm_eps,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            init="bert",
        )

    def patches(self, image_size: int, patch_size: int) -> PatchInputConfig:
        """Square images cut into patches, a class token before them, as ViT has them."""
        return PatchInputConfig(
            width=self.width,
            dropout_rate=self.dropout_rate,
            image_size=image_size,
            patch_size=patch_size,
            class_token=True,
        )


BASE = Size()
VIT = Size(norm_eps=1e-6, dropout_rate=0.0, attention_dropout_rate=0.0)
"""ViT-B (Dosovitskiy et al., 2021, table 1)."""
LARGE = Size(width=1024, depth=24, num_heads=16, mlp_dim=4096)


@dataclass(frozen=True)
class Vocabulary:
    """Rows of the text's tables."""

    vocab_size: int = 30_522
    context_len: int = 512
    num_token_types: int = 2

    def inputs(self, size: Size) -> TextInputConfig:
        return TextInputConfig(
            vocab_size=self.vocab_size,
            context_len=self.context_len,
            num_token_types=self.num_token_types,
            width=size.width,
            norm_eps=size.norm_eps,
            dropout_rate=size.dropout_rate,
        )


class Trunks(TypedDict):
    """The fields of a `FusionConfig` that hold layers."""

    towers: TrunkConfig
    fusion: TrunkConfig


def stacked(groups: tuple[Group, ...], text: BlockConfig, image: BlockConfig) -> Trunks:
    """All layers of a model: those before the streams meet are towers."""
    towers, fusion = trunks.parted(groups)
    return {"towers": TrunkConfig(text, image, towers), "fusion": TrunkConfig(text, image, fusion)}


UNCASED = Vocabulary()
CASED = Vocabulary(vocab_size=28_996)


def bert(size: Size = BASE, vocabulary: Vocabulary = UNCASED) -> FusionConfig:
    """BERT for pretraining: masked words, and whether the second segment follows the first."""
    layers = stacked(trunks.text_stack(size.depth), size.block, size.block)
    return FusionConfig(text=vocabulary.inputs(size), image=None, **layers)


def vilbert(
    size: Size = BASE,
    image_size: Size = Size(width=1024, depth=6, num_heads=8, mlp_dim=1024),
    vocabulary: Vocabulary = UNCASED,
    *,
    text_before: Sequence[int] = (6, 7, 8, 9, 10, 11),
    image_before: Sequence[int] = (0, 1, 2, 3, 4, 5),
    inner_width: int = 1024,
    inner_heads: int = 8,
    feature_dim: int = FEATURE_DIM,
    num_classes: int = REGION_CLASSES,
) -> FusionConfig:
    """ViLBERT; region 0 is the whole image. In its released code 12 matrices more are stored and not used.

    The pair is read from the product of both pooled streams, whose activation is ReLU; of its two classes the authors'
    first is the right pair. The dropout before it is 0.1 whatever the rest has. Shares of a
    co-attention are dropped at the rate of the stream that reads; in the authors' code at that of the stream that is
    read.
    """
    layers = trunks.vilbert(size.depth, image_size.depth, text_before, image_before, inner_width, inner_heads)
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=RegionInputConfig(
            width=image_size.width,
            dropout_rate=size.dropout_rate,
            feature_dim=feature_dim,
            location="area",
            whole_image=True,
            norm_eps=image_size.norm_eps,
        ),
        **stacked(layers, size.block, image_size.block),
        pooler=PoolerConfig(("text", "image"), "relu", inner_width),
        heads=HeadsConfig(pair="product", regions=(RegionHeadConfig((("classes", num_classes),)),)),
        pair_dropout_rate=0.1,
    )


def lxmert(
    size: Size = Size(depth=9),
    vocabulary: Vocabulary = UNCASED,
    *,
    vision_depth: int = 5,
    cross_depth: int = 5,
    feature_dim: int = FEATURE_DIM,
    num_objects: int = 1600,
    num_attributes: int = 400,
    num_answers: int = 9500,
) -> FusionConfig:
    """LXMERT; `size.depth` is that of the language layers.

    In `transformers` row 0 of the tables of positions and token types is padding: 0 when it is born, and without a
    gradient, though the first token of each text has it. Here these rows are drawn, and learn, as the others.
    """
    layers = trunks.lxmert(size.depth, vision_depth, cross_depth)
    outputs = (("objects", num_objects), ("attributes", num_attributes), ("features", feature_dim))
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=RegionInputConfig(
            width=size.width,
            dropout_rate=size.dropout_rate,
            feature_dim=feature_dim,
            location="box",
            part_norms=True,
            mean=True,
            norm="none",
            norm_eps=size.norm_eps,
        ),
        **stacked(layers, size.block, size.block),
        heads=HeadsConfig(regions=(RegionHeadConfig(outputs),), num_answers=num_answers),
    )


def uniter(
    size: Size = BASE,
    vocabulary: Vocabulary = CASED,
    *,
    feature_dim: int = FEATURE_DIM,
    num_classes: int = REGION_CLASSES,
) -> FusionConfig:
    """UNITER; the features of regions are predicted through the transposed matrix that they came in by."""
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=RegionInputConfig(
            width=size.width,
            dropout_rate=size.dropout_rate,
            feature_dim=feature_dim,
            location="size",
            part_norms=True,
            token_type="text",
            norm_eps=size.norm_eps,
            mask_token=True,
        ),
        **stacked(trunks.single_stream(size.depth), size.block, size.block),
        heads=HeadsConfig(
            regions=(
                RegionHeadConfig((("features", feature_dim),), tied=True),
                RegionHeadConfig((("classes", num_classes),)),
            )
        ),
    )


def visual_bert(
    size: Size = BASE, vocabulary: Vocabulary = UNCASED, *, feature_dim: int = 512, num_positions: int | None = None
) -> FusionConfig:
    """VisualBERT; regions have no boxes, and a table of positions of which only row 0 is used without alignments."""
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=RegionInputConfig(
            width=size.width,
            dropout_rate=size.dropout_rate,
            feature_dim=feature_dim,
            location="none",
            token_type="own",
            num_token_types=vocabulary.num_token_types,
            num_positions=vocabulary.context_len if num_positions is None else num_positions,
            norm="text",
        ),
        **stacked(trunks.single_stream(size.depth), size.block, size.block),
    )


def vilt(
    size: Size = Size(dropout_rate=0.0, attention_dropout_rate=0.0),
    vocabulary: Vocabulary = Vocabulary(context_len=40),
    *,
    image_size: int = 384,
    patch_size: int = 32,
) -> FusionConfig:
    """ViLT without the heads of its pretraining; its layers normalise before each branch."""
    block = replace(size.block, norm="pre")
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=size.patches(image_size, patch_size),
        **stacked(trunks.single_stream(size.depth), block, block),
        modality_types=True,
        final_norm=True,
        heads=HeadsConfig(tokens=False, num_pair_classes=0),
    )


def albef(
    size: Size = BASE,
    image_size: Size = VIT,
    vocabulary: Vocabulary = UNCASED,
    *,
    fusion_depth: int = 6,
    image_side: int = 256,
    patch_size: int = 16,
    embed_dim: int = 256,
) -> FusionConfig:
    """ALBEF: ViT, and a BERT whose last `fusion_depth` layers also attend to the image."""
    layers = (Group((trunks.IMAGE,), image_size.depth), *trunks.albef(size.depth, fusion_depth))
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=image_size.patches(image_side, patch_size),
        **stacked(layers, size.block, replace(image_size.block, norm="pre")),
        image_tower_norm=True,
        pooler=None,
        heads=HeadsConfig(pair="token"),
        embed_dim=embed_dim,
    )


def concatenation(
    size: Size = BASE,
    image_size: Size = VIT,
    vocabulary: Vocabulary = UNCASED,
    *,
    fusion_depth: int = 2,
    image_side: int = 224,
    patch_size: int = 16,
    embed_dim: int = 256,
) -> FusionConfig:
    """H = Transformer([h_w ; A h_v], [h_v ; A' h_w]): BERT, ViT, and `fusion_depth` joint layers of twice their width.

    Each stream keeps what it has and what it read from the other one apart, see `Concat`. The joint layers have heads
    as wide as those of the text, and so twice as many. No paper gives sizes: these let both towers start from any
    BERT-base and ViT-B/16.
    """
    wide = replace(size, width=2 * size.width, num_heads=2 * size.num_heads, mlp_dim=2 * size.mlp_dim).block
    return FusionConfig(
        text=vocabulary.inputs(size),
        image=image_size.patches(image_side, patch_size),
        towers=TrunkConfig(
            size.block,
            replace(image_size.block, norm="pre"),
            (Group((trunks.IMAGE,), image_size.depth), *trunks.text_stack(size.depth)),
        ),
        image_tower_norm=True,
        concat=ConcatConfig(num_heads=size.num_heads, dropout_rate=size.attention_dropout_rate),
        fusion=TrunkConfig(wide, wide, trunks.single_stream(fusion_depth)),
        embed_dim=embed_dim,
    )
