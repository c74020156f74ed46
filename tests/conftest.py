"""Every test runs on CPU and may use up to 8 virtual devices."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from jax.sharding import Mesh

from mmjax.parallel.mesh import MeshConfig, make_mesh

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# Tiny models spend all their time in the compiler: without most of its optimisations they take half of it.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """A mesh of one device, set for the length of the test."""
    one = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    with jax.set_mesh(one):
        yield one


@pytest.fixture(scope="session")
def compiled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def shared_compilations(compiled_folder: Path) -> Iterator[None]:
    """Runs of the same program compile it once, also those of different modules."""
    jax.config.update("jax_compilation_cache_dir", str(compiled_folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many MiB, for as long as the test runs."""
    folder = tmp_path / "disk"

    def mount(size_mib: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
