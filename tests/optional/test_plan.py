"""Plans for TPUs by the real compiler, without a TPU: run by launch/test_optional.sh, in an environment with libtpu."""

import os
from dataclasses import replace
from typing import Any

from mmjax.plan.environment import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from mmjax.data.config import DataConfig
from mmjax.data.preprocess import PreprocessConfig
from mmjax.experiment import Experiment
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.text import TextConfig
from mmjax.models.vit import ViTConfig
from mmjax.nn import short_attention
from mmjax.parallel import rules
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.plan.plan import make_plan
from mmjax.plan.program import Program
from mmjax.plan.topology import SLICES, open_topology

pytest.importorskip("libtpu", reason="runs in an environment of its own: bash launch/test_optional.sh")

SIZE: dict[str, Any] = {"width": 256, "depth": 6, "mlp_dim": 1024, "num_heads": 4, "compute_dtype": "bfloat16"}
WIDE = SIZE | {"width": 768, "depth": 3, "mlp_dim": 3072, "num_heads": 12}


def experiment(size: dict[str, Any] = SIZE, batch_size: int = 256, **how: Any) -> Experiment:
    image = ViTConfig(**size, image_size=112, patch_size=16, **how)
    text = TextConfig(**size, vocab_size=1024, context_len=32, **how)
    data = DataConfig(batch_size=batch_size, text_len=32, preprocess=PreprocessConfig(image_size=112))
    return Experiment(DualEncoderConfig(image, text, embed_dim=size["width"]), data)


@pytest.mark.parametrize("kind", SLICES)
def test_every_slice_can_be_opened(kind: str) -> None:
    for shape in SLICES[kind]:
        devices = open_topology(f"{kind}:{shape}").devices
        assert len(devices) > 0


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
@pytest.mark.parametrize(("length", "num_heads", "head_dim", "masked"), [(200, 12, 64, True), (256, 16, 72, False)])
def test_the_kernel_compiles(name: str, length: int, num_heads: int, head_dim: int, masked: bool) -> None:
    mesh = make_mesh(MeshConfig(), open_topology(name).devices[:1])
    with jax.set_mesh(mesh):
        width = num_heads * head_dim
        rows, flat = (NamedSharding(mesh, rules.spec(dims)) for dims in ("btn", "n"))
        sides = jax.ShapeDtypeStruct((4, length, 3 * width), jnp.bfloat16, sharding=rows)
        biases = jax.ShapeDtypeStruct((3 * width,), jnp.bfloat16, sharding=flat)
        cotangent = jax.ShapeDtypeStruct((4, length, width), jnp.bfloat16, sharding=rows)
        if not short_attention.fits(cotangent, cotangent, None, num_heads, head_dim):
            assert name.startswith("v4"), "the fast memory of all others is large enough"
            return

        def both(sides: jax.Array, biases: jax.Array, cotangent: jax.Array) -> Any:
            mask = (jnp.arange(length) < length - 4)[None, None, None] if masked else None

            def attended(sides: jax.Array, biases: jax.Array) -> jax.Array:
                return short_attention.attend([sides], [biases], mask, head_dim)

            read, pull = jax.vjp(attended, sides, biases)
            return read, pull(cotangent)

        lowered = jax.jit(both).lower(sides, biases, cotangent)
        program = Program(lowered.compile().as_text() or "")
    products = 7 * 2 * 4 * length**2 * width
    assert program.kernel_cost.flops == products


@pytest.mark.parametrize("name", ["v5e:2x2", "v6e:2x2"])
@pytest.mark.parametrize(("length", "width"), [(200, 768), (256, 1152)])
def test_the_kernel_compiles_for_a_probe(name: str, length: int, width: int) -> None:
    mesh = make_mesh(MeshConfig(), open_topology(name).devices[:1])
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, rules.spec("btd"))
        queries = jax.ShapeDtypeStruct((4, 16, width), jnp.bfloat16, sharding=rows)
        x = jax.ShapeDtypeStruct((4, length, width), jnp.bfloat16, sharding=rows)
        assert short_attention.fits(x, x, None, 1, width, letter="d")

        def total(queries: jax.Array, x: jax.Array) -> jax.Array:
            read = short_attention.attend((queries, x), (), None, width, letter="d")
            return jnp.sum(jnp.square(read.astype(jnp.float32)))

        program = Program(jax.jit(jax.grad(total, (0, 1))).lower(queries, x).compile().as_text() or "")
    assert program.kernel_cost.flops == 7 * 2 * 4 * 16 * length * width


@pytest.fixture(scope="module")
def scanned() -> dict[str, Any]:
    return make_plan(experiment(remat="full"), open_topology("v5e:2x2"))


def test_a_plan_of_the_real_compiler(scanned: dict[str, Any]) -> None:
    memory, time = scanned["memory"], scanned["time"]
    assert 0 < memory["peak_bytes"] < memory["limit_bytes"] == int(15.75 * 2**30)
    assert 0.6 < memory["explained_bytes"] / memory["peak_bytes"] < 1.4
    assert time["roofline_secs"] < time["hybrid_secs"] < time["cycles_secs"]
    assert "kernels" in time["by_kind"]
    assert {"all-reduce"} <= {one["operation"] for one in scanned["collectives"]}
    parts = scanned["flops"]["per_example"]
    # What the heads of the pooling probe look for is computed once for the batch, and not in the formula.
    once = {"image": 4 * SIZE["num_heads"] * SIZE["width"] ** 2 // 256, "text": 0}
    for tower, flops in once.items():
        assert parts[tower]["forward"] == parts[tower]["closed_form"] + flops


def test_layers_written_out_take_as_long_as_scanned_ones() -> None:
    """Arrays of a layer are larger than the fast memory, as in a real step: small ones stay there between layers that
    are written out, which is no error of the sums."""
    scanned, written_out = (
        make_plan(experiment(WIDE, 4096, remat="full", unroll=unroll), open_topology("v5e:2x2"))["time"]["computation"]
        for unroll in (1, -1)
    )
    for end in ("roofline", "hybrid", "cycles"):
        assert 0.95 < written_out[end] / scanned[end] < 1.05, end


def test_what_does_not_fit_is_a_plan_too() -> None:
    large = experiment()
    large = replace(large, data=replace(large.data, batch_size=2**18))
    found = make_plan(large, open_topology("v5e:2x2"))
    assert not found["memory"]["fits"]
    assert found["memory"]["limit_bytes"] == int(15.75 * 2**30)
    assert any("remat=full" in line for line in found["memory"]["remedies"])


def test_two_slices_have_the_data_axis_between_them() -> None:
    given = replace(experiment(remat="full"), mesh=MeshConfig(data=2, fsdp=4))
    found = make_plan(given, open_topology("v5e:2x2", num_slices=2))
    assert found["num_devices"] == 8
    across = [one for one in found["collectives"] if "data" in one["axes"]]
    within = [one for one in found["collectives"] if one["axes"] == ["fsdp"]]
    assert across
    assert within
