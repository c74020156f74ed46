"""Searches and scaling: candidates, what is worth compiling, the front, and the table; plans are made up."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from mmjax.errors import UserError
from mmjax.parallel.chips import CHIPS
from mmjax.plan import candidates as ways
from mmjax.plan import command, processes, scale, search
from mmjax.plan.candidates import Candidate, Guess, candidates, guess, worth_compiling
from mmjax.plan.processes import Answer, Request
from mmjax.plan.search import Choice, front, guesses, with_overrides
from tests.test_config import ROOT, shipped

V5E = CHIPS["TPU v5 lite"]
PARAMETERS = 203_155_970
TINY = ROOT / "tests" / "tiny_config.py"


@pytest.fixture(scope="module")
def siglip():
    experiment = shipped("siglip_b16")
    return replace(experiment, data=replace(experiment.data, batch_size=4096))


def fake_plan(hybrid, gib, fits=True):
    ends = {f"{end}_secs": hybrid * factor for end, factor in (("roofline", 0.8), ("hybrid", 1), ("cycles", 1.2))}
    return {"memory": {"peak_bytes": gib * 2**30, "fits": fits, "limit_bytes": 16 * 2**30}, "time": ends}


def test_candidates_fill_the_machine_and_divide_batch_and_heads(siglip):
    found = list(candidates(siglip, 16))
    assert len(found) == len(set(found)) > 100
    for one in found:
        assert one.data * one.fsdp * one.tensor == 16
        assert 4096 % (one.data * one.fsdp * one.accumulate) == 0
        assert 12 % one.tensor == 0
    assert {one.fsdp for one in found} == {1, 2, 4, 8, 16}
    assert {one.remat for one in found} == set(ways.SAVED)
    assert {one.implementation for one in found} == {"auto", "dense", "gather", "ring"}
    assert {one.unroll for one in found} == {1, -1}


def test_guesses_know_what_memory_and_time_follow_from(siglip):
    base = Candidate(1, 16, 1, 1, "full", "auto", 1)

    def of(**changes):
        return guess(siglip, replace(base, **changes), V5E, PARAMETERS)

    assert of(fsdp=1, data=16).num_bytes > of().num_bytes + 2 * 2**30
    assert of(fsdp=1, data=16).secs > of().secs, "the whole state is updated on every device"
    assert of(remat="none").num_bytes > of(remat="narrow").num_bytes > of().num_bytes
    assert of(remat="none").secs < of().secs < of(accumulate=2).secs
    assert of(accumulate=4).num_bytes < of().num_bytes
    assert of(tensor=4, fsdp=4).secs > of().secs


def test_a_guess_is_near_what_the_compiler_says(siglip):
    """2.63 GiB and 369 ms by the hybrid sum, see docs/performance.md."""
    found = guess(siglip, Candidate(1, 16, 1, 1, "full", "auto", 1), V5E, PARAMETERS)
    assert 0.7 < found.num_bytes / (2.63 * 2**30) < 1.4
    assert 0.7 < found.secs / 0.369 < 1.4


def test_the_fastest_of_each_kind_come_first():
    def made(remat, secs, gib):
        return Guess(Candidate(1, 16, 1, 1, remat, "auto", 1), gib * 2**30, secs)

    all_ = [made("full", 3, 1), made("full", 4, 1), made("none", 1, 90), made("narrow", 2, 9), made("full", 5, 1)]
    found = worth_compiling(all_, 16 * 2**30, 3)
    assert [one.secs for one in found] == [2, 3, 4]


def test_nothing_that_fits_is_said(siglip):
    with pytest.raises(UserError, match="nothing of .* ways fits 15.75 GiB .*smaller data.batch_size"):
        guesses(replace(siglip, data=replace(siglip.data, batch_size=2**20)), 4, V5E, 6)
    with pytest.raises(UserError, match="closed forms of dual encoders"):
        guesses(shipped("albef"), 4, V5E, 6)


def test_the_front_has_what_is_faster_or_smaller_than_all_others():
    def choice(secs, gib, fits=True):
        return Choice((), secs, gib * 2**30, fits, fake_plan(secs, gib, fits))

    fast, small, worse, never = choice(1, 9), choice(3, 2), choice(4, 8), choice(0.5, 30, fits=False)
    assert front([worse, small, never, fast]) == [fast, small]


def test_overrides_are_those_of_the_command_line(siglip):
    changed = with_overrides(siglip, ["--config.mesh.fsdp=4", "--config.model.image.remat=none"])
    assert (changed.mesh.fsdp, changed.model.image.remat) == (4, "none")
    assert changed.model.text.remat == "full"


def test_the_config_as_it_is_is_planned_once(siglip):
    """With its mesh spelled out it is the same."""
    same = Candidate(1, 16, 1, 1, "full", "auto", 1).overrides
    other = Candidate(16, 1, 1, 1, "full", "auto", 1).overrides
    found = search._requests(siglip, ["--config=x.py"], [(), same, other], 16)
    assert list(found.values()) == [(), ("--config.mesh.data=16", "--config.mesh.fsdp=1")]
    assert search._filled(siglip, 4) == siglip, "16 parts are more than there are devices"


def test_a_search_shows_the_front_and_keeps_what_it_has(siglip, monkeypatch, capsys):
    asked = []

    def fake_answers(requests):
        for place, request in enumerate(requests):
            asked.append(request)
            if place == 2:
                raise KeyboardInterrupt
            yield Answer(request, fake_plan(1.0 + place, 8 - place), "")

    monkeypatch.setattr(search, "answers", fake_answers)
    given = ["--config=x.py", "--topology=v5e:4x4", "--config.optim.learning_rate=3e-4"]
    found = search.search(siglip, given, 16, V5E, 4, Console(width=200))
    assert len(found) == 2
    assert not any("learning_rate" in override for choice in found for override in choice.overrides)
    said = capsys.readouterr().out
    assert "stopped: what was planned is kept" in said
    assert "--config.mesh.data=" in said or "--config.model.image.remat=" in said
    assert asked[0].arguments == tuple(given), "the config as it is comes first"
    assert len({request.config for request in asked}) == len(asked)


def test_a_plan_is_made_once(tmp_path, monkeypatch):
    """The process is made up: it writes what it was asked for."""
    runs = []

    def run(command, **options):
        runs.append(command)
        file = next(argument for argument in command if argument.startswith("--json=")).removeprefix("--json=")
        if "--config.bad=1" not in command:
            (tmp_path / file).write_text(json.dumps({"made": command[3]}))
        return type("Done", (), {"stderr": "noise\nerror: no such key\n", "returncode": 2})

    monkeypatch.setattr(processes.subprocess, "run", run)
    good, other = (
        Request(("--config=a.py", "--topology=v5e:4x4"), "{}"),
        Request(("--config=a.py", "--topology=v5e:8x8"), "{}"),
    )
    bad = Request(("--config=a.py", "--config.bad=1"), "[]")
    first = list(processes.answers([good, other, bad], tmp_path))
    assert {answer.plan is None: answer.reason for answer in first} == {True: "no such key", False: ""}
    assert len(runs) == 3
    again = list(processes.answers([good, other], tmp_path))
    assert len(runs) == 3
    assert all(answer.plan == {"made": "--config=a.py"} for answer in again)


def test_a_plan_is_kept_for_its_config_machine_and_versions(monkeypatch):
    def name(config="{}", *arguments):
        return Request(("--topology=v5e:4x4", *arguments), config).file_name

    first = name()
    assert name("{}", "--json=x.json") == first
    assert len({first, name("[]"), name("{}", "--slices=2"), name("{}", "--topology=v5e:8x8")}) == 4
    monkeypatch.setattr(processes, "compilers", lambda: {"libtpu": "9"})
    other = name()
    monkeypatch.setattr(processes, "versions", lambda: {"jax": "9"})
    assert len({first, other, name()}) == 3


def test_state_is_split_over_no_more_devices_than_there_are(siglip):
    assert scale._mesh_overrides(siglip, 16) == []
    assert scale._mesh_overrides(siglip, 4) == ["--config.mesh.fsdp=4"]
    split = replace(siglip, mesh=replace(siglip.mesh, tensor=2))
    assert scale._mesh_overrides(split, 16) == ["--config.mesh.fsdp=8"]
    assert scale._mesh_overrides(replace(siglip, mesh=replace(siglip.mesh, data=2)), 4) == []


def test_scaling_is_planned_weak_and_strong(siglip, monkeypatch, tmp_path, capsys):
    asked = []

    def fake_answers(requests):
        for request in requests:
            asked.append(request.arguments)
            name = next(a for a in request.arguments if a.startswith("--topology=")).removeprefix("--topology=")
            batch = int(next(a for a in request.arguments if "batch_size" in a).partition("=")[2])
            devices = {"v5e:2x2": 4, "v5e:4x4": 16}[name]
            fits = batch / devices <= 512
            yield Answer(request, fake_plan(batch / devices / 1000, 4, fits), "")

    monkeypatch.setattr(scale, "answers", fake_answers)
    picture = tmp_path / "scaling.png"
    found = scale.scale(siglip, ["--config=x.py"], ["v5e:4x4", "v5e:2x2"], picture, Console(width=200))
    assert [(point.topology, point.batch_size) for point in found["weak"]] == [("v5e:2x2", 1024), ("v5e:4x4", 4096)]
    assert [(point.topology, point.batch_size) for point in found["strong"]] == [("v5e:2x2", 4096), ("v5e:4x4", 4096)]
    assert scale.efficiencies(found["weak"]) == [1.0, 1.0]
    assert scale.efficiencies(found["strong"]) == [None, 1.0]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert "does not fit" in capsys.readouterr().out
    assert len(asked) == 3, "what both ask for is planned once"


def test_a_plan_of_its_own_is_not_given_what_is_written():
    arguments = ["--config", "a.py", "--search", "--json", "x.json", "--search_count=3", "--config.mesh.fsdp", "2"]
    arguments += ["--topology", "v5e:4x4", "--noconfig.a.b"]
    kept = ["--config=a.py", "--config.mesh.fsdp=2", "--topology=v5e:4x4", "--noconfig.a.b"]
    assert command._without_outputs(arguments) == kept


def test_topologies_to_scale_over_are_checked(siglip):
    with pytest.raises(UserError, match="topology 'v5e:9x9' is not known"):
        command.main([f"--config={TINY}", "--scale=v5e:2x2,v5e:9x9"])
    with pytest.raises(UserError, match="does not divide by the 256 devices"):
        command.main([f"--config={TINY}", "--scale=v5e:2x2,v5e:16x16"])
