"""Overlap of words against float64, example by example, and on a mesh."""

import jax
import numpy as np
import pytest

from mmjax.losses.soft_targets import word_overlap
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from tests.losses import reference
from tests.tolerances import LAYER, above, relative_errors

COMMON = 9  # A word that all have.
WORDS = np.asarray(
    [
        [1, 2, COMMON],
        [2, 3, COMMON],
        [COMMON, 2, 1],
        [4, COMMON, 0],
        [COMMON, 0, 0],
        [3, 5, COMMON],
        [1, 2, 3],
        [6, 9, 1],
    ],
    np.int32,
)
WEIGHTS = np.asarray([1, 1, 0.5, 1, 1, 1, 0, 1], np.float32)


def test_overlap_equals_the_reference():
    overlap, expected = word_overlap(WORDS, WEIGHTS), reference.word_overlap(WORDS, WEIGHTS)
    assert above(relative_errors([overlap], [expected]), LAYER) == {}


def test_what_overlaps_with_what():
    overlap = np.asarray(word_overlap(WORDS, WEIGHTS))
    assert overlap[0, 2] == pytest.approx(1)  # The same words in another order.
    assert 0 < overlap[0, 1] < 1
    assert overlap[0, 3] == 0  # Nothing but the common word.
    assert not overlap[4].any()  # No word of its own; no words in common places of padding.
    assert not overlap[6].any()  # Weight 0.
    assert not overlap[:, 6].any()


def test_rows_split_over_devices_give_the_same():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    with jax.set_mesh(mesh):
        placed = [jax.device_put(array, rules.batch_sharding(mesh)) for array in (WORDS, WEIGHTS)]
        split = jax.jit(word_overlap)(*placed)
        assert split.sharding.is_equivalent_to(rules.batch_sharding(mesh), 2)
    assert above(relative_errors([jax.device_get(split)], [word_overlap(WORDS, WEIGHTS)]), LAYER) == {}
