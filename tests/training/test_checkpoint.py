"""Checkpoints: what is restored is what was saved, on any mesh; what goes wrong is one line and loses nothing."""

import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mmjax.errors import UserError
from mmjax.optim import paths
from mmjax.optim.optimizer import OptimConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.checkpoint import STATE, Checkpoints
from mmjax.training.checksums import describe
from mmjax.training.integrity import Damaged
from mmjax.training.program import Program
from mmjax.training.retention import CheckpointConfig
from mmjax.training.state import TrainState
from mmjax.training.step import TrainConfig
from mmjax.training.weights import SavedWeights
from tests.training import toy

RECORD = {"config": {"train": {"seed": 3}}, "fingerprint": {"tokenizer": "a"}}


def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def program_on(mesh: Mesh) -> Program:
    return toy.program(mesh, TrainConfig(ema_decay=0.9), OptimConfig())


def assert_same(left: Any, right: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


@pytest.fixture(scope="module")
def program() -> Program:
    mesh = mesh_of((1, 1, 1))
    with jax.set_mesh(mesh):
        return program_on(mesh)


@pytest.fixture(scope="module")
def state(program: Program) -> TrainState:
    with jax.set_mesh(mesh_of((1, 1, 1))):
        return program.init()._replace(step=jnp.array(7, jnp.int32))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Checkpoints]:
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_last=2))
    yield checkpoints
    checkpoints.close()


def test_weights_are_read_one_by_one_and_compared_with_their_checksums(opened: Checkpoints, state: TrainState) -> None:
    opened.save(7, state, RECORD)
    opened.wait()
    weights, record = opened.weights()
    assert weights.is_average
    assert record["step"] == 7
    expected = paths.leaves(state.ema)
    assert weights.shapes == {path: leaf.shape for path, leaf in expected.items()}
    assert_same({path: weights[path] for path in weights}, expected)
    plain, _ = opened.weights(ema=False)
    assert_same(dict(plain), paths.leaves(state.params))
    path = next(iter(expected))
    folder = opened.directory / "7" / STATE
    wrong = {f"ema/{path}": {**describe(state.ema)[path], "checksum": 1}}
    with pytest.raises(UserError, match=f"the checksum of {path} is wrong.*choose another --step"):
        SavedWeights(folder, "ema", wrong)[path]


def test_what_is_restored_is_what_was_saved(opened: Checkpoints, program: Program, state: TrainState) -> None:
    opened.save(7, state, RECORD)
    opened.wait()
    again = Checkpoints(opened.directory)
    restored, record = again.restore(program.abstract_state)
    again.close()
    assert record == RECORD
    assert (again.last_step, int(restored.step)) == (7, 7)
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.dtype, restored) == jax.tree.map(lambda x: x.dtype, state)


def test_a_step_may_take_the_arrays_while_they_are_written(
    opened: Checkpoints, program: Program, state: TrainState
) -> None:
    """As the training step does, which writes its results where the state was."""
    taken = jax.tree.map(jnp.copy, state)
    opened.save(7, taken, RECORD)
    jax.block_until_ready(jax.jit(lambda tree: jax.tree.map(lambda x: x * 0, tree), donate_argnums=0)(taken))
    opened.wait()
    restored, _ = opened.restore(program.abstract_state)
    assert_same(restored, state)


def test_it_is_restored_on_another_mesh_in_its_shardings(opened: Checkpoints, state: TrainState) -> None:
    opened.save(7, state, RECORD)
    opened.wait()
    mesh = mesh_of((2, 2, 2))
    with jax.set_mesh(mesh):
        abstract = program_on(mesh).abstract_state
        restored, _ = opened.restore(abstract)
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, abstract)
    assert restored.params["image"]["up"]["kernel"].sharding.spec[1] == "tensor"


def test_only_the_last_are_kept(opened: Checkpoints, program: Program, state: TrainState) -> None:
    for step in (1, 2, 3):
        opened.save(step, state, RECORD)
    opened.wait()
    assert opened.last_step == 3
    assert sorted(path.name for path in opened.directory.iterdir()) == ["2", "3"]
    with pytest.raises(UserError, match=r"holds no checkpoint of step 1 \(steps that it has: 2, 3\): train first"):
        opened.restore(program.abstract_state, 1)


def test_an_empty_folder_has_none(opened: Checkpoints, program: Program) -> None:
    assert opened.last_step is None
    with pytest.raises(UserError, match=r"holds no checkpoint \(steps that it has: none\): train first"):
        opened.restore(program.abstract_state)


def test_a_save_that_was_killed_is_not_read(opened: Checkpoints, state: TrainState) -> None:
    opened.save(1, state, RECORD)
    opened.wait()
    (opened.directory / "2.orbax-checkpoint-tmp").mkdir()
    again = Checkpoints(opened.directory)
    assert again.last_step == 1
    again.close()


# Orbax leaves a coroutine behind when its writing fails, and the collector complains of it at some later time.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_one_line_and_keeps_earlier_checkpoints(
    small_disk: Callable[[int], Path], program: Program, state: TrainState
) -> None:
    disk = small_disk(1)
    checkpoints = Checkpoints(disk / "checkpoints")
    checkpoints.save(1, state, RECORD)
    checkpoints.wait()
    (disk / "other.bin").write_bytes(bytes(600 * 1024))
    large = state._replace(objective={"queue": jax.random.normal(jax.random.key(0), (256, 1024))})
    with pytest.raises(UserError, match=r"no space left .* earlier checkpoints are intact: free some space") as caught:
        save_and_wait(checkpoints, large)
    assert "\n" not in str(caught.value)
    again = Checkpoints(disk / "checkpoints")
    restored, _ = again.restore(program.abstract_state)
    assert again.last_step == 1
    assert_same(restored, state)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_fails_in_the_background_is_an_error_at_the_next_step(
    small_disk: Callable[[int], Path], state: TrainState
) -> None:
    disk = small_disk(1)
    checkpoints = Checkpoints(disk / "checkpoints")
    large = state._replace(objective={"queue": jax.random.normal(jax.random.key(0), (512, 1024))})
    with pytest.raises(UserError, match="no space left"):
        save_and_step_on(checkpoints, large)


def save_and_step_on(checkpoints: Checkpoints, state: TrainState) -> None:
    """Asks at each of many steps, as the loop does."""
    checkpoints.save(2, state, RECORD)
    for _ in range(500):
        checkpoints.check()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CheckpointConfig(keep_last=1), [6]),
        (CheckpointConfig(keep_last=2, keep_every_steps=3), [3, 5, 6]),
        (CheckpointConfig(keep_last=1, keep_best=2, best_metric="test/r@1"), [2, 4, 6]),
    ],
)
def test_what_is_kept(config: CheckpointConfig, kept: list[int], tmp_path: Path, state: TrainState) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", config)
    recalls = {1: 0.1, 2: 0.4, 3: 0.2, 4: 0.3}
    for step in range(1, 7):
        checkpoints.save(step, state, RECORD, {"test/r@1": recalls[step]} if step in recalls else {})
    checkpoints.close()
    assert sorted(int(path.name) for path in checkpoints.directory.iterdir()) == kept


def test_what_is_best_has_to_be_named_and_measured(tmp_path: Path, state: TrainState) -> None:
    with pytest.raises(UserError, match="checkpoint.keep_best needs to know what is best: set checkpoint.best_metric"):
        Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_best=1))
    checkpoints = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep_best=1, best_metric="test/r@2"))
    with pytest.raises(UserError, match="checkpoint.best_metric = 'test/r@2' is not known: did you mean test/r@1?"):
        checkpoints.save(1, state, RECORD, {"test/r@1": 0.5})
    checkpoints.close()
    assert checkpoints.last_step == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        MemoryError(),
        jax.errors.JaxRuntimeError("INTERNAL: the device is lost"),
        ValueError("UNAVAILABLE: the bucket does not answer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_the_files_leaves_them_where_they_are(
    error: Exception, opened: Checkpoints, program: Program, state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.save(7, state, RECORD)
    opened.wait()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(opened._manager, "restore", fail)
        with pytest.raises(type(error)):
            opened.restore(program.abstract_state)
    assert opened.last_step == 7
    assert opened.restore(program.abstract_state)[1] == RECORD


def test_a_checkpoint_of_another_model_is_refused_and_stays(
    opened: Checkpoints, program: Program, state: TrainState
) -> None:
    opened.save(7, state._replace(objective={"queue": jnp.zeros((4, 4))}), RECORD)
    opened.wait()
    with pytest.raises(
        UserError, match=r"holds checkpoints of another model \(objective/queue: \(\[4, 4\], 'float32'\)"
    ):
        opened.restore(program.abstract_state)
    assert opened.last_step == 7


@pytest.mark.parametrize("kind", ["bit", "half", "empty", "missing"])
# What is left of a broken reading complains when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_damage_of_any_file_is_taken_for_the_state(
    kind: str, opened: Checkpoints, program: Program, state: TrainState
) -> None:
    """It is found, or it is in a part that says nothing of the state."""
    opened.save(7, state, RECORD)
    opened.wait()
    place, rng, found = opened.directory / "7", random.Random(kind), 0
    for path in [path for path in place.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        damage(path, kind, rng)
        try:
            restored, record = opened._read(program.abstract_state, 7)
        except Damaged:
            found += 1
        else:
            assert_same(restored, state)
            assert record == RECORD
        path.write_bytes(content)
    assert found >= 3


def damage(path: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if kind == "bit" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content[: {"bit": len(content), "half": len(content) // 2}.get(kind, 0)])
    if kind == "missing":
        path.unlink()


def save_and_wait(checkpoints: Checkpoints, state: TrainState) -> None:
    """The error of an asynchronous save comes with this or with the next call."""
    checkpoints.save(2, state, RECORD)
    checkpoints.wait()
