"""The account of a run's time: hand-made starts, and that of a ledger."""

import json
import time
from pathlib import Path

import pytest

from mmjax import goodput as command
from mmjax.ending import status
from mmjax.errors import UserError
from mmjax.parallel.activity import Activity
from mmjax.training.goodput import FOLDER, Ledger, Start, account, goodput, read_starts

STARTS = [
    # Ten updates in 20 s, of which two were not saved; then nobody for 5 s.
    Start(1000.0, 1030.0, 0, 10, 8.0, {"start-up": 6.0, "compile": 4.0, "step": 20.0}),
    Start(1035.0, 1050.0, 8, 12, 7.0, {"start-up": 5.0, "data": 1.0, "step": 8.0, "checkpoint": 1.0}),
]


def test_all_wall_time_is_accounted_for() -> None:
    totals = account(STARTS)
    steps = {"step": 16.0 + 8.0, "repeated step": 4.0}
    assert totals == {"start-up": 11.0, "compile": 4.0, "down": 5.0, "data": 1.0, "checkpoint": 1.0, **steps}
    assert sum(totals.values()) == 1050.0 - 1000.0
    assert goodput(totals) == 24.0 / 50.0


def test_a_start_that_made_no_step_repeats_none() -> None:
    starts = [Start(0.0, 10.0, 4, 4, 0.0, {"start-up": 10.0}), Start(10.0, 12.0, 2, 2, 0.0, {"start-up": 2.0})]
    assert account(starts) == {"start-up": 12.0}
    assert goodput(account(starts)) == 0.0


def test_a_clock_that_was_set_back_makes_no_time() -> None:
    starts = [Start(1000.0, 1010.0, 0, 0, 0.0, {"step": 10.0}), Start(900.0, 905.0, 0, 0, 0.0, {"step": 5.0})]
    assert account(starts) == {"step": 15.0}


def test_a_ledger_is_a_file_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for first_step in (0, 3):
        activity = Activity(secs_before=2.0)
        ledger = Ledger(tmp_path, activity, first_step)
        now[0] += 4.0
        activity.turn_to("step", first_step)
        now[0] += 3.0
        ledger.step(first_step + 1)
        now[0] += 1.0
        ledger.step(first_step + 2)
        ledger.write()
    starts = read_starts(tmp_path)
    assert [(start.first_step, start.last_step, start.first_step_secs) for start in starts] == [
        (0, 2, 9.0),
        (3, 5, 9.0),
    ]
    assert [start.secs for start in starts] == [{"start-up": 6.0, "step": 4.0}] * 2
    assert all(start.ended - start.began == pytest.approx(10.0) for start in starts)


def test_hidden_time_counts_as_what_went_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    activity = Activity("step")
    for hidden, secs in ((True, 2.0), (False, 3.0)):
        with activity("data", 1, hidden=lambda hidden=hidden: hidden):
            now[0] += secs
    assert activity.secs() == {"step": 2.0, "data": 3.0}


def test_the_command_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / FOLDER).mkdir()
    for number, start in enumerate(STARTS):
        (tmp_path / FOLDER / f"{number:06}.json").write_text(json.dumps(vars(start)))
    path = tmp_path / "account.json"
    assert status(command.main, [f"--workdir={tmp_path}", f"--json={path}"]) == 0
    shown = capsys.readouterr().out
    assert "goodput 48.0% of 50 s in 2 starts; seconds to the first step of each: 8.0, 7.0" in shown
    assert (tmp_path / "goodput.png").stat().st_size > 5000
    assert json.loads(path.read_text())["secs"]["repeated step"] == 4.0


def test_without_an_account_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no account of time"):
        read_starts(tmp_path)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "000000.json").write_text("{}")
    with pytest.raises(UserError, match="000000.json is not an account of time .*: delete it"):
        read_starts(tmp_path)
