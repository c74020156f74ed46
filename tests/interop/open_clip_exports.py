"""Models of ours that open_clip can hold, with random weights: exported, and imported again."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mmjax.data.captions import CaptionConfig, for_evaluation
from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.data.sources.specs import open_source
from mmjax.data.tokenizer import Tokenizer
from mmjax.experiment import Experiment
from mmjax.interop.dual.exports import write_open_clip
from mmjax.interop.dual.reference import NUM_PAIRS, computing
from mmjax.interop.export_folder import Trained
from mmjax.interop.formats import Spec
from mmjax.interop.imports import opened, parameters
from mmjax.interop.open_clip.siglip import TOWERS
from mmjax.interop.sampling import Pairs, Rounded, make_sample, spread
from mmjax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim import paths
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.proof import sample as samples
from tests.interop.exported import facts_of

TEXT_LEN, EOS_ID, VOCAB_SIZE = 16, 1, 8192
"""Of the shipped tokenizer."""

IMAGE = ViTConfig(
    image_size=48,
    patch_size=16,
    width=36,
    depth=2,
    mlp_dim=50,
    num_heads=3,
    pool="cls",
    patch_bias=False,
    embedding_norm=True,
    norm_eps=1e-5,
    activation="gelu",
)
TEXT = TextConfig(
    vocab_size=VOCAB_SIZE,
    context_len=TEXT_LEN,
    width=20,
    depth=1,
    mlp_dim=29,
    num_heads=5,
    causal=True,
    pool="eot",
    eos_id=EOS_ID,
    norm_eps=1e-5,
    activation="gelu",
)


def dual(image: ViTConfig = IMAGE, text: TextConfig = TEXT, **joint: Any) -> DualEncoderConfig:
    fields = {"image_projection": "linear", "text_projection": "linear", "logit_bias": None, "embed_dim": 12}
    return DualEncoderConfig(image, text, **{**fields, **joint})


QUICK = {"activation": "quick_gelu"}
BIDIRECTIONAL = {"causal": False, "eos_id": None, "norm_eps": 1e-6, "activation": "gelu_tanh"}
SIGLIP_TEXT = replace(TEXT, **BIDIRECTIONAL, pool="last")

EXPORTS = {
    "clip-rectangular-quick-gelu-argmax": (
        dual(replace(IMAGE, **QUICK, image_width=80), replace(TEXT, **QUICK, eos_id=None)),
        PreprocessConfig(48, "squash", image_width=80),
        "float32",
    ),
    "clip-cropped-qk-norm-eos": (
        # Of this size, torchvision cuts some of the case files elsewhere.
        dual(
            replace(IMAGE, image_size=44, patch_size=11, qk_norm=True, activation="gelu_tanh"),
            replace(TEXT, qk_norm=True),
        ),
        PreprocessConfig(44, "crop"),
        "float32",
    ),
    "clip-patches-left-over-sigmoid": (
        dual(
            replace(IMAGE, patch_size=14, embedding_norm=False, norm_eps=1e-6),
            SIGLIP_TEXT,
            text_projection="biased",
            logit_bias=-3.0,
        ),
        PreprocessConfig(48, "squash", "bilinear"),
        "float32",
    ),
    "clip-first-unprojected-bfloat16": (
        dual(text=replace(SIGLIP_TEXT, pool="first"), text_projection="none", embed_dim=20),
        PreprocessConfig(48, "crop", "bilinear"),
        "bfloat16",
    ),
    "siglip": (
        dual(
            TOWERS["vit_base_patch32_siglip_256"],
            SIGLIP_TEXT,
            image_projection="none",
            text_projection="biased",
            logit_bias=-10.0,
            embed_dim=768,
        ),
        PreprocessConfig(256, "squash"),
        "float32",
    ),
    "siglip-gap": (
        dual(
            TOWERS["vit_base_patch32_siglip_gap_256"],
            SIGLIP_TEXT,
            image_projection="biased",
            text_projection="linear",
        ),
        PreprocessConfig(256, "squash"),
        "float32",
    ),
}
"""Model, preprocessing and type of the weights."""


def random_weights(model: DualEncoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Initial values with noise on what begins as 0 or 1, so that no bias is 0 and no norm the identity."""
    rng = np.random.default_rng(seed)
    with jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        tree = nnx.to_pure_dict(nnx.split(DualEncoder(model, jax.random.key(seed)))[1])
    leaves = {path: np.asarray(leaf) for path, leaf in paths.leaves(tree).items()}
    return {path: _noisy(rng, path, leaf) for path, leaf in leaves.items()}


def _noisy(rng: np.random.Generator, path: str, leaf: np.ndarray) -> np.ndarray:
    noisy = path.endswith(("bias", "scale")) and path not in ("log_scale", "logit_bias")
    return (leaf + 0.1 * noisy * rng.normal(size=leaf.shape)).astype(np.float32)


def trained(model: DualEncoderConfig, preprocess: PreprocessConfig, weights: Mapping[str, np.ndarray]) -> Trained:
    data = DataConfig(tokenizer="emoji", text_len=TEXT_LEN, preprocess=preprocess)
    facts = facts_of(Experiment(model, data))
    return Trained(Spec(model, preprocess), Tokenizer.load("emoji"), weights, facts)


def write_export(folder: Path, model: DualEncoderConfig, preprocess: PreprocessConfig, dtype: str) -> str:
    """Writes the export and its reference into a new folder; a line that says what it was written as."""
    folder.mkdir(parents=True)
    source = trained(model, preprocess, random_weights(model))
    said = write_open_clip(folder, source, "both", dtype)
    exported = replace(source, weights=Rounded(source.weights, dtype))
    samples.write(folder, make_sample(folder, exported, _pairs(preprocess), computing("both")))
    return said


def _pairs(preprocess: PreprocessConfig) -> Pairs:
    records = for_evaluation(open_source("emoji", "unseen_concept"), CaptionConfig())
    return spread(DataConfig(text_len=TEXT_LEN, preprocess=preprocess), records, Tokenizer.load("emoji"), NUM_PAIRS)


def imported_results(folder: Path, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings and logits of a folder of open_clip, computed by our model."""
    with opened(f"open_clip:{folder}") as foreign, jax.set_mesh(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        found, config = dict(parameters(foreign)), foreign.spec.model
        graph, shapes = nnx.split(nnx.eval_shape(lambda: DualEncoder(config, jax.random.key(0))))
        tree = paths.map_leaves(lambda path, _: jnp.asarray(found[path]), nnx.to_pure_dict(shapes))
        return results(nnx.merge(graph, tree), pixels, ids)


def results(model: DualEncoder, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Of normalised pixels (b, 3, y, x) and ids (b, t)."""
    graph, params = nnx.split(model)

    @jax.jit
    def embeds(params: Any, image: Any, text_ids: Any) -> tuple[Any, Any]:
        towers = nnx.merge(graph, params)
        return towers.encode_image(image)[0], towers.encode_text(text_ids, jnp.ones(text_ids.shape, bool))[0]

    image, text = embeds(params, jnp.asarray(pixels.transpose(0, 2, 3, 1)), jnp.asarray(ids, jnp.int32))
    found = {"image": np.asarray(image), "text": np.asarray(text)}
    logits = found["image"] @ found["text"].T * np.exp(np.asarray(model.log_scale[...])) + np.asarray(model.bias())
    return {**found, "logits": logits}
