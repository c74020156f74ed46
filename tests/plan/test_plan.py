"""A plan from end to end: of a small config on CPU devices, and what the command says of what it cannot do."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from mmjax.config_file import load_config
from mmjax.errors import UserError
from mmjax.experiment import from_values
from mmjax.parallel.chips import Chip
from mmjax.plan import command, page, plan
from mmjax.plan.collectives import Communication
from mmjax.plan.cpu import shared_by
from mmjax.plan.hlo import Instruction
from mmjax.plan.plan import TooLarge, _too_large, make_plan
from mmjax.plan.remedies import remedies
from mmjax.plan.topology import open_topology
from tests.plan.test_timing import CHIP, operation
from tests.test_config import ROOT, shipped

TINY = ROOT / "tests" / "tiny_config.py"
BOTH = ((False, 1.0), (True, 1.5))
"""Whether a collective runs beside others, and its seconds."""
SMALL = ["--config.mesh.data=2", "--config.data.batch_size=16", "--config.train.num_steps=100"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The plan of the tiny config on two devices, as the command writes it."""
    folder = tmp_path_factory.mktemp("plan")
    files = {name: folder / f"plan.{name}" for name in ("json", "html", "txt")}
    outputs = [f"--json={files['json']}", f"--report={files['html']}", f"--hlo={files['txt']}"]
    command.main([f"--config={TINY}", "--topology=cpu:2", *SMALL, *outputs])
    return json.loads(files["json"].read_text()), files


def test_it_has_what_scripts_read(made):
    found, _ = made
    assert found["config"] == " ".join(["tiny_config", *SMALL])
    assert found["num_devices"] == 2
    assert found["memory"]["fits"]
    assert 0 < found["memory"]["peak_bytes"] < found["memory"]["limit_bytes"]
    assert 0 < found["time"]["roofline_secs"] <= found["time"]["hybrid_secs"] <= found["time"]["cycles_secs"]
    assert found["flops"]["model"] == 3 * 16 * sum(part["forward"] for part in found["flops"]["per_example"].values())
    assert {one["operation"] for one in found["collectives"]} <= {"all-reduce", "all-gather"}
    assert all(one["axes"] == ["data"] for one in found["collectives"] if one["sent_bytes"])
    assert found["run"]["num_steps"] == 100
    assert found["run"]["ends"]["roofline"]["cost"] is None


def test_the_page_and_the_program_are_written(made):
    found, files = made
    html = files["html"].read_text()
    assert page.headline(found) in html
    for title, _, _ in page.tables(found):
        assert title in html
    assert files["txt"].read_text().startswith("HloModule jit_train_step")
    assert '<th class="words">axes</th>' in html
    assert "<th>sent MiB</th>" in html


def test_parts_of_the_model_are_named(made):
    found, _ = made
    paths = " ".join(found["time"]["by_path"])
    assert "image/blocks/attention" in paths
    assert "optimizer" in paths
    assert "loss" in paths


def test_what_does_not_fit_says_what_to_change(monkeypatch, capsys):
    experiment = shipped("siglip_b16")
    experiment = replace(experiment, data=replace(experiment.data, batch_size=4096))
    experiment = replace(
        experiment, model=replace(experiment.model, image=replace(experiment.model.image, remat="none"))
    )
    lacking = plan.Compiled("", None, 1.0, TooLarge(27 * 2**30, 16 * 2**30))
    monkeypatch.setattr(plan, "compile_step", lambda traced: lacking)
    monkeypatch.setattr(command, "from_values", lambda values: experiment)
    experiment = replace(experiment, mesh=replace(experiment.mesh, data=4, fsdp=1))
    with pytest.raises(UserError, match=r"needs 27.00 GiB of 16.00 GiB: change one of the lines above"):
        command.main([f"--config={TINY}", "--topology=cpu:4"])
    said = capsys.readouterr().out
    assert "--config.model.image.remat=full" in said
    assert "--config.mesh.data=1 --config.mesh.fsdp=4" in said
    assert "--config.train.accumulate=2" in said


def test_a_split_that_divides_no_width_is_not_advised():
    """256 devices: of 1,152 numbers 128 parts are whole."""
    large = shipped("siglip_so400m_384")
    lines = remedies(large, {"data": 16, "fsdp": 16, "tensor": 1})
    assert any(line.startswith("--config.mesh.data=2 --config.mesh.fsdp=128 ") for line in lines)
    assert not any("mesh" in line for line in remedies(large, {"data": 2, "fsdp": 128, "tensor": 1}))


def test_loops_of_no_fixed_length_are_named():
    rest = '%x), metadata={op_name="jit(train_step)/jvp(match)/exchange/while"}'
    loops = [Instruction("while.1", "s32[]", "while", rest), Instruction("while.2", "s32[]", "while", "%x)")]
    assert plan._unknown_loops_note(loops) == "loops of no fixed length count once: match/exchange, while.2"


def test_at_the_upper_end_nothing_is_hidden():
    """A fusion of one second of memory, two seconds of collectives that are waited for, and three that are hidden."""
    program = SimpleNamespace(operations=[operation(num_bytes=100, cycles=40)], estimated_cycles=40)
    waited, hidden = (Communication("all-gather", 2, 1, 1, ("data",), "", beside, secs, None) for beside, secs in BOTH)
    facts = SimpleNamespace(step_flops=500)
    found = plan._time(program, [waited, hidden], CHIP, facts, 4)
    assert (found["roofline_secs"], found["hybrid_secs"], found["cycles_secs"]) == (3.0, 3.0, 9.0)
    assert (found["communication_waited_secs"], found["communication_hidden_secs"]) == (2.0, 3.0)
    assert found["mfu"]["cycles"] == pytest.approx(500 / (9.0 * 4 * 1000))


def test_on_cpu_what_lies_between_arguments_and_results_is_added():
    analysis = SimpleNamespace(
        peak_memory_in_bytes=7,
        argument_size_in_bytes=100,
        output_size_in_bytes=60,
        alias_size_in_bytes=50,
        temp_size_in_bytes=1000,
    )
    assert plan._peak_bytes(analysis) == 100 + 10 + 1000


def test_virtual_devices_share_the_cores():
    one = shared_by(Chip(8.0, 80, 4.0, slow_flops_per_sec=2.0, slow_bytes_per_sec=1.0), 4)
    assert (one.flops_per_sec, one.memory_bytes_per_sec, one.memory_bytes) == (2.0, 1.0, 20)
    assert (one.slow_flops_per_sec, one.slow_bytes_per_sec) == (0.5, 0.25)


def test_what_is_not_named_alone_is_added_up():
    ends = {"roofline": 1.0, "hybrid": 2.0, "cycles": 3.0}
    made = {"time": {"by_path": {f"layer {place}": ends for place in range(page.NUM_PATHS + 4)}}}
    _, _, rows = page._paths(made)
    assert len(rows) == page.NUM_PATHS + 1
    assert rows[-1] == ["4 others", "4,000.0", "8,000.0", "12,000.0"]


def test_every_part_that_has_layers_is_named():
    lines = remedies(shipped("vilt"), {"data": 16, "fsdp": 1, "tensor": 1})
    assert [line.partition(" ")[0] for line in lines[:2]] == [
        "--config.model.towers.remat=full",
        "--config.model.fusion.remat=full",
    ]


def test_a_kernel_that_is_too_large_is_a_bug():
    class Step:
        def lower(self, *args):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 28.00M")

    traced = SimpleNamespace(step=Step(), abstract_state=None, batch_spec=None)
    with pytest.raises(jax.errors.JaxRuntimeError, match="vmem"):
        plan.compile_step(traced)


def test_a_file_has_room_for_the_tables():
    """Pytest takes the output, which is then no terminal."""
    assert command._console().width == command.FILE_COLUMNS


def test_devices_without_work_are_named(monkeypatch):
    monkeypatch.setattr(plan, "compile_step", lambda traced: plan.Compiled("", None, 1.0, TooLarge(None, None)))
    found = make_plan(from_values(load_config(str(TINY))), open_topology("cpu:8"))
    assert found["num_devices"] == 1
    assert "the mesh leaves 7 of 8 devices without work" in found["notes"]


def test_the_compilers_words_are_read():
    tpu = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (26.88G) exceeds "
    )
    assert _too_large(tpu + "available HBM (15.75G).") == (int(26.88 * 2**30), int(15.75 * 2**30))
    assert _too_large("RESOURCE_EXHAUSTED: Used 17.21G of 15.75G hbm.") == (int(17.21 * 2**30), int(15.75 * 2**30))
    assert _too_large("RESOURCE_EXHAUSTED") == (None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topology=v5e:5x5"], "topology 'v5e:5x5' is not known"),
        ([], "--topology is missing"),
        (["--topology=cpu:2", "--slices=two"], "--slices = 'two' is no number of slices"),
        (["--topology=cpu:2", "--preempt_hours=-1"], "--preempt_hours = '-1' is no positive number"),
        (["--topology=cpu:2", "--prices=none.toml"], "prices none.toml cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments, said):
    with pytest.raises(UserError, match=said):
        command.main([f"--config={TINY}", *arguments])


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="needs 16 devices but there are 4"):
        make_plan(shipped("siglip_b16"), open_topology("cpu:4"))
    assert len(jax.devices()) == 8
