"""Parameter counts equal those of Hugging Face's PyTorch classes for the same config, exactly."""

import jax
import pytest
from flax import nnx

from mmjax.errors import UserError
from mmjax.models import sizes
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.text import TextTransformer
from mmjax.models.vit import ViT, ViTConfig
from mmjax.nn.parameter import num_parameters


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (sizes.clip("B/32"), 151_277_313),
        (sizes.clip("B/16"), 149_620_737),
        (sizes.clip("L/14"), 427_616_513),
        (sizes.siglip("B/16-224"), 203_155_970),
        (sizes.siglip("L/16-256"), 652_150_786),
        (sizes.siglip("So400m/14-384"), 877_960_498),
    ],
)
def test_published_dual_encoders(config: DualEncoderConfig, expected: int):
    assert num_parameters(nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0)))) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("18", 11_176_512), ("34", 21_284_672), ("50", 23_508_032), ("101", 42_500_160), ("152", 58_143_808)],
)
def test_published_resnets(name: str, expected: int):
    assert num_parameters(nnx.eval_shape(lambda: sizes.resnet(name).build(jax.random.key(0)))) == expected


@pytest.mark.parametrize(("size", "expected"), [("B", 109_482_240), ("L", 335_141_888)])
def test_published_berts(size: str, expected: int):
    config = sizes.bert(size, pooler=True)
    assert num_parameters(nnx.eval_shape(lambda: TextTransformer(config, jax.random.key(0)))) == expected


def test_an_unknown_resnet_is_refused():
    with pytest.raises(UserError, match="no ResNet has '51' layers: write one of 18, 34, 50"):
        sizes.resnet("51")


@pytest.mark.parametrize("size", sizes.SIZES)
def test_every_size_builds(size):
    config = ViTConfig(**vars(sizes.SIZES[size]), image_size=28, patch_size=14)
    assert num_parameters(nnx.eval_shape(lambda: ViT(config, jax.random.key(0)))) > 0


@pytest.mark.parametrize("name", ["B/16", "L/14-336"])
def test_clip_names(name):
    config = sizes.clip(name)
    assert config.image.image_size == (336 if name.endswith("336") else 224)
    assert config.text.width == config.embed_dim


@pytest.mark.parametrize("name", ["X/16", "B", "B/big", "B/16-huge", "So400m/14"])
def test_an_unknown_clip_is_refused(name):
    with pytest.raises(UserError, match="write SIZE/PATCH or SIZE/PATCH-IMAGE, SIZE one of B, L"):
        sizes.clip(name)
