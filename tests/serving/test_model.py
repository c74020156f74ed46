import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional

from mmjax.errors import UserError
from mmjax.serving.model import Embedder, ModelConfig, fingerprint, load
from tests.interop.torch_state import module_cache
from tests.serving.folders import IMAGE_SIZE, TEXT_LEN, picture, write_model, write_remote_model

TEXTS = ["a red apple", "two cats, asleep", "a text that is longer than the twelve tokens which this model reads of it"]
SIZES = [(40, 30), (30, 40), (7, 200)]


@pytest.fixture(scope="module")
def remote_embedder(place: Path) -> Iterator[Embedder]:
    """For as long as the tests of this file run: the place of foreign code is one for the whole process."""
    with module_cache(place / "modules"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.input", pytest.fail)  # The library would ask whether the code may run.
        yield load(ModelConfig(write_remote_model(place / "remote")))


@pytest.fixture(params=["embedder", "clip_embedder", "remote_embedder"])
def each(request: pytest.FixtureRequest) -> Embedder:
    return request.getfixturevalue(request.param)


def plain_images(folder: Path, images: list[Image.Image]) -> torch.Tensor:
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)


def plain_texts(folder: Path, texts: list[str]) -> torch.Tensor:
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=TEXT_LEN, return_tensors="pt")
    with torch.inference_mode():
        return functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


def test_images_are_embedded_as_by_plain_torch(each: Embedder) -> None:
    images = [picture(seed, size) for seed, size in enumerate(SIZES)]
    embeds = np.concatenate([each.encode_images(each.prepare_image(image)) for image in images])
    np.testing.assert_allclose(embeds, plain_images(each.config.folder, images), atol=1e-6)
    assert each.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    assert embeds.shape[1] == each.embed_dim


def test_texts_are_embedded_as_by_plain_torch(each: Embedder) -> None:
    embeds = each.encode_texts(each.prepare_texts(TEXTS))
    np.testing.assert_allclose(embeds, plain_texts(each.config.folder, TEXTS), atol=1e-6)


def test_clip_has_no_bias_and_siglip_has_one(embedder: Embedder, clip_embedder: Embedder) -> None:
    assert embedder.bias is not None
    assert clip_embedder.bias is None
    assert clip_embedder.scale == pytest.approx(np.exp(2.6592), rel=1e-4)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_every_mode(embedder: Embedder, mode: str) -> None:
    embeds = embedder.encode_images(
        embedder.prepare_image(picture(0).convert("L" if mode == "I;16" else "RGB").convert(mode))
    )
    assert np.isfinite(embeds).all()


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"quantize": "int8"}])
def test_fewer_bits_give_nearly_the_same(embedder: Embedder, model_folder: Path, options: dict[str, str]) -> None:
    small = load(ModelConfig(model_folder, **options))
    for encode, rows in (
        ("encode_texts", embedder.prepare_texts(TEXTS)),
        ("encode_images", embedder.prepare_image(picture(0))),
    ):
        exact, near = getattr(embedder, encode)(rows), getattr(small, encode)(rows)
        assert near.dtype == np.float32
        assert (exact * near).sum(-1).min() > 0.99
        assert not np.array_equal(exact, near)


def test_int8_holds_every_linear_layer_but_attention_pooling(model_folder: Path) -> None:
    model = load(ModelConfig(model_folder, quantize="int8"))._model
    left = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    assert left == []


def test_fingerprint_follows_what_decides_the_embeddings(model_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    assert fingerprint(copy) == fingerprint(model_folder)
    (copy / "parity.json").write_text("{}")
    (copy / "README.md").write_text("about")
    assert fingerprint(copy) == fingerprint(model_folder)
    processor = copy / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("0.5", "0.4", 1))
    assert fingerprint(copy) != fingerprint(model_folder)
    assert fingerprint(write_model(tmp_path / "other", seed=1)) != fingerprint(model_folder)


def without(name: str, folder: Path, out: Path) -> Path:
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(name))
    return out


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer*"])
def test_incomplete_folders_are_user_errors(model_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="give --model a folder"):
        load(ModelConfig(without(name, model_folder, tmp_path / "part")))


def test_tokenizer_without_length_is_a_user_error(model_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    path = copy / "tokenizer_config.json"
    values = json.loads(path.read_text())
    del values["model_max_length"]
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match="model_max_length"):
        load(ModelConfig(copy))


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int3"},
        {"quantize": "int4"},
        {"quantize": "int8", "dtype": "bfloat16"},
        {"device": "cuda"},
        {"device": "tpu"},
    ],
)
def test_impossible_settings_are_user_errors(
    model_folder: Path, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="choose|leave|use"):
        ModelConfig(model_folder, **options)
