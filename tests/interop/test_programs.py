"""Programs of exported folders against the module that they were made of, at several batches, from the disk."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmjax.errors import UserError
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from tests.interop import torch_models
from tests.interop.torch_state import module_cache, random_params, save_plain_form
from tests.tolerances import LAYER, MODEL

torch = pytest.importorskip("torch", reason="programs are PyTorch's, which requirements-export.txt installs")
transformers = pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime")

from mmjax.interop import programs  # noqa: E402

VOCAB_SIZE, TEXT_LEN = 50, 8
TOWER = {"hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 20, "num_attention_heads": 3}
VISION = {**TOWER, "image_size": 16, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": VOCAB_SIZE, "max_position_embeddings": TEXT_LEN, "bos_token_id": 0, "eos_token_id": 49}
BATCHES = ((1, 1), (1, 5), (2, 1), (5, 2))


def clip() -> Any:
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12))


def siglip() -> Any:
    text = {**TEXT, "projection_size": 24}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))


def conv_stem() -> DualEncoderConfig:
    tower = {"width": 24, "depth": 1, "mlp_dim": 20, "num_heads": 3}
    image = ViTConfig(
        image_size=16, image_width=24, patch_size=8, stem="conv", position="sincos2d", pool="cls", **tower
    )
    text = TextConfig(vocab_size=VOCAB_SIZE, context_len=TEXT_LEN, use_mask=True, causal=True, pool="eot", **tower)
    return DualEncoderConfig(image, text, 24, "biased", "none")


MODELS = {"clip": clip, "siglip": siglip, "conv-stem": conv_stem}


@pytest.fixture(scope="module", autouse=True)
def own_module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with module_cache(tmp_path_factory.mktemp("modules")):
        yield


def saved(model: Any, folder: Path, dtype: Any = torch.float32) -> Path:
    """The folder that an export has, as far as programs read it; SigLIP's tokenizer gives no mask."""
    if isinstance(model, DualEncoderConfig):
        save_plain_form(model, random_params(model), folder)
    else:
        torch_models.randomised(model).to(dtype).save_pretrained(folder)
    mask = [] if isinstance(model, transformers.SiglipModel) else ["attention_mask"]
    tokenizer = {"model_max_length": TEXT_LEN, "model_input_names": ["input_ids", *mask]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module", params=list(MODELS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(MODELS[request.param](), tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def reference(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the model itself says, called as its users call it."""
    if isinstance(model, transformers.SiglipModel):
        inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
    out = model(**inputs)
    names = ("image_embeds", "text_embeds", "logits_per_image")
    return {name: getattr(out, name) for name in names}


def is_remote(folder: Path) -> bool:
    return "auto_map" in json.loads((folder / "config.json").read_text())


def example(folder: Path, num_images: int, num_texts: int) -> dict[str, Any]:
    """Inputs with texts of every length from 1 on."""
    generator = torch.Generator().manual_seed(num_images)
    width = 24 if is_remote(folder) else 16
    lengths = torch.arange(num_texts)[:, None] * 2 + 1
    return {
        "pixel_values": torch.randn(num_images, 3, 16, width, generator=generator),
        "input_ids": torch.randint(VOCAB_SIZE, (num_texts, TEXT_LEN), generator=generator),
        "attention_mask": (torch.arange(TEXT_LEN) < lengths).long(),
    }


def assert_equal_to_the_module(folder: Path, written: dict[str, Any], tolerance: float) -> None:
    """Each program, at every batch, gives what the model gives for what it reads."""
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=is_remote(folder)).eval()
    needs = {"image": ["pixel_values"], "text": ["input_ids", "attention_mask"]}
    for batches in BATCHES:
        inputs = example(folder, *batches)
        expected = reference(model, inputs)
        for name, program in written.items():
            found = program(**{key: inputs[key] for key in needs.get(name, inputs)})
            assert tuple(found) == programs.OUTPUTS[name]
            for output, value in found.items():
                assert value.dtype == torch.float32
                assert torch.allclose(value, expected[output], rtol=0, atol=tolerance), (name, output, batches)


def write(folder: Path, out: Path, kind: str) -> list[str]:
    """Writes all three files of one model, of the others the one that has both towers, as each takes seconds; names."""
    ending = {"torch_export": "pt2", "onnx": "onnx"}[kind]
    if is_remote(folder):
        getattr(programs, f"write_{kind}")(folder, out)
    else:
        getattr(programs, f"write_{kind}_file")(programs.load(folder), "both", out / f"both.{ending}")
    names = ["both", "image", "text"] if is_remote(folder) else ["both"]
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.{ending}" for name in names]
    return names


def test_programs_of_torch_equal_the_module(folder, tmp_path, capfd):
    names = write(folder, tmp_path, "torch_export")
    assert capfd.readouterr() == ("", "")
    written = {name: torch.export.load(tmp_path / f"{name}.pt2") for name in names}
    assert_equal_to_the_module(folder, {name: program.module() for name, program in written.items()}, LAYER)
    for name, other in (("image", "text"), ("text", "image")):
        if name in written:
            assert not [weight for weight in written[name].state_dict if other in weight]


def test_onnx_files_equal_the_module(folder, tmp_path, capfd):
    names = write(folder, tmp_path, "onnx")
    assert capfd.readouterr() == ("", "")
    sessions = {name: onnxruntime.InferenceSession(tmp_path / f"{name}.onnx") for name in names}
    assert [value.shape for value in sessions["both"].get_outputs()][2] == ["images", "texts"]
    assert_equal_to_the_module(folder, {name: programs.runner(session) for name, session in sessions.items()}, MODEL)


def test_weights_that_one_file_cannot_hold_stand_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "ONE_FILE_BYTES", 0)
    folder = saved(clip(), tmp_path / "clip")
    programs.write_onnx_file(programs.load(folder), "image", tmp_path / "image.onnx")
    weights = programs.load(folder).programs()["image"].state_dict().values()
    assert (tmp_path / "image.onnx.data").stat().st_size > 0.9 * sum(weight.nbytes for weight in weights)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("image.onnx", "image.onnx.data"):
        (tmp_path / name).rename(moved / name)
    session = onnxruntime.InferenceSession(moved / "image.onnx")
    assert_equal_to_the_module(folder, {"image": programs.runner(session)}, MODEL)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_program_has_the_weights_of_its_tower_alone(name, tmp_path):
    source = programs.load(saved(MODELS[name](), tmp_path))
    for tower, others in (("image", programs.TEXT_PARTS), ("text", programs.IMAGE_PARTS)):
        modules = dict(source.programs()[tower].model.named_children())
        assert modules
        assert not [module for module in modules if module.startswith(others)]


def test_no_onnx_of_bfloat16(tmp_path):
    folder = saved(clip(), tmp_path / "clip", torch.bfloat16)
    with pytest.raises(UserError, match="no bfloat16 on CPU: export with --dtype float32"):
        programs.write_onnx(folder, tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_program_that_differs_is_refused(tmp_path):
    source = programs.load(saved(clip(), tmp_path / "clip"))
    program = source.programs()["image"]
    programs.check(source, "image", program, tmp_path / "image.pt2")

    def wrong(**inputs: Any) -> Any:
        return {name: value + 2e-4 for name, value in program(**inputs).items()}

    with pytest.raises(UserError, match=r"image.pt2: image_embeds differ from the module's by 2.0e-04"):
        programs.check(source, "image", wrong, tmp_path / "image.pt2")


def test_one_tower_or_no_export_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"config.json is missing: give a folder"):
        programs.load(tmp_path)
    tower = saved(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)), tmp_path / "tower")
    with pytest.raises(UserError, match=r"holds a CLIPVisionModel, .*: export both"):
        programs.load(tower)
