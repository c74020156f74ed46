"""Arguments of the entry points: what they may be, and the line and status that a wrong one ends with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmjax import ending, flags
from mmjax.errors import UserError

CONFIG = str(Path(__file__).parent / "tiny_config.py")


def parsed(*arguments: str) -> dict[str, Any]:
    return flags.parse_flags("mmjax.train", arguments, {"workdir": "folder of the run"})


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The status of the arguments, and what is written to standard error."""
    return ending.status(lambda given: parsed(*given), arguments), capsys.readouterr().err


@pytest.mark.parametrize("given", [["--config", CONFIG], [f"--config={CONFIG}"], [f"-config={CONFIG}"]])
def test_a_config_file_with_overrides(given: Sequence[str]) -> None:
    values = parsed("--config.train.num_steps=7", *given, "--workdir=here")
    assert values["workdir"] == "here"
    assert values["config"].train.num_steps == 7


def test_overrides_of_each_type() -> None:
    config = parsed(
        f"--config={CONFIG}",
        "--config.optim.learning_rate=1",
        "--config.evals.splits=('a', 'b')",
        "--config.data.augment.zoom=(1, 2)",
        "--config.optim.rules[0].freeze=true",
        "--config.model.text.eos_id=3",
        "--noconfig.logs.metrics.tensorboard",
    )["config"]
    assert config.optim.learning_rate == 1.0
    assert config.evals.splits == ("a", "b")
    assert config.data.augment.zoom == (1, 2)
    assert config.optim.rules[0]["freeze"] is True
    assert config.model.text.eos_id == 3
    assert config.logs.metrics.tensorboard is False


def test_a_float_field_written_as_a_whole_number_takes_a_fraction() -> None:
    config = parsed(f"--config={CONFIG}", "--config.data.augment.rotate_degrees=2.5")["config"]
    assert config.data.augment.rotate_degrees == 2.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.train.num_step=3"], "unknown key config.train.num_step: did you mean num_steps?"),
        (["--config.trian.num_steps=3"], "unknown key config.trian.num_steps: did you mean train?"),
        (["--config.train.num_steps.x=3"], "unknown key config.train.num_steps.x: what stands before 'x' has no parts"),
        (["--config.optim.rules[9].freeze=True"], "unknown key config.optim.rules[9].freeze: "),
        (["--config.train.num_steps=abc"], "--config.train.num_steps=abc: invalid literal for int()"),
        (["--config.data.augment.zoom=(1,2"], "--config.data.augment.zoom=(1,2: "),
        (["--wrokdir=x"], "'wrokdir'. Did you mean: workdir"),
        (["--workdir"], "--workdir"),
        (["x.py"], "unexpected argument 'x.py': flags are written --name=value"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = outcome(capsys, f"--config={CONFIG}", *arguments)
    assert status == 2
    assert message in text
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_a_list_of_sections_is_not_replaced_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = outcome(capsys, f"--config={CONFIG}", "--config.optim.rules=()")
    assert (status, said.count("\n")) == (2, 1)
    assert "config.optim.rules is a list, which a flag does not replace" in said


def test_a_missing_config_file_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = outcome(capsys, f"--config={CONFIG.replace('config', 'confg')}")
    assert status == 2
    assert "tiny_confg.py does not exist: did you mean tiny_config.py" in text
    assert outcome(capsys, "--config") == (
        2,
        "error: --config has no value: give a config file; see python -m mmjax.train --help\n",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x =", "line 1: invalid syntax: correct the config file"),
        ("x = 1", "has no function get_config: write one"),
        ("\nimport nosuchmodule", "line 2: ModuleNotFoundError: No module named 'nosuchmodule': correct"),
        (
            "from mmjax.training.step import TrainConfig\n\ndef get_config():\n    return TrainConfig(num_stepz=1)",
            "line 4: TrainConfig has no field 'num_stepz', did you mean num_steps?: correct",
        ),
    ],
)
def test_a_broken_config_file_is_one_line_with_its_place(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(text)
    status, written = outcome(capsys, f"--config={file}")
    assert status == 2
    assert str(file) in written
    assert message in written
    assert written.count("\n") == 1


def test_a_config_file_may_take_an_argument(tmp_path: Path) -> None:
    file = tmp_path / "sized.py"
    file.write_text(
        "import ml_collections\n\ndef get_config(size):\n    return ml_collections.ConfigDict({'size': size})"
    )
    assert parsed(f"--config={file}:B")["config"].size == "B"


def test_help_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed("--help")
    assert ended.value.code == 0
    assert "--workdir" in capsys.readouterr().out


def test_a_flag_that_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"--workdir is missing: see python -m mmjax.train --help"):
        flags.require(parsed(), "workdir", "mmjax.train")


def test_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(arguments: Sequence[str]) -> None:
        raise KeyboardInterrupt

    def wrong(arguments: Sequence[str]) -> None:
        raise UserError("two\n  lines")

    def broken(arguments: Sequence[str]) -> None:
        raise ValueError("a bug")

    assert ending.status(lambda arguments: None, []) == 0
    assert ending.status(interrupted, []) == 130
    assert "go on from the last checkpoint" in capsys.readouterr().err
    assert ending.status(wrong, []) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    with pytest.raises(ValueError, match="a bug"):
        ending.status(broken, [])
