"""launch/platform.sh: one table of settings, to which what the user has set is never lost."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT, DOCS = ROOT / "launch" / "platform.sh", ROOT / "docs" / "launch.md"
NAMES = {"JAX_PLATFORMS", "LIBTPU_INIT_ARGS", "NCCL_DEBUG", "XLA_FLAGS", "XLA_PYTHON_CLIENT_MEM_FRACTION"}
HIDING = "--xla_gpu_enable_latency_hiding_scheduler"


def source(times: int = 1, **variables: str) -> dict[str, str]:
    """The settings after launch/platform.sh, as a child process sees them."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = f"set -euo pipefail; {f'source {SCRIPT}; ' * times} env -0"
    done = subprocess.run(["bash", "-c", command], env=clean | variables, capture_output=True, text=True, check=True)
    pairs = (line.split("=", 1) for line in done.stdout.split("\0") if line)
    return {name: value for name, value in pairs if name in NAMES}


def table() -> list[tuple[str, ...]]:
    """The rows of the script's table: platform, variable, value."""
    return re.findall(r"^(cpu|gpu|tpu) (\w+) +(\S+)$", SCRIPT.read_text(), re.MULTILINE)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_row_of_a_platform_is_set_and_no_other(platform: str) -> None:
    rows = [(variable, value) for row, variable, value in table() if row == platform]
    assert rows
    settings = source(PLATFORM=platform)
    assert set(settings) == {variable for variable, _ in rows}
    assert all(value in settings[variable].split() for variable, value in rows)


def test_what_is_set_already_stays() -> None:
    settings = source(PLATFORM="gpu", XLA_FLAGS=f"--xla_dump_to=a {HIDING}=false", NCCL_DEBUG="INFO")
    assert settings["XLA_FLAGS"] == f"--xla_dump_to=a {HIDING}=false"
    assert settings["NCCL_DEBUG"] == "INFO"


def test_flags_are_added_to_other_flags() -> None:
    assert source(PLATFORM="gpu", XLA_FLAGS=f"{HIDING}_other=1")["XLA_FLAGS"] == f"{HIDING}_other=1 {HIDING}=true"


def test_sourced_twice_it_adds_nothing() -> None:
    assert source(times=2, PLATFORM="gpu") == source(PLATFORM="gpu")


@pytest.mark.parametrize(("jax_platforms", "own"), [("cpu", "cpu_collective"), ("cuda", "gpu_enable")])
def test_the_platform_is_the_one_that_jax_is_told(jax_platforms: str, own: str) -> None:
    settings = source(JAX_PLATFORMS=jax_platforms)
    assert settings["JAX_PLATFORMS"] == jax_platforms
    assert own in settings["XLA_FLAGS"]


def test_an_unknown_platform_is_one_line() -> None:
    environment = os.environ | {"PLATFORM": "abacus"}
    done = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: 'abacus' is no platform: set PLATFORM to cpu, gpu or tpu\n")


def test_the_docs_have_the_same_rows() -> None:
    documented = re.findall(r"^\| (cpu|gpu|tpu) \| `(\w+)` \| `(\S+)` \|", DOCS.read_text(), re.MULTILINE)
    assert documented == table()


def test_xla_knows_every_flag() -> None:
    """XLA ends a process that names a flag which it does not know; those for GPU are in every build."""
    flags = " ".join(value for _, variable, value in table() if variable == "XLA_FLAGS")
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.numpy.zeros(1)"]
    subprocess.run(command, env=environment, check=True)
