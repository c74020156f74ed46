"""Whose a workdir is: claimed once, gone on with by the same run, refused to any other."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmjax import workdir
from mmjax.errors import UserError

CONFIG = {
    "train": {"num_steps": 10, "seed": 0},
    "mesh": {"data": -1},
    "data": {"batch_size": 8, "prefetch": 2, "augment": {"zoom": (0.5, 1.0)}},
    "evals": {"splits": ["test"]},
}
FINGERPRINT = {"tokenizer": "a", "image preprocessing": "b"}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    *parents, leaf = path.split(".")
    section: Any = config
    for parent in parents:
        section = section[parent]
    section[leaf] = value
    return config


@pytest.fixture
def claimed(tmp_path: Path) -> Path:
    assert workdir.claim(tmp_path / "a" / "run", CONFIG, FINGERPRINT) is False
    return tmp_path / "a" / "run"


def test_the_same_run_goes_on(claimed: Path) -> None:
    assert workdir.claim(claimed, CONFIG, FINGERPRINT) is True
    assert workdir.read_config(claimed) == json.loads(json.dumps(CONFIG))


@pytest.mark.parametrize("path", ["train.seed", "data.batch_size", "data.augment.zoom"])
def test_another_config_is_refused_with_the_key(claimed: Path, path: str) -> None:
    before = (claimed / workdir.CONFIG).read_bytes()
    with pytest.raises(UserError, match=rf"holds a run of another config \({path} .* -> 3\): give another --workdir"):
        workdir.claim(claimed, changed(path, 3), FINGERPRINT)
    assert (claimed / workdir.CONFIG).read_bytes() == before


def test_many_changes_are_counted(claimed: Path) -> None:
    other = {**CONFIG, "model": {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}}
    with pytest.raises(UserError, match=r"model.a None -> 1, .* and 2 more\)"):
        workdir.claim(claimed, other, FINGERPRINT)


@pytest.mark.parametrize("path", ["train.num_steps", "mesh.data", "data.prefetch", "evals.splits"])
def test_what_leaves_the_updates_as_they_are_may_change(claimed: Path, path: str) -> None:
    assert workdir.claim(claimed, changed(path, 3), FINGERPRINT) is True
    assert workdir.read_config(claimed) == json.loads(json.dumps(changed(path, 3)))


@pytest.mark.parametrize("name", FINGERPRINT)
def test_other_inputs_are_refused_by_name(claimed: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"the {name} is not the one this run was trained with; put back"):
        workdir.claim(claimed, CONFIG, {**FINGERPRINT, name: "other"})


def test_a_folder_without_a_run_and_a_broken_one(tmp_path: Path, claimed: Path) -> None:
    with pytest.raises(UserError, match=r"holds no run \(config.json is missing\): give"):
        workdir.read_config(tmp_path)
    (claimed / workdir.FINGERPRINT).unlink()
    with pytest.raises(UserError, match=r"fingerprint.json cannot be read .*: restore it"):
        workdir.claim(claimed, CONFIG, FINGERPRINT)
    (claimed / workdir.CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read .*: restore it"):
        workdir.claim(claimed, CONFIG, FINGERPRINT)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written \(Not a directory\): give another --workdir"):
        workdir.claim(tmp_path / "file" / "run", CONFIG, FINGERPRINT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\): give another --workdir"):
        workdir.claim(tmp_path / "run", CONFIG, FINGERPRINT)


def test_nothing_half_written_is_left(claimed: Path) -> None:
    assert sorted(path.name for path in claimed.iterdir()) == [workdir.CONFIG, workdir.FINGERPRINT]
