"""Small fusion models of odd shapes, their weights, and batches for them: what PyTorch and JAX are compared on."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mmjax import config as configs
from mmjax.interop.fusion.own import MMJAX_FUSION
from mmjax.interop.shapes import parameter_shapes
from mmjax.models.fusion import published, trunks
from mmjax.models.fusion.concat import ConcatConfig
from mmjax.models.fusion.heads import HeadsConfig, PoolerConfig, RegionHeadConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.models.fusion.patches import GridInputConfig, PatchInputConfig
from mmjax.models.fusion.published import Size, Vocabulary
from mmjax.models.fusion.regions import RegionInputConfig
from mmjax.models.resnet import ResNetConfig
from mmjax.nn.bimodal import Group, Layer, TrunkConfig
from mmjax.serving.models.fusion import Fusion

SIZE = Size(width=36, depth=2, num_heads=3, mlp_dim=52)
IMAGE_SIZE = Size(width=20, depth=2, num_heads=5, mlp_dim=28, norm_eps=1e-6)
WORDS = Vocabulary(vocab_size=99, context_len=11)
FEATURE_DIM, NUM_REGIONS, TEXT_LEN = 13, 5, 9
REGIONS: dict[str, Any] = {"feature_dim": FEATURE_DIM, "num_classes": 7}
PATCHES = PatchInputConfig(width=36, image_size=12, image_width=18, patch_size=6, norm=True, mask_token=True)
TOWER = ResNetConfig(image_size=33, image_width=65, embedding_dim=6, stage_dims=(8, 12), depths=(1, 2))
GRID = GridInputConfig(width=36, tower=TOWER)
BASIC = replace(TOWER, layer="basic", activation="gelu", stage_dims=(6, 10), downsample_in_first_stage=True)
EARLY = replace(TOWER, downsample_in_bottleneck=True)
TWO_STREAMS = published.vilbert(
    replace(SIZE, depth=3),
    IMAGE_SIZE,
    WORDS,
    text_before=(1, 2),
    image_before=(0, 1),
    inner_width=24,
    inner_heads=4,
    **REGIONS,
)
UNITER = published.uniter(SIZE, WORDS, **REGIONS)
PRE = replace(SIZE.block, norm="pre", qk_norm=True, activation="quick_gelu")


def concatenated() -> FusionConfig:
    wide, wide_image = replace(SIZE.block, width=72), replace(IMAGE_SIZE.block, width=40)
    crossing = Layer(text="image", image="text", inner_width=24, num_heads=2)
    return replace(
        TWO_STREAMS,
        towers=TrunkConfig(SIZE.block, IMAGE_SIZE.block, (Group((trunks.EACH_ITS_OWN,)),)),
        concat=ConcatConfig(num_heads=2),
        fusion=TrunkConfig(wide, wide_image, (Group((crossing,), 2), Group((trunks.EACH_ITS_OWN,)))),
    )


def unlike_any() -> FusionConfig:
    """Layers, norms and heads that no paper joins: each sees both streams, or nothing; heads of everything."""
    layers = (
        Layer(text="both", image="nothing"),
        Layer(text="nothing", image="both", text_mlp=False),
        Layer(text="both", image="both", image_mlp=False),
        Layer(text="both", image="text", shared=True),
        Layer(text="image", image="image", num_heads=6, inner_width=18),
    )
    heads = HeadsConfig(
        num_pair_classes=3,
        regions=(RegionHeadConfig((("objects", 4), ("features", 13))), RegionHeadConfig((("kinds", 2),))),
        num_answers=5,
    )
    return replace(
        UNITER,
        image=RegionInputConfig(
            width=36, feature_dim=FEATURE_DIM, location="box", whole_image=True, token_type="own", num_positions=3
        ),
        towers=TrunkConfig(PRE, PRE, (Group((Layer("text", "image", image_mlp=False), trunks.IMAGE), 2),)),
        fusion=TrunkConfig(PRE, PRE, (Group(layers, 2), *trunks.single_stream(2))),
        modality_types=True,
        image_tower_norm=True,
        final_norm=True,
        pooler=PoolerConfig(("image", "text")),
        heads=heads,
        embed_dim=6,
        embed_pool="mean",
    )


def with_image(image: Any, **changes: Any) -> FusionConfig:
    """A single stream behind another image input."""
    return replace(UNITER, image=image, **{"heads": HeadsConfig(), **changes})


MODELS: dict[str, FusionConfig] = {
    "vilbert": TWO_STREAMS,
    "uniter": UNITER,
    "albef": published.albef(SIZE, IMAGE_SIZE, WORDS, fusion_depth=1, image_side=12, patch_size=4, embed_dim=10),
    "lxmert": published.lxmert(
        SIZE,
        WORDS,
        **{"vision_depth": 1, "cross_depth": 2, "feature_dim": FEATURE_DIM},
        **{"num_objects": 6, "num_attributes": 5, "num_answers": 4},
    ),
    "visual_bert": published.visual_bert(SIZE, WORDS, feature_dim=FEATURE_DIM),
    "vilt": published.vilt(SIZE, WORDS, image_size=12, patch_size=4),
    "bert": published.bert(SIZE, WORDS),
    "concat": concatenated(),
    "concatenation": published.concatenation(
        SIZE, replace(IMAGE_SIZE, width=36, num_heads=4), WORDS, image_side=12, patch_size=4, embed_dim=10
    ),
    "unlike any": unlike_any(),
    "grid": with_image(GRID, heads=HeadsConfig(regions=(RegionHeadConfig((("codes", 4),)),))),
    "grid, basic": with_image(replace(GRID, tower=BASIC, mask_token=True)),
    "grid, early": with_image(replace(GRID, tower=EARLY), pooler=None, heads=HeadsConfig(pair="token", tokens=False)),
    "patches": with_image(PATCHES),
    "patches alone": with_image(
        replace(PATCHES, class_token=False, mask_token=False, norm=False),
        fusion=TrunkConfig(PRE, PRE, trunks.single_stream(2)),
    ),
}


def weights_of(model: FusionConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters by path with which activations stay of order 1; no bias is 0 and no norm the identity."""
    rng = np.random.default_rng(seed)
    weights = {path: _drawn(rng, path, shape) for path, shape in parameter_shapes(model, "both").items()}
    for path in ("text/tokens/table", "token_head/bias"):
        if path in weights:
            weights[path][model.text.vocab_size :] = 0
    return weights


def _drawn(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.normal(size=shape)
    if path.endswith(("/scale", "/running_variance")):
        return np.float32(1 + 0.2 * np.abs(noise))
    if path.endswith("/kernel"):
        layer = shape[1:] if "/groups/" in path else shape
        num_inputs = math.prod(layer[: -1 if "/tower/" in path else 1])
        return np.float32(noise / math.sqrt(num_inputs))
    return np.float32(0.1 * noise if path.endswith("/bias") else 0.5 * noise)


def torch_module(model: FusionConfig, weights: dict[str, np.ndarray]) -> Fusion:
    """The PyTorch module with these weights, every one of them used and none left as it was."""
    module = Fusion(configs.to_dict(model))
    tensors = {name: torch.from_numpy(np.array(x)) for name, x in MMJAX_FUSION.tensors(model, weights)}
    module.load_state_dict(tensors, strict=True)
    return module.eval()


def batch_of(model: FusionConfig, padded: bool, num_rows: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Texts and images; padded, some are shorter than others, and the last image has no region at all."""
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {
        "text_ids": rng.integers(1, WORDS.vocab_size, (num_rows, TEXT_LEN)).astype(np.int32),
        "text_mask": np.ones((num_rows, TEXT_LEN), bool),
        "token_types": rng.integers(0, 2, (num_rows, TEXT_LEN)).astype(np.int32),
    }
    if padded:
        del batch["token_types"]
        batch["text_mask"] = np.arange(TEXT_LEN) < rng.permutation([TEXT_LEN, 5, 3, 1])[:, None]
    if isinstance(model.image, RegionInputConfig):
        return batch | regions_of(padded, num_rows, rng, model.image.feature_dim)
    if model.image is not None:
        batch["image"] = rng.normal(size=(num_rows, *model.image_shape, 3)).astype(np.float32)
    return batch


def regions_of(
    padded: bool, num_rows: int, rng: np.random.Generator, feature_dim: int = FEATURE_DIM
) -> dict[str, np.ndarray]:
    """Features and boxes, which are no numbers of a region at padding either."""
    corners = np.sort(rng.uniform(size=(num_rows, NUM_REGIONS, 2, 2)), axis=2)
    counts = np.resize([NUM_REGIONS, 2, 1, 0] if padded else NUM_REGIONS, num_rows)
    return {
        "region_features": rng.normal(size=(num_rows, NUM_REGIONS, feature_dim)).astype(np.float32),
        "region_boxes": corners.reshape(num_rows, NUM_REGIONS, 4).astype(np.float32),
        "region_mask": np.arange(NUM_REGIONS) < counts[:, None],
    }


def masked_of(model: FusionConfig, num_rows: int = 4, seed: int = 1) -> np.ndarray:
    """Which regions, patches or positions are hidden: about half of them."""
    if isinstance(model.image, RegionInputConfig):
        num_tokens = NUM_REGIONS
    elif isinstance(model.image, PatchInputConfig):
        num_tokens = model.image.num_tokens - model.image.class_token
    else:
        assert isinstance(model.image, GridInputConfig)
        num_tokens = model.image.tower.num_positions
    return np.random.default_rng(seed).random((num_rows, num_tokens)) < 0.5


def torch_batch(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same for PyTorch, which has colours in front of rows and columns."""
    arrays = {name: x.transpose(0, 3, 1, 2) if name == "image" else x for name, x in batch.items()}
    return {name: torch.from_numpy(np.array(x, order="C")) for name, x in arrays.items()}
