"""What the scripts of both references share: importing a checkout, filling a model, and writing facts about it.

Needs PyTorch; the tests need `seeded.py` alone.
"""

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.parity.reference import seeded

FOLDER = Path(__file__).parent
Arrays = dict[str, np.ndarray]


class Stub(ModuleType):
    """An empty module: whatever is taken from it is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def parsed(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a script: the checkout of a reference, and the folder for the facts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="folder of the reference's git checkout")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the facts (default: this one)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads; the facts in the tree are of 1")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    return options


def check_commit(checkout: Path, commit: str) -> None:
    """Raises if the checkout is of another commit, or if its files were changed."""
    found = _git(checkout, "rev-parse", "HEAD")
    if found != commit:
        raise SystemExit(f"{checkout} is at {found}; run git -C {checkout} checkout {commit}")
    if changed := _git(checkout, "status", "--porcelain", "--untracked-files=no"):
        raise SystemExit(f"{checkout} has changes; undo them with git -C {checkout} checkout .\n{changed}")


def imported(checkout: Path, names: Sequence[str], stubs: dict[str, ModuleType | None]) -> list[ModuleType]:
    """Modules of the checkout, with `stubs` in place of others while they are imported; None for a missing one."""
    with stubbed(stubs), _first_in_path(checkout):
        return [importlib.import_module(name) for name in names]


@contextlib.contextmanager
def stubbed(stubs: dict[str, ModuleType | None]) -> Iterator[None]:
    """Puts modules in place of others, and puts those back at the end."""
    before = {name: sys.modules[name] for name in stubs if name in sys.modules}
    sys.modules.update(stubs)
    try:
        yield
    finally:
        for name in stubs:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def fill(model: torch.nn.Module) -> None:
    """Sets every parameter to the seeded weights of its name, and switches dropout off."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(seeded.array(name, parameter.shape)))
    model.eval()


def table(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    """Names and shapes of the parameters in the state dict, in its order, tied names each for itself."""
    buffers = {name for name, _ in model.named_buffers()}
    return [(name, list(value.shape)) for name, value in model.state_dict().items() if name not in buffers]


def tied(model: torch.nn.Module) -> dict[str, str]:
    """Names of parameters that are others' storage, each with the first name of that storage."""
    first: dict[int, str] = {}
    pairs = [(name, id(p)) for name, p in model.named_parameters(remove_duplicate=False)]
    return {name: first[key] for name, key in pairs if first.setdefault(key, name) != name}


def unused(model: torch.nn.Module, loss: torch.Tensor) -> list[str]:
    """Names of the parameters that the loss of all tasks does not depend on; leaves gradients of the others."""
    loss.backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]


def gradient_norms(model: torch.nn.Module) -> np.ndarray:
    """The Euclidean norm of each parameter's gradient in the order of the table without its tied names; 0 for none."""
    grads = [parameter.grad for parameter in model.parameters()]
    return np.array([0 if grad is None else grad.norm().item() for grad in grads], np.float32)


def describe(model: torch.nn.Module, *, seeded_weights: bool, **facts: Any) -> dict[str, Any]:
    """The facts about a model, `facts` first; with a checksum of its seeded weights if it has them."""
    names, pairs = table(model), tied(model)
    own = [name for name, _ in names if name not in pairs]
    if seeded_weights:
        facts["weights_crc32"] = seeded.crc32(seeded.array(name, shape) for name, shape in names if name in own)
    return {
        **facts,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_parameters_with_tied_ones_twice": sum(value.numel() for value in model.state_dict().values()),
        "tied": pairs,
        "buffers": [(name, list(value.shape)) for name, value in model.named_buffers()],
        "parameters": names,
    }


def write(folder: Path, name: str, facts: dict[str, Any], outputs: Arrays | None, limit: int | None) -> None:
    """Writes `name.json` and, of outputs, `name.npz`: whole arrays, or samples of at most `limit` numbers each."""
    if outputs is not None:
        facts = facts | {"outputs": {key: _stored(value, limit) for key, value in outputs.items()}}
        stored = {key: seeded.sample(value, limit) if limit else value for key, value in outputs.items()}
        np.savez_compressed(folder / f"{name}.npz", **stored)
    (folder / f"{name}.json").write_text(_lines(facts))
    print(f"{name}: {facts['num_parameters']:,} parameters in {len(facts['parameters'])} names")


def numpy_of(outputs: dict[str, torch.Tensor]) -> Arrays:
    """Outputs as arrays of float32."""
    return {name: value.detach().float().numpy() for name, value in outputs.items()}


def both_cases(run: Callable[[seeded.Batch], dict[str, torch.Tensor]], sizes: dict[str, int]) -> Arrays:
    """The outputs of a batch without padding under `full/`, and of one with it under `padded/`."""
    cases = {case: seeded.inputs(**sizes, padded=case == "padded") for case in ("full", "padded")}
    found = {case: numpy_of(run(batch)) for case, batch in cases.items()}
    return {f"{case}/{name}": value for case, outputs in found.items() for name, value in outputs.items()}


@contextlib.contextmanager
def _first_in_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _stored(output: np.ndarray, limit: int | None) -> dict[str, Any]:
    """The shape of an output, and the step in row-major order at which its numbers are stored."""
    return {"shape": list(output.shape), "stride": seeded.stride(output.size, limit) if limit else 1}


def _lines(facts: dict[str, Any]) -> str:
    """JSON with one entry of a list or dictionary per line."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_block(value)}" for key, value in facts.items()) + "\n}\n"


def _block(value: Any) -> str:
    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {json.dumps(v)}" for v in value) + "\n]"
    return json.dumps(value)
