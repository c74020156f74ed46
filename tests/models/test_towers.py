"""What each choice of a config does to the towers."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.errors import UserError
from mmjax.models.dual_encoder import DualEncoder
from mmjax.models.text import TextTransformer, end_of_text
from mmjax.models.tower import normalised
from mmjax.models.vit import ViT, ViTConfig
from mmjax.nn.positions import sincos_2d
from tests import tiny
from tests.tolerances import LAYER

KEY = jax.random.key(0)


def image_shapes(key: jax.Array | None = None, **choices: Any) -> Any:
    config = replace(tiny.SIGLIP.image, **choices)
    image = tiny.batch(2)["image"]
    return jax.eval_shape(lambda key: ViT(config, KEY)(image, key), key)


def text_shapes(**choices: Any) -> Any:
    config = replace(tiny.SIGLIP.text, **choices)
    batch = tiny.batch(2)
    return jax.eval_shape(lambda: TextTransformer(config, KEY)(batch["text_ids"], batch["text_mask"]))


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("position", ["learned", "sincos2d"])
@pytest.mark.parametrize(("pool", "num_tokens"), [("cls", 5), ("mean", 4), ("map", 4), ("concat", 4)])
def test_image_choices(stem, position, pool, num_tokens):
    features, extras = image_shapes(stem=stem, position=position, pool=pool)
    assert features.shape == (2, 32)
    assert extras["tokens"].shape == (2, num_tokens, 32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("pool", ["eot", "last", "first", "mean", "map"])
def test_text_choices(causal, use_mask, norm, pool):
    features, extras = text_shapes(
        causal=causal, use_mask=use_mask, norm=norm, pool=pool, embedding_norm=True, final_norm=norm == "pre"
    )
    assert features.shape == (2, 32)
    assert extras["tokens"].shape == (2, tiny.CONTEXT_LEN, 32)


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("position", ["learned", "sincos2d"])
@pytest.mark.parametrize("pool", ["cls", "mean", "map", "concat"])
def test_rectangles(stem, position, pool):
    config = replace(
        tiny.SIGLIP.image, image_size=16, image_width=32, stem=stem, position=position, pool=pool, pooler=True
    )
    features, extras = jax.eval_shape(lambda: config.build(KEY)(jnp.zeros((2, 16, 32, 3), jnp.uint8)))
    assert (config.grid, config.image_shape) == ((2, 4), (16, 32))
    assert features.shape == (2, 32)
    assert extras["tokens"].shape == (2, 8 + (pool == "cls"), 32)


def test_places_of_a_rectangle_go_row_by_row():
    config = replace(tiny.SIGLIP.image, image_width=32, position="sincos2d", pool="mean")
    vit = ViT(config, KEY)
    assert np.array_equal(vit._position_table(), sincos_2d((2, 4), 32))


def test_the_pooler_is_a_tanh_of_what_is_pooled():
    config = replace(tiny.SIGLIP.text, pooler=True)
    batch = tiny.batch(2)
    text = TextTransformer(config, KEY)
    features, extras = jax.jit(lambda *texts: text(*texts))(batch["text_ids"], batch["text_mask"])
    pooled = np.asarray(extras["tokens"][:, -1], np.float64)
    assert np.allclose(features, np.tanh(pooled @ text.pooler.kernel[...] + text.pooler.bias[...]), atol=LAYER)


@pytest.mark.parametrize(("position_stddev", "expected"), [(None, tiny.SIGLIP.image.width**-0.5), (0.9, 0.9)])
def test_size_of_initial_positions(position_stddev, expected):
    vit = ViT(replace(tiny.SIGLIP.image, image_size=64, position_stddev=position_stddev), KEY)
    assert float(jnp.std(vit.positions[...])) == pytest.approx(expected, rel=0.1)


def test_fixed_positions_take_no_size():
    with pytest.raises(UserError, match="position_stddev"):
        replace(tiny.SIGLIP.image, position="sincos2d", position_stddev=0.9)


def test_patch_dropout_leaves_patches_out_but_not_the_class_token():
    _, extras = image_shapes(KEY, pool="cls", patch_dropout_rate=0.5)
    assert extras["tokens"].shape == (2, 3, 32)


def test_bfloat16_towers_give_float32_embeddings():
    half = {"compute_dtype": "bfloat16"}
    config = replace(tiny.CLIP, image=replace(tiny.CLIP.image, **half), text=replace(tiny.CLIP.text, **half))
    batch = tiny.batch(2)
    image_embed, extras = jax.eval_shape(lambda: DualEncoder(config, KEY).encode_image(batch["image"]))
    assert extras["features"].dtype == jnp.bfloat16
    assert image_embed.dtype == jnp.float32
    state = nnx.eval_shape(lambda: nnx.state(DualEncoder(config, KEY)))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_pixels_are_normalised_and_floats_are_not():
    config = ViTConfig(image_mean=(0.5, 0.4, 0.3), image_std=(0.1, 0.2, 0.5))
    image = np.asarray([[[[255, 102, 0]]]], np.uint8)
    assert np.allclose(normalised(jnp.asarray(image), config), [5, 0, -0.6], atol=LAYER)
    assert np.array_equal(normalised(jnp.full((1, 1, 1, 3), 7.0), config), np.full((1, 1, 1, 3), 7.0))


def test_what_is_read_of_one_position_is_normalised():
    batch = tiny.batch(2)
    features, extras = ViT(replace(tiny.SIGLIP.image, pool="cls", pooler=False), KEY)(batch["image"])
    assert np.allclose(features, extras["tokens"][:, 0], rtol=LAYER, atol=LAYER)
    places = {"last": -1, "first": 0, "eot": end_of_text(batch["text_ids"], 1)}
    for pool, place in places.items():
        config = replace(tiny.SIGLIP.text, pool=pool, pooler=False, eos_id=1)
        features, extras = TextTransformer(config, KEY)(batch["text_ids"], batch["text_mask"])
        assert np.allclose(features, extras["tokens"][jnp.arange(2), place], rtol=LAYER, atol=LAYER), pool


def test_end_of_text():
    text_ids = jnp.asarray([[1, 9, 5, 9], [9, 1, 1, 1], [1, 2, 3, 4]])
    assert end_of_text(text_ids, 9).tolist() == [1, 0, 0]
    assert end_of_text(text_ids, None).tolist() == [1, 0, 3]


@pytest.fixture(scope="module")
def clip() -> DualEncoder:
    return DualEncoder(tiny.CLIP, KEY)


def test_embeddings_have_length_one(clip):
    batch = tiny.batch(2)
    image_embed, _ = jax.jit(clip.encode_image)(batch["image"])
    text_embed, _ = jax.jit(clip.encode_text)(batch["text_ids"], batch["text_mask"])
    assert np.allclose(np.linalg.norm([image_embed, text_embed], axis=-1), 1, atol=LAYER)


def test_causal_text_does_not_see_its_padding(clip):
    batch = tiny.batch(4)
    padded = np.where(batch["text_mask"], batch["text_ids"], 7)
    embed = jax.jit(lambda text_ids: clip.encode_text(text_ids, batch["text_mask"])[0])
    assert np.allclose(embed(batch["text_ids"]), embed(padded), atol=LAYER)


def test_a_key_makes_dropout_and_the_same_key_the_same():
    config = replace(tiny.SIGLIP.image, dropout_rate=0.5)
    vit, image = ViT(config, KEY), jnp.asarray(tiny.batch(2)["image"])
    run = jax.jit(lambda key: vit(image, key)[0])
    first, again, other = (np.asarray(run(jax.random.key(seed))) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


@pytest.mark.parametrize(
    ("tower", "choices", "message"),
    [
        ("image", {"num_heads": 5}, "num_heads 5 does not divide width 32"),
        ("text", {"num_heads": 5}, "num_heads 5 does not divide width 32"),
        ("image", {"patch_size": 12, "stem": "conv"}, "patch_size 12 must be a power of 2"),
        ("image", {"stem_residual": (1, 1, 1)}, "stem 'patch' has no convolutions"),
        ("image", {"stem_norm": "batch"}, "stem 'patch' has no convolutions"),
        ("image", {"patch_size": 8, "stem": "conv", "stem_residual": (1,)}, "needs 3 numbers"),
        ("image", {"pool": "concat", "patch_dropout_rate": 0.5}, "pool 'concat' needs every patch"),
        ("image", {"patch_size": 32}, "patch_size 32 is larger than image_size 16"),
        ("image", {"image_width": 4}, r"patch_size 8 is larger than image_size or image_width, \(16, 4\)"),
        ("image", {"stem": "conv", "image_width": 20}, "divides image_size 16 and image_width"),
        ("image", {"width": 24, "num_heads": 8}, "image.width 24 is not embed_dim 32"),
    ],
)
def test_what_does_not_fit_is_refused(tower, choices, message):
    with pytest.raises(UserError, match=message):
        replace(tiny.SIGLIP, **{tower: replace(getattr(tiny.SIGLIP, tower), **choices)})


def test_a_text_that_is_too_long_is_refused():
    text = TextTransformer(tiny.SIGLIP.text, KEY)
    with pytest.raises(UserError, match="texts of 9 tokens do not fit context_len = 8"):
        text(jnp.zeros((1, 9), jnp.int32), jnp.ones((1, 9), bool))
