"""Names of operations to places in the model."""

import pytest

from mmjax.plan.places import place_of


@pytest.mark.parametrize(
    ("op_name", "path", "computed_in"),
    [
        ("jit(f)/jvp(image)/while/body/closed_call/blocks/mlp/up/add", "image/blocks/mlp/up", "forward"),
        (
            "jit(f)/transpose(jvp(image))/while/body/blocks/mlp/up/bi,bo->io/dot_general",
            "image/blocks/mlp/up",
            "backward",
        ),
        (
            "jit(f)/transpose(jvp(image))/while/body/checkpoint/rematted_computation/blocks/attention/jit(_where)/select_n",
            "image/blocks/attention",
            "recomputed",
        ),
        ("jit(train_step)/optimizer/mul", "optimizer", "forward"),
        ("state.params[\\'image\\'][\\'stem\\'][\\'kernel\\']", "state/params/image/stem/kernel", "forward"),
        ("batch['image']", "batch/image", "forward"),
        ("broadcast.1", "", "forward"),
        ("", "", "forward"),
    ],
)
def test_scopes_are_the_path(op_name, path, computed_in):
    assert place_of(op_name) == (path, computed_in)
