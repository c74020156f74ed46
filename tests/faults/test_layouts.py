"""One run on several layouts of processes: what it computes does not depend on them."""

from pathlib import Path

import numpy as np
import pytest

from tests.faults.runs import Runs, assert_same_run, ended, final_state, losses
from tests.folders import write_image_folder
from tests.tolerances import LAYER, LAYOUT, above, relative_errors

STEPS = ("--config.evals.splits=()", "--config.mesh.data=8", "--config.checkpoint.every_steps=1000")
EIGHT = ["--processes", "1", "--devices-per-process", "8"]
TWO_BY_FOUR = ["--processes", "2", "--devices-per-process", "4"]
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, compiled_folder: Path) -> Runs:
    return Runs(write_image_folder(tmp_path_factory.mktemp("images")), compiled_folder, *STEPS)


def trained(tiny: Runs, workdir: Path, layout: list[str], *overrides: str) -> Path:
    assert ended(tiny.start_locally(workdir, layout, *overrides), timeout_secs=900)[0] == 0
    return workdir


def test_two_processes_follow_one(tiny: Runs, tmp_path: Path) -> None:
    fifty = "--config.train.num_steps=50"
    one, two, again = (
        trained(tiny, tmp_path / name, layout, fifty)
        for name, layout in (("one", EIGHT), ("two", TWO_BY_FOUR), ("again", TWO_BY_FOUR))
    )
    np.testing.assert_allclose(losses(two), losses(one), rtol=LAYER)
    assert_same_run(again, two)
    print("loss", np.max(np.abs(losses(two) / losses(one) - 1)))


def test_first_gradients_are_the_same(tiny: Runs, tmp_path: Path) -> None:
    """The first moment of Adam is, after one step, a part of the gradient."""
    adam = ("--config.optim.optimizer=adam", "--config.train.num_steps=1")
    one, two = (final_state(trained(tiny, tmp_path / layout[1], layout, *adam)) for layout in (EIGHT, TWO_BY_FOUR))
    errors = relative_errors(two.opt_state, one.opt_state)
    assert len(errors) > 20
    print("first gradients", max(errors.values()))
    assert not above(errors, LAYOUT)


def test_parameters_under_gradient_descent_are_the_same(tiny: Runs, tmp_path: Path) -> None:
    descent = ("--config.optim.optimizer=sgd", "--config.train.num_steps=20", "--config.optim.learning_rate=1e-3")
    one, two = (final_state(trained(tiny, tmp_path / layout[1], layout, *descent)) for layout in (EIGHT, TWO_BY_FOUR))
    errors = relative_errors(two.params, one.params)
    print("parameters", max(errors.values()))
    assert not above(errors, LAYOUT)
