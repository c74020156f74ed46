"""Rows taken from other devices: the same bits as numpy's indexing, its gradient, and what is sent for them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.parallel import exchange, rules
from mmjax.parallel.exchange import capacity, take_rows
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan import program as hlo
from tests.tolerances import BFLOAT16, LAYER, above, relative_errors

NUM_ROWS = 128
MESHES = (None, (1, 1, 1), (1, 1, 2), (8, 1, 1), (2, 4, 1), (2, 2, 2))
ROWS = np.arange(NUM_ROWS, dtype=np.int32)
RNG = np.random.default_rng(0)
PATTERNS = {
    "identity": ROWS,
    "one row": np.full_like(ROWS, 100),
    "reversal": ROWS[::-1].copy(),
    "random": RNG.integers(0, NUM_ROWS, NUM_ROWS, np.int32),
    "rows of device 0": ROWS % (NUM_ROWS // 8),
    "many of device 0 for itself": np.where(ROWS < NUM_ROWS // 8, ROWS, NUM_ROWS // 2),
    "rows of the last device, shuffled": RNG.permutation(NUM_ROWS - 1 - ROWS % (NUM_ROWS // 8)),
}
FLOATS = {
    "patches": RNG.normal(size=(NUM_ROWS, 5, 4)).astype(np.float32),
    "tokens": RNG.normal(size=(NUM_ROWS, 3, 4)).astype(np.float32),
    "halves": RNG.normal(size=(NUM_ROWS, 6)).astype(jnp.bfloat16),
    "numbers": RNG.normal(size=NUM_ROWS).astype(np.float32),
}
OTHERS = {
    "mask": RNG.integers(0, 2, (NUM_ROWS, 3)).astype(bool),
    "ids": RNG.integers(-9, 9, NUM_ROWS, np.int32),
    "pixels": RNG.integers(0, 256, (NUM_ROWS, 2, 2, 3), np.uint8),
}
COTANGENTS = {name: RNG.normal(size=x.shape).astype(x.dtype) for name, x in FLOATS.items()}


class OneRound(hlo.Program):
    """A compiled program in which a loop counts once: how many rounds there are is not in it."""

    def trip_count(self, loop: hlo.Instruction) -> int:
        return 1


def on_mesh(sizes: tuple[int, int, int] | None, function: Callable[[], Any]) -> Any:
    if sizes is None:
        return function()
    with jax.set_mesh(make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])):
        return function()


def place(tree: Any) -> Any:
    mesh = jax.sharding.get_mesh()
    return tree if mesh.empty else jax.device_put(tree, rules.batch_sharding(mesh))


def taken_and_gradients(floats: Any, others: Any, indices: Any, cotangents: Any) -> Any:
    def of_floats(floats: Any) -> Any:
        taken = take_rows({"floats": floats, "others": others}, indices)
        return taken["floats"], taken["others"]

    taken, pull, rest = jax.vjp(of_floats, floats, has_aux=True)
    return {**taken, **rest}, pull(cotangents)[0]


@functools.cache
def compiled(sizes: tuple[int, int, int] | None) -> Any:
    args = (FLOATS, OTHERS, ROWS, COTANGENTS)
    return on_mesh(sizes, lambda: jax.jit(taken_and_gradients).lower(*place(args)).compile())


def run(sizes: tuple[int, int, int] | None, floats: Any, indices: np.ndarray, cotangents: Any = COTANGENTS) -> Any:
    args = (floats, OTHERS, indices, cotangents)
    return on_mesh(sizes, lambda: jax.device_get(compiled(sizes)(*place(args))))


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("indices", PATTERNS.values(), ids=PATTERNS)
def test_bits_are_those_of_indexing_and_gradients_those_of_its_transpose(indices, sizes):
    floats = {name: x.copy() for name, x in FLOATS.items()}
    for position, special in enumerate((np.nan, np.inf, -0.0)):
        for x in floats.values():
            x[position] = special
    taken, grads = run(sizes, floats, indices)
    assert {n for n, x in {**floats, **OTHERS}.items() if taken[n].tobytes() != x[indices].tobytes()} == set()
    sums = {name: np.zeros(x.shape) for name, x in FLOATS.items()}
    for name, total in sums.items():
        np.add.at(total, indices, COTANGENTS[name].astype(np.float64))
    assert {name: x.dtype for name, x in grads.items()} == {name: x.dtype for name, x in FLOATS.items()}
    errors = relative_errors(grads, sums)
    assert above({"halves": errors.pop("halves")}, BFLOAT16) == {}
    assert above(errors, LAYER) == {}


@pytest.mark.parametrize("sizes", [None, (1, 1, 1), (2, 2, 2)], ids=str)
def test_many_small_cotangents_are_not_lost_in_bfloat16(sizes):
    """In bfloat16 the sum would stop at 256 times the summand."""
    many = {name: np.full_like(x, 2) for name, x in COTANGENTS.items()}
    many["halves"] = np.where(np.arange(NUM_ROWS)[:, None] == 0, 1024, many["halves"]).astype(jnp.bfloat16)
    _, grads = run(sizes, FLOATS, np.zeros_like(ROWS), many)
    assert np.all(np.abs(np.float32(grads["halves"][0]) / (1024 + 2 * (NUM_ROWS - 1)) - 1) < BFLOAT16)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_only_indices_are_gathered_and_only_slots_are_sent(sizes):
    found = OneRound(compiled(sizes).as_text())
    devices = 1 if sizes is None else sizes[0] * sizes[1]
    if devices == 1:
        assert found.collectives == []
        return
    gathered = [c.sent_bytes for c in found.collectives if c.operation == "all-gather"]
    assert sum(gathered) <= 2 * 4 * NUM_ROWS
    sent = [c.sent_bytes for c in found.collectives if c.operation == "all-to-all"]
    slots = (devices - 1) * capacity(NUM_ROWS // devices, devices)
    # XLA for CPU sends bfloat16 as float32.
    floats = sum(4 * x.size // NUM_ROWS for x in FLOATS.values())
    others = sum(x.nbytes // NUM_ROWS for x in OTHERS.values())
    assert sum(sent) == slots * (2 * floats + others)
    # Patches and tokens are one, and all others of their own shape or type; back go the floats alone.
    assert len(sent) == 6 + 3
    assert len(gathered) + len(sent) == len(found.collectives)


def test_rows_come_as_they_are_split():
    def sharding() -> Any:
        taken, grads = compiled((2, 2, 2)).output_shardings
        return {x.spec[0] for x in (*taken.values(), *grads.values())}

    assert on_mesh((2, 2, 2), sharding) == {rules.BATCH_AXES}


def test_arrays_that_are_whole_everywhere():
    indices = PATTERNS["random"]
    taken = on_mesh((2, 2, 2), lambda: jax.jit(take_rows)(OTHERS, indices))
    assert all(np.array_equal(taken[name], x[indices]) for name, x in OTHERS.items())
    assert {x.sharding.spec[0] for x in taken.values()} == {rules.BATCH_AXES}


ROUNDS = {"one row": 1, "random": 1, "identity": 3, "rows of device 0": 3, "many of device 0 for itself": 3}


@pytest.mark.parametrize("pattern", ROUNDS)
def test_number_of_rounds(pattern):
    """16 rows of each device in slots of 7; every device counts alike, and a row that it wants twice once."""

    def plan(indices: Any) -> Any:
        return exchange._on_each_device(exchange._plan, indices)

    found = on_mesh((8, 1, 1), lambda: jax.jit(plan)(place(PATTERNS[pattern])))
    assert capacity(NUM_ROWS // 8, 8) == 7
    assert found.num_rounds.tolist() == [ROUNDS[pattern]] * 8


@pytest.mark.parametrize(
    ("num_rows", "num_devices", "padding"), [(1024, 8, 1.3), (128, 8, 1.8), (64, 8, 2.2), (128, 4, 1.6)]
)
def test_one_round_is_enough_for_random_rows(num_rows, num_devices, padding):
    room = capacity(num_rows, num_devices)
    assert num_devices * room <= padding * num_rows
    drawn = np.random.default_rng(0).integers(0, num_devices, (100, num_devices, num_rows))
    loads = np.sum(drawn[..., None] == np.arange(num_devices), axis=2)
    assert np.mean(loads.max(axis=(1, 2)) <= room) > 0.9


def test_a_round_is_never_more_than_all_rows():
    assert all(capacity(rows, devices) <= rows for rows in range(1, 40) for devices in range(1, 40))
