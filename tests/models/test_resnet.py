"""The ResNet's parameters by name, its shapes, and what its batch norms do; parity is in `tests/parity`."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mmjax.errors import UserError
from mmjax.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNetConfig
from mmjax.optim import paths
from tests import tiny
from tests.tolerances import LAYER

KEY = jax.random.key(0)
CONFIG = ResNetConfig(image_size=tiny.IMAGE_SIZE, embedding_dim=6, stage_dims=(8, 12), depths=(1, 2))


def test_parameters_by_name():
    state = nnx.eval_shape(lambda: nnx.state(CONFIG.build(KEY)))
    shapes = {path: leaf.shape for path, leaf in paths.leaves(nnx.to_pure_dict(state)).items()}
    kernels = {path.removesuffix("/kernel"): shape for path, shape in shapes.items() if path.endswith("/kernel")}
    assert kernels == {
        "stem": (7, 7, 3, 6),
        "stages/0/layers/0/units/0": (1, 1, 6, 2),
        "stages/0/layers/0/units/1": (3, 3, 2, 2),
        "stages/0/layers/0/units/2": (1, 1, 2, 8),
        "stages/0/layers/0/shortcut": (1, 1, 6, 8),
        "stages/1/layers/0/units/0": (1, 1, 8, 3),
        "stages/1/layers/0/units/1": (3, 3, 3, 3),
        "stages/1/layers/0/units/2": (1, 1, 3, 12),
        "stages/1/layers/0/shortcut": (1, 1, 8, 12),
        "stages/1/layers/1/units/0": (1, 1, 12, 3),
        "stages/1/layers/1/units/1": (3, 3, 3, 3),
        "stages/1/layers/1/units/2": (1, 1, 3, 12),
    }
    names = ("bias", "running_mean", "running_variance", "scale")
    norms = {f"{path}/norm/{name}": shape[-1:] for path, shape in kernels.items() for name in names}
    assert {path: shape for path, shape in shapes.items() if not path.endswith("/kernel")} == norms


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "num_tokens"), [((16, 16), 4), ((33, 16), 10)], ids=["square", "rectangle"])
def test_shapes(shape: tuple[int, int], num_tokens: int, dtype: str):
    config = replace(CONFIG, image_size=shape[0], image_width=shape[1], compute_dtype=dtype)
    features, extras = jax.eval_shape(lambda: config.build(KEY)(jnp.zeros((2, *shape, 3), jnp.uint8)))
    assert (features.shape, features.dtype) == ((2, config.width), dtype)
    assert (extras["tokens"].shape, extras["tokens"].dtype) == ((2, num_tokens, config.width), dtype)


def test_only_training_sees_the_rest_of_the_batch():
    image = jnp.asarray(tiny.batch(4)["image"])
    run = jax.jit(lambda image, key: CONFIG.build(KEY)(image, key)[0])
    assert np.allclose(run(image, None)[:2], run(image[:2], None), atol=LAYER)
    assert not np.allclose(run(image, KEY)[:2], run(image[:2], KEY), atol=LAYER)


def test_pixels_are_normalised_as_imagenet_is():
    image = tiny.batch(2)["image"]
    pixels = (image / np.float32(255) - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    run = jax.jit(lambda image: CONFIG.build(KEY)(image)[0])
    assert np.allclose(run(jnp.asarray(image)), run(jnp.asarray(pixels)), atol=LAYER)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"depths": (1,)}, "must have one number for each stage"),
        ({"depths": (1, 0)}, "each depth at least 1"),
        ({"stage_dims": (), "depths": ()}, "must have one number for each stage"),
        ({"stage_dims": (8, 10)}, "layer 'bottleneck' needs stage_dims that 4 divides, not \\(8, 10\\)"),
    ],
)
def test_what_does_not_fit_is_refused(choices: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        replace(CONFIG, **choices)
