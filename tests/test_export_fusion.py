"""Fusion models end to end: a run in, a folder out that is proven without JAX, and served."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

from mmjax import ending, export, prove, train, workdir
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import from_values
from mmjax.interop.fusion.folder import read_fusion_folder
from mmjax.interop.imports import InitConfig, initialised
from mmjax.optim import paths
from tests.folders import write_image_folder
from tests.interop.exported import proven_without
from tests.tolerances import LAYER, above, relative_errors

torch = pytest.importorskip("torch", reason="exports are proven in torch, which requirements-dev.txt installs")
from mmjax.serving.fusion_model import FusionModel  # noqa: E402
from mmjax.serving.loading import load  # noqa: E402
from mmjax.serving.model import ModelConfig  # noqa: E402

pytestmark = pytest.mark.usefixtures("shared_compilations")

FUSION, DUAL = (Path(__file__).parent / name for name in ("tiny_fusion_config.py", "tiny_config.py"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = write_image_folder(tmp_path_factory.mktemp("images"))
    place = tmp_path_factory.mktemp("runs") / "albef"
    arguments = [f"--config={FUSION}", f"--workdir={place}", f"--data=imagefolder:{images}"]
    assert ending.status(train.main, arguments) == 0
    return place


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As our module, and proven in a process that has no JAX."""
    out = tmp_path_factory.mktemp("exports") / "albef"
    export.main([f"--workdir={run}", f"--out={out}", "--no-proof"])
    result = proven_without("jax", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("proven: largest differences: text ")
    return out


def test_it_is_written_as_our_module_and_proven(folder: Path) -> None:
    facts, found = (json.loads((folder / name).read_text()) for name in ("mmjax.json", prove.PARITY))
    assert (facts["kind"], facts["format"], facts["class"]) == ("fusion", "mmjax", "MmjaxFusion")
    assert facts["step"] == 2
    streams, heads = {"text", "image"}, {"token_logits", "pair_logits"}
    assert found["outputs"].keys() == streams | heads | {"image_features", "text_features", "logits"}
    assert max(output["max"] for output in found["outputs"].values()) < 1e-4
    assert set(found["pixels"]["cases"].values()) == set(found["tokens"]["cases"].values()) == {0}
    assert found["retrieval"]["top1"] == 1.0


@pytest.mark.parametrize("target", ["mmjax", "reference"])
def test_a_model_starts_from_an_export(target: str, run: Path, folder: Path, tmp_path: Path) -> None:
    """Every parameter, as what is written of the new model says."""
    if target == "reference":
        folder = tmp_path / "out"
        export.main([f"--workdir={run}", f"--out={folder}", "--to=reference", "--no-proof"])
    model = from_values(workdir.read_config(run)).model
    state = nnx.state(model.build(jax.random.key(7)))
    said: list[str] = []
    params = initialised(nnx.to_pure_dict(state), InitConfig(source=f"hf:{folder}"), model, said.append)
    format, _ = read_fusion_folder(folder)
    leaves = {path: np.asarray(leaf) for path, leaf in paths.leaves(params).items()}
    again, written = dict(format.tensors(model, leaves)), load_file(folder / "model.safetensors")
    assert again.keys() == written.keys()
    # The scale and the temperature, its inverse, are turned into each other.
    assert above(relative_errors(again, written), LAYER) == {}
    left_out = {
        "mmjax": "nothing",
        "reference": r"\d+ tensors \(training carries them from step to step\), .*position_ids",
    }
    assert re.search(f"left out: {left_out[target]}; born anew: nothing$", said[0]), said[0]


def test_it_is_served(folder: Path) -> None:
    model = load(ModelConfig(folder))
    assert isinstance(model, FusionModel)
    image = model.prepare_image(Image.new("RGB", (20, 30), "red"))
    tokens = model.encode_tokens(image)
    matches = model.match(model.beside(model.prepare_pairs(["a red apple", "thing 3"]), image, tokens))
    assert matches.shape == (2,)
    words = model.fill(model.beside(model.prepare_masked(f"a {model.mask_token}", 1), image, tokens), 3)
    assert words.shape == (1, 1, 3, 2)


def test_the_code_of_its_card_runs(folder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    found: dict = {}
    exec(code.replace("DIR", str(folder)).replace("photo.jpg", str(folder / "proof/images/photo.jpg")), found)
    assert found["outputs"].keys() == {"token_logits", "pair_logits"}
    assert "# token_logits, pair_logits\n" in code


def test_the_names_of_its_authors_are_read_back_and_proven(run: Path, tmp_path: Path) -> None:
    export.main([f"--workdir={run}", f"--out={tmp_path / 'out'}", "--to=reference", "--proof"])
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert "text_encoder.bert.encoder.layer.1.crossattention.self.query.weight" in weights
    assert weights["temp"].shape == ()
    assert json.loads((tmp_path / "out" / prove.PARITY).read_text())["failures"] == []


def test_a_wrong_weight_fails_the_proof(folder: Path, tmp_path: Path) -> None:
    out = shutil.copytree(folder, tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    weights["pair_head.bias"] = weights["pair_head.bias"] + np.float32([0, 1e-2])
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"trained: pair logits differ by 1.0e-02 \(bar 1e-04\): .*moved to .*out.failed"
    ):
        prove.main([str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (
            FUSION,
            ["--to=huggingface"],
            "ViltModel cannot express .*: export it with --to mmjax, which can express every",
        ),
        (FUSION, ["--to=onnx"], "--to onnx is not for a fusion model: choose one of mmjax, huggingface, reference"),
        (FUSION, ["--part=image"], "--part image is not for a fusion model"),
        (
            DUAL,
            ["--to=reference"],
            "--to reference is not for a dual encoder: choose one of huggingface, open_clip, onnx",
        ),
    ],
)
def test_what_a_kind_of_model_cannot_be_is_refused(config, arguments, message, run, tmp_path) -> None:
    place = run
    if config is DUAL:
        place = tmp_path
        workdir.write_json(place / workdir.CONFIG, from_values(load_config(str(config))).to_dict())
    with pytest.raises(UserError, match=message):
        export.main([f"--workdir={place}", f"--out={tmp_path / 'out'}", "--no-proof", *arguments])
    assert not (tmp_path / "out").exists()
