"""FLOPs by formula, as traced, and as published."""

from dataclasses import replace

import jax
import pytest

from mmjax import assembly
from mmjax.models.sizes import clip
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.figures import closed_form, figures
from tests.test_config import shipped

PUBLISHED = {"B/32": 14.78, "B/16": 41.1, "L/14": 175.3}
"""GFLOPs of a pair at two a multiply-add, from the table of open_clip's models."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_formula_gives_the_published_figures(name):
    giga = sum(closed_form(clip(name), tower) for tower in ("image", "text")) / 1e9
    assert round(giga, 2 if name == "B/32" else 1) == PUBLISHED[name]


@pytest.mark.parametrize("name", ["clip_l14", "siglip_b16"])
def test_what_is_traced_is_what_the_formula_says(name):
    experiment = shipped(name)
    experiment = replace(experiment, data=replace(experiment.data, batch_size=64))
    mesh = make_mesh(MeshConfig(4, 2, 1))
    with jax.set_mesh(mesh):
        found = figures(experiment, assembly.program(experiment, mesh))
    # Twice a matrix for each head of a pooling probe, for all examples together.
    config = experiment.model.image
    once = {"image": 4 * config.num_heads * config.width**2 // 64 if config.pool == "map" else 0, "text": 0}
    for tower, part in ((tower, found.parts[tower]) for tower in once):
        assert part.forward == part.closed_form + once[tower]
        # Layers are computed again, all but the last product of their feed-forward part.
        assert 2 * part.forward < part.backward < 3 * part.forward
    forward = sum(part.forward for part in found.parts.values())
    assert found.step_flops == pytest.approx(3 * 64 * forward, rel=1e-6)
    assert found.parameters["all"] == {"clip_l14": 427_616_513, "siglip_b16": 203_155_970}[name]


def test_other_towers_have_no_formula():
    assert closed_form(shipped("albef").model, "image") is None
    assert closed_form(shipped("emoji_siglip_conv").model, "image") is None
