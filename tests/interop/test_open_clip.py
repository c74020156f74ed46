"""Folders of open_clip: its names and shapes, there and back bit for bit, the same features, and what it cannot hold.

The library itself is asked by `open_clip_proof.py`; what it said of names and shapes is in `open_clip_names.json`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmjax.data.preprocess import PreprocessConfig, decode, resize
from mmjax.errors import UserError
from mmjax.interop.dual.exports import write_open_clip
from mmjax.interop.formats import Spec, as_function
from mmjax.interop.imports import opened, parameters
from mmjax.interop.mapping import to_theirs
from mmjax.interop.open_clip import fields, siglip
from mmjax.interop.open_clip.format import CLIP, CONFIG, CUSTOM_TEXT_CLIP, format_for
from mmjax.interop.shapes import parameter_shapes
from mmjax.interop.tensors import Tensors
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.vit import ViTConfig
from mmjax.optim import paths
from mmjax.proof import comparison
from mmjax.proof import open_clip as loader
from mmjax.proof import sample as samples
from mmjax.proof.loaded import Loaded
from tests.interop import torch_open_clip
from tests.interop.open_clip_exports import (
    EXPORTS,
    IMAGE,
    SIGLIP_TEXT,
    TEXT,
    VOCAB_SIZE,
    dual,
    imported_results,
    trained,
)
from tests.interop.open_clip_models import MODELS
from tests.interop.open_clip_proof import collapsed
from tests.interop.torch_models import torch
from tests.interop.torch_state import random_params
from tests.tolerances import MODEL

NAMES = json.loads((Path(__file__).parent / "open_clip_names.json").read_text())
FORMATS = {"CLIP": CLIP, "CustomTextCLIP": CUSTOM_TEXT_CLIP}
SQUASHED = PreprocessConfig(48, "squash")


def tiny(pool: Any) -> ViTConfig:
    """What would be a tower of timm, were it registered there."""
    return ViTConfig(
        image_size=48, patch_size=16, width=36, depth=2, mlp_dim=50, num_heads=3, pool=pool, activation="gelu"
    )


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for pool in siglip.POOLS:
        monkeypatch.setitem(siglip.TOWERS, f"tiny_{pool}", tiny(pool))


SIGLIPS = {
    "siglip": dual(tiny("map"), SIGLIP_TEXT, image_projection="none", embed_dim=36, logit_bias=-10.0),
    "siglip-gap": dual(tiny("mean"), SIGLIP_TEXT, image_projection="biased", text_projection="biased"),
    "siglip-projected": dual(tiny("map"), replace(TEXT, activation="quick_gelu"), embed_dim=10),
}
MODELS_OF_OURS = {name: export[:2] for name, export in EXPORTS.items() if name.startswith("clip")} | {
    name: (model, SQUASHED) for name, model in SIGLIPS.items()
}


def exported(folder: Path, model: DualEncoderConfig, preprocess: PreprocessConfig = SQUASHED) -> dict[str, np.ndarray]:
    """Our weights, of which `folder` then holds an export."""
    weights = paths.leaves(random_params(model))
    source = trained(model, preprocess, weights)
    folder.mkdir(exist_ok=True)
    write_open_clip(folder, source, "both", "float32")
    return weights


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_those_of_the_library(name):
    known = NAMES["models"][name]
    format = FORMATS[known["class"]]
    spec = format.read({CONFIG: MODELS[name]})
    shapes = parameter_shapes(spec.model, "both")
    # Without memory behind them: the towers of timm are as large as they are.
    weights = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    found = {name: list(array.shape) for name, array in to_theirs(format.table(spec.model), weights)}
    assert collapsed(found) == {name: scalar(name, shape) for name, shape in known["tensors"].items()}


def scalar(name: str, shape: list[int]) -> list[int]:
    """The library takes scale and bias with and without an axis; we write them without."""
    return [] if name.startswith("logit_") else shape


def test_towers_are_those_of_timm():
    def described(tower: ViTConfig, known: dict[str, Any]) -> dict[str, Any]:
        return {name: getattr(tower, {"num_positions": "num_tokens"}.get(name, name)) for name in known}

    assert set(siglip.TOWERS) == set(NAMES["towers"])
    for name, known in NAMES["towers"].items():
        assert described(siglip.TOWERS[name], known) == known


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", MODELS_OF_OURS)
def test_there_and_back_is_bit_for_bit(name, tmp_path):
    model, preprocess = MODELS_OF_OURS[name]
    weights = exported(tmp_path, model, preprocess)
    with opened(f"open_clip:{tmp_path}") as foreign:
        assert as_function(foreign.spec) == as_function(Spec(model, preprocess))
        found = dict(parameters(foreign))
    assert set(found) == set(weights)
    assert [path for path in found if found[path].tobytes() != weights[path].tobytes()] == []


def test_the_towers_compute_what_those_of_plain_torch_do(tmp_path, mesh):
    del mesh
    model = dual(text=replace(TEXT, eos_id=None))
    exported(tmp_path, model)
    theirs = torch_open_clip.CLIP(model)
    theirs.load_state_dict(state_of(tmp_path), strict=True)
    pixels, ids = inputs()
    with torch.inference_mode():
        expected = {"image": theirs.visual(torch.from_numpy(pixels)), "text": theirs.encode_text(torch.from_numpy(ids))}
    found = imported_results(tmp_path, pixels, ids)
    for tower, features in expected.items():
        assert np.abs(found[tower] - normalised(features)).max() < MODEL


@pytest.mark.usefixtures("registered", "mesh")
@pytest.mark.parametrize("name", ["siglip", "siglip-gap"])
def test_the_towers_of_timm_compute_what_those_of_plain_torch_do(name, tmp_path):
    model = SIGLIPS[name]
    exported(tmp_path, model)
    trunk, state = torch_open_clip.Trunk(model.image), state_of(tmp_path)
    part = "visual.trunk."
    trunk.load_state_dict(
        {name.removeprefix(part): array for name, array in state.items() if part in name}, strict=True
    )
    pixels, ids = inputs()
    with torch.inference_mode():
        features = trunk(torch.from_numpy(pixels))
        if model.image_projection == "biased":
            features = features @ state["visual.head.proj.weight"].T + state["visual.head.proj.bias"]
    assert np.abs(imported_results(tmp_path, pixels, ids)["image"] - normalised(features)).max() < MODEL


def state_of(folder: Path) -> dict[str, Any]:
    with Tensors(folder / "open_clip_model.safetensors") as tensors:
        return {name: torch.from_numpy(tensors[name]) for name in tensors}


def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(2, VOCAB_SIZE, (4, TEXT.context_len))
    return rng.normal(size=(3, 3, 48, 48)).astype(np.float32), ids


def normalised(features: Any) -> np.ndarray:
    return torch.nn.functional.normalize(features, dim=-1).numpy()


REFUSED = {
    "image.activation = 'gelu' (only 'quick_gelu')": dual(text=replace(TEXT, activation="quick_gelu")),
    "image.activation = 'quick_gelu' (only 'gelu')": dual(replace(IMAGE, activation="quick_gelu")),
    "text.activation = 'relu' (only 'gelu')": dual(text=replace(TEXT, activation="relu")),
    "text.pool = 'mean' (only 'last')": dual(text=replace(SIGLIP_TEXT, pool="mean")),
    "text.use_mask = True (only False)": dual(text=replace(SIGLIP_TEXT, pool="last", use_mask=True)),
    "text.norm = 'post' (only 'pre')": dual(text=replace(TEXT, norm="post")),
    "image.patch_bias = True (only False)": dual(replace(IMAGE, patch_bias=True)),
    "image.position = 'sincos2d' (only 'learned')": dual(replace(IMAGE, position="sincos2d")),
    "image.pooler = True (only False)": dual(replace(IMAGE, pooler=True)),
    "image_projection = 'none' (only 'linear')": dual(image_projection="none", embed_dim=36),
    "which is none of timm's (the nearest, vit_base_patch16_siglip_224, has width=768": SIGLIPS["siglip"],
    "image.image_width = 96 (only 224)": dual(replace(siglip.TOWERS["vit_base_patch16_siglip_224"], image_width=96)),
    "stem = 'conv' (only 'patch')": dual(replace(siglip.TOWERS["vit_base_patch16_siglip_224"], stem="conv")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_cannot_hold_is_refused_by_name(reason, tmp_path):
    model = REFUSED[reason]
    source = replace(trained(dual(), SQUASHED, {}), spec=Spec(model, None))
    with pytest.raises(UserError) as refusal:
        write_open_clip(tmp_path, source, "both", "float32")
    assert reason in str(refusal.value)
    assert str(refusal.value).startswith(f"{format_for(model).name} cannot express")
    assert "--to huggingface" in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interpolation_that_it_does_not_have_is_refused():
    differences = CLIP.differences(Spec(dual(), PreprocessConfig(48, "squash", "lanczos")))
    assert differences == {"preprocess.interpolation": ("lanczos", "bicubic")}


def test_one_tower_alone_is_refused(tmp_path):
    with pytest.raises(UserError, match="no models of one tower: .*--to huggingface"):
        write_open_clip(tmp_path, trained(dual(), SQUASHED, {}), "text", "float32")


UNREADABLE = {
    "vision_cfg.ls_init_value = 1.0 has no counterpart": {"vision_cfg": {"ls_init_value": 1.0}},
    "vision_cfg.attentional_pool = True has no counterpart": {"vision_cfg": {"attentional_pool": True}},
    "vision_cfg.pool_type = 'avg' has no counterpart": {"vision_cfg": {"pool_type": "avg"}},
    "of a ResNet": {"vision_cfg": {"layers": [3, 4, 6, 3]}},
    "text_cfg.embed_cls = True has no counterpart": {"text_cfg": {"embed_cls": True}},
    "text_cfg.hf_model_name = 'roberta-base' has no counterpart": {"text_cfg": {"hf_model_name": "roberta-base"}},
    "text_cfg.poll_type is no field of open_clip 3: did you mean pool_type": {"text_cfg": {"poll_type": "last"}},
    "has elementwise_affine": {"text_cfg": {"norm_kwargs": {"elementwise_affine": False}}},
    "timm_model_name = 'resnet50' has no counterpart": {"vision_cfg": {"timm_model_name": "resnet50"}},
    "timm_pool = 'avg' has no counterpart": {"vision_cfg": {"timm_model_name": "vit_base_patch32_siglip_256"}},
    "image_size = (224, 224) has no counterpart": {
        "vision_cfg": {"timm_model_name": "vit_base_patch32_siglip_256", "timm_pool": "map"}
    },
    "resize_mode = 'longest' has no counterpart": {"preprocess_cfg": {"resize_mode": "longest"}},
    "squares alone": {"vision_cfg": {"image_size": [16, 24]}},
}


@pytest.mark.parametrize("reason", UNREADABLE)
def test_what_we_cannot_hold_is_refused_by_name(reason):
    changes = UNREADABLE[reason]
    cfg = {
        name: {**{"vision_cfg": {}, "text_cfg": {}}[name], **changes.get(name, {})}
        for name in ("vision_cfg", "text_cfg")
    }
    config = {"model_cfg": {"embed_dim": 12, **cfg}, "preprocess_cfg": changes.get("preprocess_cfg", {})}
    with pytest.raises(UserError) as refusal:
        CLIP.read({CONFIG: config})
    assert reason in str(refusal.value)


def test_a_config_that_leaves_all_to_defaults_is_the_first_clip():
    spec = CLIP.read({CONFIG: {"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}}})
    image, text = spec.model.image, spec.model.text
    assert (image.width, image.depth, image.num_heads, image.mlp_dim) == (768, 12, 12, 3072)
    assert (text.width, text.num_heads, text.vocab_size, text.context_len) == (512, 8, 49408, 77)
    assert (text.pool, text.eos_id, text.causal) == ("eot", None, True)
    assert spec.preprocess == PreprocessConfig(224, "crop", "bicubic")
    assert image.image_mean == (0.48145466, 0.4578275, 0.40821073)


def test_a_plain_block_has_no_norms_of_queries():
    assert CLIP.read({CONFIG: with_vision({"qk_norm": True})}).model.image.qk_norm
    assert not CLIP.read({CONFIG: with_vision({"qk_norm": True, "block_type": "default"})}).model.image.qk_norm


def with_vision(vision: dict[str, Any]) -> dict[str, Any]:
    return {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": {}}}


def test_every_mlp_dim_comes_back_from_its_ratio():
    for width in (36, 192, 720, 768, 1152):
        wrong = [mlp_dim for mlp_dim in range(1, 5000) if int(width * fields._mlp_ratio(width, mlp_dim)) != mlp_dim]
        assert wrong == []


def test_a_folder_without_config_or_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no open_clip_config.json: give a folder"), opened(f"open_clip:{tmp_path}"):
        pass
    (tmp_path / CONFIG).write_text(json.dumps(MODELS["clip"]))
    with pytest.raises(UserError, match="does not exist: give a folder that holds"), opened(f"open_clip:{tmp_path}"):
        pass
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    with pytest.raises(UserError, match="save the weights again as safetensors"), opened(f"open_clip:{tmp_path}"):
        pass
    (tmp_path / CONFIG).write_text('{"model_cfg": {"embed_dim": 2, "text_cfg": {}}}')
    with pytest.raises(UserError, match="has no model_cfg.vision_cfg"), opened(f"open_clip:{tmp_path}"):
        pass


def test_weights_of_other_sizes_than_the_config_says_are_refused_by_name(tmp_path):
    exported(tmp_path, dual())
    config = json.loads((tmp_path / CONFIG).read_text())
    config["model_cfg"]["vision_cfg"]["head_width"] = 36
    config["model_cfg"]["vision_cfg"]["layers"] = 1
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="visual.transformer.resblocks.1"), opened(f"open_clip:{tmp_path}") as foreign:
        dict(parameters(foreign))


def test_large_models_are_one_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("mmjax.interop.tensors.MAX_FILE_BYTES", 1)
    exported(tmp_path, dual())
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["open_clip_model.safetensors"]


@pytest.mark.parametrize("size", [(44, 44), (44, 57), (44, 58), (59, 44), (60, 44), (61, 44)])
def test_the_loader_knows_where_torchvision_cuts(size):
    """torchvision's `center_crop` begins at int(round(left over / 2))."""
    image = Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]))
    ours = np.asarray(resize(decode(np.asarray(image.convert("RGB"))), PreprocessConfig(44, "crop")))
    left, top = (round((side - 44) / 2) for side in size)
    theirs = np.asarray(image.convert("RGB").crop((left, top, left + 44, top + 44)))
    down, right = loader._shift("shortest", (44, 44), image)
    assert np.array_equal(theirs[: 44 - down, : 44 - right], ours[down:, right:])
    assert loader._shift("squash", (44, 44), image) == (0, 0)


def loaded(tmp_path: Path, **ways: Any) -> tuple[Any, Any]:
    """A library that cuts a column further right than training did, and the reference of one file."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    (tmp_path / samples.FOLDER / samples.IMAGES).mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / samples.FOLDER / samples.IMAGES / "wide.png")

    def cut(images: Any) -> np.ndarray:
        return np.stack([np.asarray(image)[:, 2:].transpose(2, 0, 1) / 255 for image in images])

    nothing = np.zeros((0, 0))
    fields = {name: {} if name in samples.GROUPS else nothing for name in samples.Sample._fields}
    cases = {"case_files": ("wide.png",), "case_pixels": pixels[None, :, 1:5]}
    texts = {"case_texts": ("it\u2019s", "plain"), "case_ids": np.array([[1, 2], [3, 4]]), "texts": ("it\u2019s",)}
    library = {"mean": (0, 0, 0), "std": (1, 1, 1), "library": "stub"}
    tokens: Any = lambda texts: (np.array([[1, 2], [3, 4]]), None)  # noqa: E731
    return samples.Sample(**{**fields, **cases, **texts}), Loaded(lambda inputs: {}, cut, tokens, **library, **ways)


def test_where_the_library_cuts_elsewhere_the_rest_must_agree_and_it_is_stated(tmp_path):
    sample, library = loaded(tmp_path, shift=lambda image: (0, 1))
    assert comparison._pixels(tmp_path, sample, library) == {"cases": {"wide.png": 0}, "shifted": {"wide.png": [0, 1]}}
    for shift in ((0, 0), (0, 2), (1, 1)):
        wrong = replace(library, shift=lambda image, shift=shift: shift)
        assert comparison._pixels(tmp_path, sample, wrong)["cases"]["wide.png"] > 0


def test_texts_that_the_library_cleans_are_stated(tmp_path):
    def cleaned(texts: Any) -> dict[str, str]:
        return {text: text.replace("\u2019", "'") for text in texts if "\u2019" in text}

    sample, library = loaded(tmp_path, cleaned=cleaned)
    found = comparison._tokens(sample, library)
    assert found == {"cases": {"it\u2019s": 0, "plain": 0}, "cleaned": {"it\u2019s": "it's"}}
    assert "of which the library has cleaned 1" in comparison.in_a_line(
        {"tokens": found, "num_pairs": 1, "library": "stub"}
    )
