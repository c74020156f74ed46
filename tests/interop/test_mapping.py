"""Tables use every tensor of both sides once, or an error names the one at fault; layouts undo themselves."""

import math

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import layouts
from mmjax.interop.layouts import CONVOLUTION, LINEAR, PATCHES, SAME, Layout
from mmjax.interop.mapping import Ignored, Row, to_ours, to_theirs, without_ignored

TABLE = (
    Row("blocks/query/kernel", "layers.{l}.q.weight", LINEAR),
    Row("scale", "norm.weight", SAME),
)
OURS = {
    "blocks/query/kernel": np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 4),
    "scale": np.arange(3, dtype=np.float32),
}
SHAPES = {path: array.shape for path, array in OURS.items()}


def test_layers_are_rows_of_a_stack():
    theirs = dict(to_theirs(TABLE, OURS))
    assert set(theirs) == {"layers.0.q.weight", "layers.1.q.weight", "norm.weight"}
    assert np.array_equal(theirs["layers.1.q.weight"], OURS["blocks/query/kernel"][1].T)
    back = dict(to_ours(TABLE, theirs, SHAPES))
    assert all(np.array_equal(back[path], OURS[path]) for path in OURS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), "tensor norm.weight is missing"),
        (lambda t: t.update(extra=np.zeros(1)), "tensor extra is left over"),
        (lambda t: t.pop("layers.1.q.weight"), "tensor layers.1.q.weight is missing"),
        (
            lambda t: t.update({"norm.weight": np.zeros(4, np.float32)}),
            r"tensor norm.weight does not fit scale: its shape is \(4,\), not \(3,\)",
        ),
        (
            lambda t: t.update({"layers.0.q.weight": np.zeros((3, 4), np.float32)}),
            r"tensor layers.0.q.weight does not fit blocks/query/kernel: its shape is \(3, 4\), not \(4, 3\)",
        ),
    ],
)
def test_a_tensor_at_fault_is_named(change, message):
    theirs = dict(to_theirs(TABLE, OURS))
    change(theirs)
    with pytest.raises(UserError, match=message):
        dict(to_ours(TABLE, theirs, SHAPES))


@pytest.mark.parametrize(
    ("table", "ours", "message"),
    [
        (TABLE[:1], OURS, "parameter scale is left over"),
        ((*TABLE, Row("bias", "norm.bias", SAME)), OURS, "parameter bias is missing"),
        ((*TABLE, Row("scale", "norm.gamma", SAME)), OURS, "parameter scale is claimed by two rows"),
    ],
)
def test_a_parameter_at_fault_is_named(table, ours, message):
    with pytest.raises(UserError, match=message):
        dict(to_theirs(table, ours))


def test_two_rows_of_one_tensor_are_refused():
    twice = (*TABLE, Row("other", "norm.weight", SAME))
    theirs = dict(to_theirs(TABLE, OURS))
    with pytest.raises(UserError, match="tensor norm.weight is claimed by two rows"):
        dict(to_ours(twice, theirs, {**SHAPES, "other": (3,)}))


def test_each_parameter_is_read_once():
    asked: list[str] = []

    class Asked(dict):
        def __getitem__(self, path):
            asked.append(path)
            return super().__getitem__(path)

    dict(to_theirs(TABLE, Asked(OURS)))
    assert sorted(asked) == sorted(OURS)


def test_what_is_ignored_has_a_reason():
    kept, left_out = without_ignored(["a.weight", "a.position_ids"], [Ignored(r".*position_ids", "they count")])
    assert (kept, left_out) == (["a.weight"], {"a.position_ids": "they count"})


@pytest.mark.parametrize(
    ("layout", "shapes", "theirs"),
    [
        pytest.param(LINEAR, [(5, 4)], (4, 5), id="linear"),
        pytest.param(layouts.with_heads(2), [(5, 6)], (5, 2, 3), id="flax-into-heads"),
        pytest.param(layouts.with_heads(2), [(4, 5, 6)], (4, 5, 2, 3), id="flax-stack-into-heads"),
        pytest.param(layouts.with_heads(2, num_behind=1), [(6, 5)], (2, 3, 5), id="flax-from-heads"),
        pytest.param(SAME, [()], (), id="scalar"),
        pytest.param(layouts.reshaped(1), [()], (1,), id="lifted-scalar"),
        pytest.param(layouts.reshaped(1, 1), [(4,)], (1, 1, 4), id="lifted"),
        pytest.param(PATCHES, [(7 * 7 * 3, 5)], (5, 3, 7, 7), id="patches"),
        pytest.param(layouts.flattened_patches(), [(7 * 7 * 3, 5)], (7, 7, 3, 5), id="flax-patches"),
        pytest.param(CONVOLUTION, [(3, 3, 4, 5)], (5, 4, 3, 3), id="convolution"),
        pytest.param(layouts.fused(LINEAR), [(6, 4)] * 3, (12, 6), id="fused"),
        pytest.param(layouts.fused(SAME), [(6,)] * 2, (12,), id="fused-bias"),
    ],
)
def test_layouts_undo_themselves(layout: Layout, shapes, theirs):
    rng = np.random.default_rng(0)
    ours = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    foreign = layout.to_theirs(ours)
    assert foreign.shape == theirs
    assert foreign.size == sum(math.prod(shape) for shape in shapes)
    back = layout.to_ours(foreign, tuple(shapes))
    assert all(np.array_equal(a, b) for a, b in zip(ours, back, strict=True))
    wrong = np.zeros((*theirs, 2), np.float32)
    with pytest.raises(ValueError, match="shape|first axis"):
        layout.to_ours(wrong, tuple(shapes))


def test_patches_are_read_as_a_convolution_reads_them():
    """y, x, colour in this order from the first axis of ours, which a flat copy would not show."""
    kernel = np.zeros((2 * 2 * 3, 1), np.float32)
    kernel[(1 * 2 + 0) * 3 + 2, 0] = 1  # Row 1, column 0, blue.
    assert PATCHES.to_theirs((kernel,))[0, 2, 1, 0] == 1


def test_a_table_has_no_padding_on_the_other_side():
    layout = layouts.table(3)
    stored = np.pad(np.ones((3, 2), np.float32), ((0, 5), (0, 0)))
    assert layout.to_theirs((stored,)).shape == (3, 2)
    assert np.array_equal(layout.to_ours(np.ones((3, 2), np.float32), ((8, 2),))[0], stored)
