"""Names of topologies: what they stand for, and what is said of others."""

import pytest

from mmjax.errors import UserError
from mmjax.parallel.chips import chip_of
from mmjax.plan.gpu import KINDS, target_config
from mmjax.plan.topology import SLICES, check, num_devices, open_topology


def test_a_name_says_how_many_devices_there_are():
    assert num_devices("v5e:16x16") == 256
    assert num_devices("v5p:2x2x2", num_slices=2) == 16
    assert num_devices("h100:16") == 16
    assert len(open_topology("cpu:8").devices) == 8


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e:3x3", "use one of v5e:1x1, .*v5e:16x16"),
        ("v5:4x4", "did you mean v5"),
        ("h100:12", "give a multiple of 8"),
        ("cpu:0", "is not known"),
        ("tpu", "use one of|did you mean"),
        ("h100:x", "is not known"),
    ],
)
def test_other_names_are_refused_with_those_that_are_known(name, said):
    with pytest.raises(UserError, match=said):
        check(name)


def test_every_slice_is_a_shape():
    for kind, shapes in SLICES.items():
        for shape in shapes:
            assert num_devices(f"{kind}:{shape}") > 0


@pytest.mark.parametrize("name", ["cpu:8", "h100:8"])
def test_slices_are_for_tpu(name):
    with pytest.raises(UserError, match="--slices is for TPU"):
        open_topology(name, 2)


def test_every_gpu_is_a_chip_that_is_known():
    for described in KINDS.values():
        chip = chip_of(described.device_kind)
        assert chip is not None
        assert chip.link_bytes_per_sec
        assert f"device_memory_size: {chip.memory_bytes}\n" in target_config(described)


def test_other_failures_of_a_compiler_are_not_hidden(monkeypatch):
    def broken(**options):
        raise RuntimeError("target_config: expected an identifier")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", broken)
    with pytest.raises(RuntimeError, match="expected an identifier"):
        open_topology("h100:8")


@pytest.mark.parametrize(("name", "said"), [("v5e:4x4", "requirements-plan.txt"), ("h100:8", "jax-cuda12-plugin")])
def test_a_compiler_that_is_missing_is_named(name, said, monkeypatch):
    def missing(**options):
        if options["platform"] == "tpu":
            raise RuntimeError("JAX TPU support not installed")
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    with pytest.raises(UserError, match=said):
        open_topology(name)
