"""Exports a trained model for PyTorch: `python -m mmjax.export --workdir DIR --to FORMAT --out DIR`.

It needs one CPU host, whatever mesh trained the model, and PyTorch only for the proof and for programs.
"""

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mmjax import __version__, assembly, command_line, prove, workdir
from mmjax.data.captions import for_evaluation
from mmjax.data.licence import licence_of
from mmjax.data.records import Source
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.interop.exports import (
    Trained,
    brings_code,
    write_hugging_face,
    write_open_clip,
    write_programs,
    write_programs_beside,
)
from mmjax.interop.formats import Spec
from mmjax.interop.reference import make_sample
from mmjax.interop.tensors import DTYPES
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.proof import sample as samples
from mmjax.proof.facts import FACTS
from mmjax.training.checkpoint import Checkpoints

Writer = Callable[[Path, Trained, argparse.Namespace], str]


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    # Whatever accelerators there are: one host's memory holds the model, and float32 products are exact enough.
    jax.config.update("jax_platforms", "cpu")
    experiment = from_values(workdir.read_config(options.workdir))
    if not isinstance(experiment.model, DualEncoderConfig):
        raise UserError(
            f"{options.workdir} has trained a {type(experiment.model).__name__}, which cannot be exported yet: export "
            "a dual encoder; docs/fusion.md says what there is for fusion models"
        )
    trained = read_trained(options, experiment)
    records = sample_records(experiment, options.data)
    with Unfinished(options.out) as folder:
        said = WRITERS[options.to](folder, trained, options)
        samples.write(folder, make_sample(folder, trained, options.part, options.dtype, records))
        proves = can_prove(options.to) if options.proof is None else options.proof
        proof = prove.prove(folder) if proves else None
        if proves and brings_code(folder):
            said = f"{said}; {write_programs_beside(folder, options.dtype)}"
    print(f"{options.out}: {said}")
    print(proof or f"not proven yet: {how_to_prove(options.to, options.out)}")


LIBRARIES = {"huggingface": "torch", "open_clip": "open_clip", "onnx": "onnxruntime", "torch_export": "torch"}
"""What a proof needs beside `transformers`."""


def can_prove(format: str) -> bool:
    return importlib.util.find_spec(LIBRARIES[format]) is not None


def how_to_prove(format: str, out: Path) -> str:
    """The line that proves an export."""
    if format == "open_clip":
        return f"in an environment of its own, with open_clip_torch and this repository: python -m mmjax.prove {out}"
    return f"{sys.executable} -m pip install -r requirements-export.txt && {sys.executable} -m mmjax.prove {out}"


def _hugging_face(folder: Path, trained: Trained, options: argparse.Namespace) -> str:
    return write_hugging_face(folder, trained, options.part, options.dtype)


def _open_clip(folder: Path, trained: Trained, options: argparse.Namespace) -> str:
    return write_open_clip(folder, trained, options.part, options.dtype)


def _programs(folder: Path, trained: Trained, options: argparse.Namespace) -> str:
    if options.part != "both":
        raise UserError(f"--to {options.to} always writes a program for each tower: leave out --part")
    return write_programs(folder, trained, options.to, options.dtype)


WRITERS: dict[str, Writer] = {
    "huggingface": _hugging_face,
    "open_clip": _open_clip,
    "onnx": _programs,
    "torch_export": _programs,
}


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.export", description="Exports a trained model for PyTorch.")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--to", choices=list(WRITERS), default="huggingface", help="format (default: huggingface)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export in it is replaced")
    parser.add_argument("--step", type=int, help="step of the checkpoint; the last one by default")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="the averaged parameters; by default if the run keeps them"
    )
    parser.add_argument(
        "--part", choices=["both", "image", "text"], default="both", help="the whole model, or one tower"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the weights (default: float32)")
    parser.add_argument("--data", help="data of the proof's sample: emoji, imagefolder:DIR or tfds:DIR; the run's own")
    parser.add_argument(
        "--proof",
        action=argparse.BooleanOptionalAction,
        help="load the export in PyTorch and compare it; by default if the library of the format is there",
    )
    return parser.parse_args(arguments)


def read_trained(options: argparse.Namespace, experiment: Experiment) -> Trained:
    """The model of a run, its weights not yet read.

    Raises:
        UserError: there is no such checkpoint, or the tokenizer is not the one of the run.
    """
    tokenizer = assembly.load_tokenizer(experiment)
    fingerprint = assembly.fingerprint(experiment, tokenizer)
    workdir.check_fingerprint(options.workdir, fingerprint)
    checkpoints = Checkpoints(options.workdir / workdir.CHECKPOINTS, read_only=True)
    weights, record = checkpoints.weights(options.step, ema=options.ema)
    facts = {
        "mmjax_version": __version__,
        "step": record["step"],
        "ema": weights.is_average,
        "fingerprint": fingerprint,
        "data_licence": licence_of(experiment.data.source),
        "evaluation": evaluation(options.workdir, record["step"]),
        "versions": record["versions"],
        "experiment": experiment.to_dict(),
    }
    return Trained(Spec(experiment.model, experiment.data.preprocess), tokenizer, weights, facts)


def evaluation(directory: Path, step: int) -> dict[str, Any]:
    """The scores of the splits at this step, as `python -m mmjax.evaluate` wrote them; nothing where it did not."""
    path = directory / workdir.EVALUATION
    if not path.exists():
        return {}
    values = workdir.read_json(path)
    return values["splits"] if values["step"] == step else {}


def sample_records(experiment: Experiment, source: str | None) -> Source:
    """The records that the proof samples: of the headline split, or of what was trained on."""
    if source is not None:
        experiment = assembly.with_source(experiment, source)
    split = experiment.evals.splits[0] if experiment.evals.splits else experiment.data.split
    return for_evaluation(assembly.open_split(experiment.data, split), experiment.data.captions)


class Unfinished:
    """A folder beside `out` that becomes it at the end; one that was proven unequal is called `.failed`, for a look.

    Raises (on entry):
        UserError: `out` holds something that is no export.
    """

    def __init__(self, out: Path):
        self._out = out
        self._folder = out.with_name(f"{out.name}.unfinished")

    def __enter__(self) -> Path:
        if self._out.exists() and not (self._out / FACTS).exists() and any(self._out.iterdir()):
            raise UserError(f"{self._out} holds something else than an export: give another --out")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        place = self._out if kind is None else self._out.with_name(f"{self._out.name}.failed")
        if kind is not None and not issubclass(kind, prove.Unequal):
            shutil.rmtree(self._folder)
            return
        shutil.rmtree(place, ignore_errors=True)
        self._folder.replace(place)


if __name__ == "__main__":
    command_line.run(main)
