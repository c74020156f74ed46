import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


@pytest.mark.parametrize("name", ["dev", "export", "hf", "photos", "prepare", "remote", "serving"])
def test_an_extra_equals_its_requirements(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"][name]) == requirements(f"requirements-{name}.txt")


def test_training_needs_neither_torch_nor_tensorflow() -> None:
    names = {line.split(">=")[0] for line in requirements("requirements.txt")}
    assert not names & {"torch", "tensorflow"}


def test_every_requirement_has_both_bounds() -> None:
    for line in set().union(*(requirements(path.name) for path in ROOT.glob("requirements*.txt"))) - {"jax[tpu]"}:
        assert re.fullmatch(r"[\w-]+(\[[\w,]+\])?>=[\d.]+,<[\d.]+", line), f"{line} needs a lower and an upper bound"


def test_scripts_can_be_run() -> None:
    sourced = {"environment.sh", "platform.sh", "slurm_status.sh"}
    scripts = [path for path in (ROOT / "launch").glob("*.s*") if path.name not in sourced]
    for script in (ROOT / ".ci" / "run", *scripts):
        assert script.stat().st_mode & 0o111, f"chmod +x {script.relative_to(ROOT)}"
