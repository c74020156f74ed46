"""What goes wrong at a user's desk: one line that names the file or key and the remedy, status 2, and nothing lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmjax import assembly, ending, evaluate, train, workdir
from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.training.jsonl import read_lines
from tests.folders import write_image_folder
from tests.test_config import shipped

CONFIG = Path(__file__).parents[1] / "tiny_config.py"
pytestmark = pytest.mark.usefixtures("shared_compilations")
Lines = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "images")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def arguments(run: Path, data: Any, *overrides: str) -> list[str]:
    return [f"--config={CONFIG}", f"--workdir={run}", f"--config.data.source={data}", *overrides]


@pytest.fixture
def error(capfd: pytest.CaptureFixture[str]) -> Lines:
    """The one line that `main(arguments)` ends with."""

    def line_of(main: Any, *arguments: str) -> str:
        capfd.readouterr()
        assert ending.status(main, arguments) == 2
        text = capfd.readouterr().err
        assert text.count("error: ") == 1
        assert "Traceback" not in text
        return text.splitlines()[-1]

    return line_of


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.train.num_step=3", "unknown key config.train.num_step: did you mean num_steps?"),
        ("--config.train.nonfinite=skipp", "config.train.nonfinite = 'skipp' is not known: did you mean skip?"),
        ("--config.mesh.data=16", "mesh (data=16, fsdp=1, tensor=1) needs 16 devices but there are 8: lower mesh.data"),
        ("--config.mesh.tensor=4", "mesh.tensor = 4 does not divide 2 attention heads: set mesh.tensor to one of 1, 2"),
        ("--config.mesh.data=3", "data.batch_size = 8 does not divide by 3 (mesh.data 3 x mesh.fsdp 1"),
        ("--config.train.accumulate=3", "train.accumulate 3): set it to 6 or 9"),
        ("--config.objective.overlap_target=0.5", "objective.overlap_target compares words: set data.num_words"),
        ("--config.model.text.vocab_size=100", "ids but model.text.vocab_size = 100: set model.text.vocab_size=8192"),
        ("--config.data.tokenizer=/nowhere", "data.tokenizer='/nowhere' cannot be loaded ("),
        ("--config.data.split=trian", "split 'trian' does not exist: did you mean train?"),
        ("--config.evals.splits=('tset',)", "split 'tset' does not exist: did you mean test?"),
        ("--config.data.text_key=texts", "data.text_key 'texts' does not exist: did you mean text?"),
    ],
)
def test_a_wrong_setting(override: str, message: str, error: Lines, folder: Path, run: Path) -> None:
    assert message in error(train.main, *arguments(run, f"imagefolder:{folder}", override))
    assert not run.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("imagefolder:{}/nowhere", "/nowhere does not exist: check the path"),
        ("imagefolder:{}/empty", "/empty has no metadata.jsonl: write one line per image"),
        ("imagefolder:{}/blank", "metadata.jsonl is empty: write a line"),
        ("tfds:{}/empty", "/empty holds no dataset_info.json: give the folder that TFDS wrote"),
        ("imagefoldr:{}/empty", "does not exist: did you mean imagefolder:DIR"),
    ],
)
def test_missing_or_empty_data(data: str, message: str, error: Lines, tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "metadata.jsonl").touch()
    assert message in error(train.main, *arguments(run, data.format(tmp_path)))
    assert not run.exists()


def break_some(folder: Path, num_images: int) -> None:
    """The first images of the training split are cut off, and the last caption is empty."""
    split = folder / "train"
    for index in range(num_images):
        path = split / f"{index}.png"
        path.write_bytes(path.read_bytes()[:60])
    *lines, last = (split / "metadata.jsonl").read_text().splitlines()
    lines.append(json.dumps({**json.loads(last), "text": ""}))
    (split / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def test_bad_records_among_good_ones_are_listed_and_the_run_goes_on(folder: Path, run: Path) -> None:
    break_some(folder, 2)
    given = arguments(run, f"imagefolder:{folder}", "--config.data.max_bad_share=0.5")
    assert ending.status(train.main, given) == 0
    listed = [json.loads(line) for line in workdir.bad_records(run).read_text().splitlines()]
    assert sorted(record["index"] for record in listed) == [0, 1, 31]
    reasons = {record["index"]: record["reason"] for record in listed}
    assert "cannot be decoded" in reasons[0]
    assert "caption is ''" in reasons[31]
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("share", "status"), [(0.5, 2), (1.0, 0)])
def test_where_every_record_is_bad(share: float, status: int, folder: Path, run: Path) -> None:
    """The run ends once it has seen enough of them, or, if that is wanted, learns nothing and lists them all."""
    break_some(folder, 32)
    given = arguments(run, f"imagefolder:{folder}", f"--config.data.max_bad_share={share}", "--config.evals.splits=()")
    assert ending.status(train.main, given) == status
    lines = list(read_lines(run / "metrics.jsonl"))
    assert len(lines) == 6 if status == 0 else len(lines) < 6
    assert all(line["loss"] == 0 for line in lines)
    listed = {json.loads(line)["index"] for line in workdir.bad_records(run).read_text().splitlines()}
    assert listed == set(range(32))


def test_too_many_bad_records_stop_the_run_which_goes_on_after_the_repair(
    folder: Path, run: Path, error: Lines
) -> None:
    break_some(folder, 8)
    line = error(train.main, *arguments(run, f"imagefolder:{folder}"))
    assert "records seen are bad, more than data.max_bad_share=0.01 (the last one: " in line
    assert "repair the data or raise the limit" in line
    given = arguments(run, f"imagefolder:{folder}", "--config.data.max_bad_share=0.5")
    assert ending.status(train.main, given) == 0
    assert len(list(read_lines(run / "metrics.jsonl"))) == 6


def claimed(run: Path, folder: Path, seed: int = 0, **fingerprint: str) -> Experiment:
    """Makes `run` the workdir of the tiny config, with chosen digests."""
    values = load_config(str(CONFIG))
    values.data.source, values.train.seed = f"imagefolder:{folder}", seed
    experiment = from_values(values)
    own = assembly.fingerprint(experiment, assembly.load_tokenizer(experiment))
    workdir.claim(run, experiment.to_dict(), own | fingerprint)
    return experiment


def test_a_workdir_of_another_config(folder: Path, run: Path, error: Lines) -> None:
    claimed(run, folder, seed=5)
    before = {path: path.read_bytes() for path in run.iterdir()}
    line = error(train.main, *arguments(run, f"imagefolder:{folder}"))
    assert f"{run} holds a run of another config (train.seed 5 -> 0): give another --workdir" in line
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_another_tokenizer_is_no_bad_score(folder: Path, run: Path, error: Lines) -> None:
    claimed(run, folder, tokenizer="of an older vocabulary")
    message = f"{run}: the tokenizer is not the one this run was trained with; put back the original"
    assert message in error(train.main, *arguments(run, f"imagefolder:{folder}"))
    assert message in error(evaluate.main, f"--workdir={run}")


def test_other_pixels_are_another_preprocessing(folder: Path, run: Path) -> None:
    experiment = claimed(run, folder)
    tokenizer, image = assembly.load_tokenizer(experiment), experiment.model.image
    other = replace(experiment, model=replace(experiment.model, image=replace(image, image_mean=(0.4, 0.5, 0.5))))
    digests = assembly.fingerprint(experiment, tokenizer), assembly.fingerprint(other, tokenizer)
    assert digests[0]["tokenizer"] == digests[1]["tokenizer"]
    assert digests[0]["image preprocessing"] != digests[1]["image preprocessing"]


def test_evaluation_without_a_run_or_a_checkpoint(folder: Path, run: Path, error: Lines) -> None:
    assert f"{run} holds no run (config.json is missing): give" in error(evaluate.main, f"--workdir={run}")
    claimed(run, folder)
    assert "holds no checkpoint (steps that it has: none): train first" in error(evaluate.main, f"--workdir={run}")


def test_of_texts_alone_there_is_nothing_to_score() -> None:
    with pytest.raises(UserError, match=r"neither embeds .* nor says anything of a pair: read what .* metrics\.jsonl"):
        evaluate.chosen_data(shipped("bert_base"), None, "validation")
    assert evaluate.chosen_data(shipped("vilbert_base"), None, "validation").evals.splits == ("validation",)


def test_no_space_left_for_a_checkpoint(folder: Path, small_disk: Callable[[int], Path], error: Lines) -> None:
    disk = small_disk(4)
    run, filler = disk / "run", disk / "other.bin"
    filler.write_bytes(bytes(2**20))
    line = error(train.main, *arguments(run, f"imagefolder:{folder}"))
    assert "no space left" in line
    filler.unlink()
    saved = [int(path.name) for path in (run / workdir.CHECKPOINTS).iterdir() if path.name.isdigit()]
    assert saved
    assert len(list(read_lines(run / "metrics.jsonl"))) >= max(saved)
