"""Folders of Hugging Face become our parameters and go back, bit for bit; both sides compute the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.interop.formats import Spec
from mmjax.interop.huggingface.bert import BERT
from mmjax.interop.imports import Foreign, opened, parameters
from mmjax.interop.mapping import to_theirs
from mmjax.interop.tensors import Tensors, write_tensors
from mmjax.models.text import TextConfig
from mmjax.optim import paths
from tests.interop import torch_models
from tests.interop.torch_models import EOS_ID, TEXT_LEN, torch
from tests.parity import torch_weights
from tests.tolerances import MODEL

WHOLE = {
    "clip": torch_models.clip,
    "clip-legacy-eos": lambda: torch_models.clip(eos_id=2, activation="gelu"),
    "clip-pixels-left-over": lambda: torch_models.clip(patch_size=7, activation="gelu_pytorch_tanh"),
    "siglip": torch_models.siglip,
    "siglip-exact-gelu": lambda: torch_models.siglip(activation="gelu"),
}
TOWERS = {
    "vit": torch_models.vit,
    "vit-without-pooler": lambda: torch_models.vit(pooler=False, activation="relu"),
    "bert": torch_models.bert,
    "bert-without-pooler": lambda: torch_models.bert(pooler=False, activation="relu"),
    "resnet-bottleneck": torch_models.resnet,
    "resnet-basic": lambda: torch_models.resnet(layer="basic", early=True),
    "resnet-early": lambda: torch_models.resnet(early=True),
    "resnet-of-one-width": lambda: torch_models.resnet(layer="basic", early=True, widths=(8, 8)),
}


@pytest.fixture(params=[*WHOLE, *TOWERS])
def theirs(request: pytest.FixtureRequest) -> Any:
    return torch_models.randomised({**WHOLE, **TOWERS}[request.param]())


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    return torch_models.saved(theirs, tmp_path / "theirs")


def model_of(foreign: Foreign) -> Any:
    """Our module with the parameters of `foreign`."""
    found = dict(parameters(foreign))
    part = foreign.format.part
    graph, shapes = nnx.split(nnx.eval_shape(lambda: foreign.spec.model.build(jax.random.key(0))))
    tree = nnx.to_pure_dict(shapes)
    named = tree if part == "both" else {part: tree}
    filled = paths.map_leaves(lambda path, _: jnp.asarray(found[path]), named)
    return nnx.merge(graph, filled if part == "both" else filled[part])


def text_inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, TEXT_LEN, 5, endpoint=True)
    mask = np.arange(TEXT_LEN) < lengths[:, None]
    ids = np.where(mask, rng.integers(2, EOS_ID, mask.shape), 1).astype(np.int32)
    ids[np.arange(5), lengths - 1] = EOS_ID
    return ids, mask


def images_for(spec: Any) -> np.ndarray:
    image = getattr(spec.model, "image", spec.model)
    return np.random.default_rng(0).normal(size=(3, *image.image_shape, 3)).astype(np.float32)


def test_features_equal_those_of_the_class(theirs, folder, mesh):
    del mesh
    with opened(f"hf:{folder}") as foreign:
        ours, spec, part = model_of(foreign), foreign.spec, foreign.format.part
    if part != "text":
        image = images_for(spec)
        with torch.inference_mode():
            pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
            expected = theirs.get_image_features(pixels) if part == "both" else theirs(pixels)
        found = ours.encode_image(jnp.asarray(image))[0] if part == "both" else ours(jnp.asarray(image))[0]
        assert_close(found, pooled(expected))
    if part != "image":
        ids, mask = text_inputs()
        mask = mask if part == "text" else np.ones_like(mask)
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids).long(), "attention_mask": torch.from_numpy(mask).long()}
            expected = theirs.get_text_features(**inputs) if part == "both" else theirs(**inputs)
        arrays = jnp.asarray(ids), jnp.asarray(mask)
        found = ours.encode_text(*arrays)[0] if part == "both" else ours(*arrays)[0]
        assert_close(found, pooled(expected))


def pooled(output: Any) -> np.ndarray:
    if output.pooler_output is None:
        return output.last_hidden_state[:, 0].numpy()
    return output.pooler_output.flatten(1).numpy()


def assert_close(found: Any, expected: np.ndarray) -> None:
    assert np.abs(at_length_1(np.asarray(found)) - at_length_1(expected)).max() < MODEL


def at_length_1(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def test_there_and_back_is_bit_for_bit(folder, tmp_path):
    with opened(f"hf:{folder}") as foreign:
        ours = dict(parameters(foreign))
        files = foreign.format.write(foreign.spec)
        write_tensors(tmp_path, to_theirs(foreign.format.table(foreign.spec.model), ours), "float32")
        assert foreign.format.differences(foreign.spec) == {}
    with Tensors(folder) as before, Tensors(tmp_path) as after:
        assert set(before) == set(after)
        wrong = [name for name in before if not same_bits(before[name], after[name]) and "num_batches" not in name]
        assert wrong == []
    there = json.loads((folder / "config.json").read_text())
    assert files["config.json"]["architectures"] == there["architectures"]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("make", "by_hand"),
    [(torch_models.clip, torch_weights.clip_params), (torch_models.siglip, torch_weights.siglip_params)],
    ids=["clip", "siglip"],
)
def test_every_number_lies_where_a_conversion_by_hand_puts_it(make, by_hand, tmp_path):
    theirs = torch_models.randomised(make(heads=(4, 4)))
    state = {name: weight.detach().numpy() for name, weight in theirs.named_parameters()}
    with opened(f"hf:{torch_models.saved(theirs, tmp_path)}") as foreign:
        found = dict(parameters(foreign))
    expected = paths.leaves(by_hand(state))
    assert set(found) == set(expected)
    assert [path for path in found if not np.array_equal(found[path], expected[path])] == []


@pytest.mark.parametrize(
    ("changes", "expressed"),
    [
        ({"pool": "first", "pooler": True}, True),
        ({"pool": "mean", "pooler": False}, True),
        # The pooler of the class takes the first token, whatever the config says.
        ({"pool": "mean", "pooler": True}, False),
        ({"pool": "last", "pooler": False}, False),
    ],
)
def test_pools_that_the_class_cannot_do_are_seen(changes, expressed):
    text = replace(BERT.read(BERT.write(Spec(TextConfig(vocab_size=9, num_token_types=2), None))).model, **changes)
    found = BERT.differences(Spec(text, None))
    assert found == ({} if expressed else {"pool": (changes["pool"], "first")})
