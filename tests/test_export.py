"""Exports end to end: a run in, a folder out that PyTorch loads and that is the model that was trained."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax import ending, evaluate, export, prove, train
from mmjax.errors import UserError
from mmjax.interop.dual.exports import FACTS
from mmjax.training.checkpoint import Checkpoints
from tests.folders import write_image_folder
from tests.interop.exported import proven_without
from tests.interop.torch_state import module_cache
from tests.tolerances import LAYER

torch = pytest.importorskip("torch", reason="exports are proven in torch, which requirements-dev.txt installs")
pytestmark = pytest.mark.usefixtures("shared_compilations")

CONFIG = Path(__file__).parent / "tiny_config.py"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def own(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose image tower averages its patches, which no class of Hugging Face does."""
    return trained(tmp_path_factory.mktemp("runs") / "own", images)


@pytest.fixture(scope="module")
def siglip(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a SigLIP on a mesh of four devices, without averaged parameters."""
    mesh = ("--config.mesh.fsdp=2", "--config.mesh.tensor=2")
    changes = ("--config.model.image.pool=map", "--config.train.ema_decay=0.0", *mesh)
    return trained(tmp_path_factory.mktemp("runs") / "siglip", images, *changes)


@pytest.fixture(autouse=True)
def own_module_cache(tmp_path: Path) -> Any:
    with module_cache(tmp_path / "modules"):
        yield


def trained(workdir: Path, images: Path, *overrides: str) -> Path:
    arguments = [f"--config={CONFIG}", f"--workdir={workdir}", f"--data=imagefolder:{images}", *overrides]
    assert ending.status(train.main, arguments) == 0
    return workdir


def exported(workdir: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """What `parity.json` says after the export."""
    export.main([f"--workdir={workdir}", f"--out={out}", *arguments])
    return json.loads((out / prove.PARITY).read_text())


@pytest.fixture(scope="module")
def siglip_folder(siglip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "siglip"
    export.main([f"--workdir={siglip}", f"--out={out}"])
    return out


def test_a_siglip_is_written_as_one_and_proven(siglip_folder, capsys):
    del capsys
    facts, found = (json.loads((siglip_folder / name).read_text()) for name in (FACTS, prove.PARITY))
    assert facts["class"] == "SiglipModel"
    assert facts["step"] == 6
    assert not facts["ema"]
    assert set(facts["fingerprint"]) == {"tokenizer", "image preprocessing"}
    assert found["failures"] == []
    assert set(found["outputs"]) == {"image_features", "text_features", "logits"}
    assert max(output["max"] for output in found["outputs"].values()) < 1e-4
    assert set(found["pixels"]["cases"].values()) == {0}
    assert set(found["tokens"]["cases"].values()) == {0}
    assert found["retrieval"]["top1"] == 1.0
    card = (siglip_folder / "README.md").read_text()
    assert "SiglipModel" in card
    assert '"train"' in card
    assert "Not stated by the data" in card


def test_the_proof_needs_no_jax(siglip_folder):
    result = proven_without("jax", siglip_folder)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("proven: largest differences: image features ")


def test_what_no_class_expresses_brings_its_code_and_programs(own, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", pytest.fail)  # The library would ask whether the code may run.
    found = exported(own, tmp_path / "out")
    assert found["failures"] == []
    assert "written as MMJaxDualEncoder, which loads with trust_remote_code=True, as" in capsys.readouterr().out
    programs = {path.name for path in (tmp_path / "out" / "programs").iterdir()}
    assert programs == {f"{name}.{kind}" for name in ("image", "text", "both") for kind in ("onnx", "pt2")}
    assert json.loads((tmp_path / "out" / FACTS).read_text())["ema"]


def test_plain_parameters_are_not_their_average(own, tmp_path):
    weights = {}
    for flag in ("--ema", "--no-ema"):
        export.main([f"--workdir={own}", f"--out={tmp_path / flag}", flag, "--no-proof"])
        assert not (tmp_path / flag / prove.PARITY).exists()
        weights[flag] = load_file(tmp_path / flag / "model.safetensors")
    name = "image.stem.projection.weight"
    assert np.abs(weights["--ema"][name] - weights["--no-ema"][name]).max() > 0


def test_rounded_weights_are_proven_in_float32(siglip, tmp_path):
    found = exported(siglip, tmp_path / "out", "--dtype=bfloat16")
    assert found["failures"] == []
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(array.dtype) for array in stored.values()} == {"bfloat16"}


@pytest.mark.parametrize("kind", ["onnx", "torch_export"])
def test_programs_are_proven(siglip, kind, tmp_path):
    assert exported(siglip, tmp_path / "out", f"--to={kind}")["failures"] == []


def test_an_older_step_may_be_chosen(siglip, tmp_path):
    export.main([f"--workdir={siglip}", f"--out={tmp_path / 'out'}", "--step=4", "--no-proof"])
    assert json.loads((tmp_path / "out" / FACTS).read_text())["step"] == 4
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        export.main([f"--workdir={siglip}", f"--out={tmp_path / 'other'}", "--step=3"])


def test_a_wrong_weight_fails_the_proof_and_leaves_nothing_that_looks_finished(siglip_folder, tmp_path):
    out = shutil.copytree(siglip_folder, tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    weights["text_model.head.bias"] = weights["text_model.head.bias"] + 1e-2
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"text features differ by .*it was moved to .*out.failed"):
        prove.main([str(out)])
    assert not out.exists()
    assert json.loads((tmp_path / "out.failed" / prove.PARITY).read_text())["failures"]


def test_other_preprocessing_fails_the_proof(siglip_folder, tmp_path):
    out = shutil.copytree(siglip_folder, tmp_path / "out")
    path = out / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "resample": 2}))
    with pytest.raises(UserError, match="pixels of 'photo.jpg' differ by"):
        prove.prove(out)


def test_an_export_that_fails_is_called_so(siglip, tmp_path, monkeypatch):
    for error, left in ((prove.Unequal("not equal"), ["out.failed"]), (UserError("no library"), [])):
        monkeypatch.setattr(prove, "prove", lambda folder, error=error: raised(error))
        with pytest.raises(UserError, match=str(error)):
            export.main([f"--workdir={siglip}", f"--out={tmp_path / 'out'}", "--proof"])
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == left
        shutil.rmtree(tmp_path / "out.failed", ignore_errors=True)


def raised(error: Exception) -> str:
    raise error


def test_a_missing_library_says_nothing_of_a_proven_export(siglip_folder, tmp_path):
    out = shutil.copytree(siglip_folder, tmp_path / "out")
    result = proven_without("torch", out)
    assert result.returncode == 2
    assert result.stderr == "error: torch is not installed: pip install -r requirements-export.txt\n"
    assert (out / prove.PARITY).read_bytes() == (siglip_folder / prove.PARITY).read_bytes()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("preprocessor_config.json", {"size": {"height": 24, "width": 24}}, "pixels of 'photo.jpg' differ by 255"),
        ("tokenizer_config.json", {"model_max_length": 5}, "tokens of 'CAPITALS and MiXeD' differ by 8"),
    ],
)
def test_inputs_of_another_size_fail_the_proof(siglip_folder, name, change, message, tmp_path):
    out = shutil.copytree(siglip_folder, tmp_path / "out")
    (out / name).write_text(json.dumps({**json.loads((out / name).read_text()), **change}))
    with pytest.raises(prove.Unequal, match=message):
        prove.prove(out)


def test_a_run_starts_from_an_export_and_keeps_what_is_locked(siglip, siglip_folder, images, tmp_path):
    """With decay, which moves all that is not frozen, and a tower of each kind of source."""
    changes = (
        "--config.model.image.pool=map",
        f"--config.init.source=hf:{siglip_folder}",
        "--config.model.locked=text",
        "--config.optim.weight_decay=0.1",
        "--config.train.num_steps=1",
        "--config.evals.every_steps=0",
    )
    workdir = trained(tmp_path / "run", images, *changes)
    before, _ = Checkpoints(siglip / "checkpoints", read_only=True).weights()
    after, _ = Checkpoints(workdir / "checkpoints", read_only=True).weights(ema=False)
    assert set(before) == set(after)
    for path in before:
        if path.startswith("text/"):
            assert np.array_equal(before[path], after[path]), path
        elif path.endswith("kernel"):
            # One step of Adam moves a number by about the learning rate: another start would lie far off.
            assert 0 < np.abs(before[path] - after[path]).max() < 0.05, path


def test_only_an_earlier_export_is_replaced(siglip, siglip_folder, tmp_path):
    out = shutil.copytree(siglip_folder, tmp_path / "out")
    export.main([f"--workdir={siglip}", f"--out={out}", "--no-proof"])
    assert not (out / prove.PARITY).exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").touch()
    with pytest.raises(UserError, match="holds something else than an export"):
        export.main([f"--workdir={siglip}", f"--out={other}"])
    assert (other / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part=text"], "BertModel cannot express .*norm = 'pre'"),
        (["--part=image"], "ViTModel cannot express pool = 'map'"),
        (["--to=onnx", "--part=text"], "--to onnx always writes a program for each tower"),
        (["--to=open_clip"], "export it with --to huggingface"),
        (["--ema"], "keeps no averaged parameters"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(siglip, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        export.main([f"--workdir={siglip}", f"--out={tmp_path / 'out'}", "--no-proof", *arguments])
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_scored_as_the_run_is(siglip, siglip_folder, images, tmp_path):
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    data = (f"--data=imagefolder:{images}", "--split=test")
    evaluate.main([f"--workdir={siglip}", f"--json={ours}", *data])
    evaluate.main([f"--model=hf:{siglip_folder}", f"--json={theirs}", *data])
    ours, theirs = (json.loads(path.read_text())["splits"]["test"]["retrieval"] for path in (ours, theirs))
    for direction in ("image_to_text", "text_to_image"):
        assert theirs[direction] == pytest.approx(ours[direction], abs=LAYER)


def test_a_damaged_checkpoint_is_not_exported(siglip, tmp_path):
    copy = shutil.copytree(siglip, tmp_path / "copy")
    largest = max((path for path in (copy / "checkpoints" / "6").rglob("*") if path.is_file()), key=os.path.getsize)
    data = bytearray(largest.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    largest.write_bytes(data)
    with pytest.raises(UserError, match=r"is damaged \(.*: choose another --step"):
        export.main([f"--workdir={copy}", f"--out={tmp_path / 'out'}", "--no-proof"])
    assert not (tmp_path / "out").exists()
