"""Resized position tables against torch's antialiased interpolation, up and down."""

import numpy as np
import pytest

from mmjax.nn import positions
from tests.tolerances import LAYER

torch = pytest.importorskip("torch", reason="parity needs torch, which requirements-dev.txt installs")


@pytest.mark.parametrize(("method", "mode"), [("cubic", "bicubic"), ("linear", "bilinear")])
@pytest.mark.parametrize("new_grid", [(3, 5), (12, 9)], ids=["down", "up"])
def test_resize_equals_torch(method, mode, new_grid):
    table = np.random.default_rng(0).normal(size=(1 + 6 * 6, 4)).astype(np.float32)
    ours = positions.resize(table, (6, 6), new_grid, num_prefix=1, method=method)
    grid = torch.from_numpy(table[1:].reshape(1, 6, 6, 4).transpose(0, 3, 1, 2).copy())
    theirs = torch.nn.functional.interpolate(grid, new_grid, mode=mode, antialias=True).numpy()
    assert np.array_equal(ours[:1], table[:1])
    assert np.allclose(ours[1:], theirs[0].transpose(1, 2, 0).reshape(-1, 4), atol=LAYER)
