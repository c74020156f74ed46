"""Exports a trained model for PyTorch: `python -m mmjax.export --workdir DIR --to FORMAT --out DIR`.

It needs one CPU host, whatever mesh trained the model, and PyTorch only for the proof and for programs.
"""

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mmjax import __version__, assembly, command_line, prove, workdir
from mmjax.data.captions import for_evaluation
from mmjax.data.licence import licences_of
from mmjax.data.opened import open_split
from mmjax.errors import UserError
from mmjax.experiment import Experiment, from_values
from mmjax.interop.dual import reference
from mmjax.interop.dual.exports import (
    brings_code,
    write_hugging_face,
    write_open_clip,
    write_programs,
    write_programs_beside,
)
from mmjax.interop.export_folder import Trained
from mmjax.interop.formats import Spec
from mmjax.interop.fusion import reference as fusion_reference
from mmjax.interop.fusion.exports import prove_through_module, read_back, write_fusion
from mmjax.interop.sampling import Compute, Pairs, Rounded, make_sample, spread
from mmjax.interop.tensors import DTYPES
from mmjax.models.base import ModelConfig
from mmjax.models.dual_encoder import DualEncoderConfig
from mmjax.models.fusion.model import FusionConfig
from mmjax.proof import sample as samples
from mmjax.proof.facts import DUAL_ENCODER, FACTS, FUSION
from mmjax.training.checkpoint import Checkpoints


class Written(NamedTuple):
    """A line that says what was written, and the model with the weights that the folder holds."""

    said: str
    exported: Trained


Writer = Callable[[Path, Trained, argparse.Namespace], Written]


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    # Whatever accelerators there are: one host's memory holds the model, and float32 products are exact enough.
    jax.config.update("jax_platforms", "cpu")
    experiment = from_values(workdir.read_config(options.workdir))
    kind = KINDS[type(experiment.model)]
    options.to = kind.chosen(options)
    trained = read_trained(options, experiment, kind)
    pairs = sample_pairs(experiment, options.data, trained, kind.num_pairs)
    with Unfinished(options.out) as folder:
        said, exported = kind.writers[options.to](folder, trained, options)
        samples.write(folder, make_sample(folder, exported, pairs, kind.computing(options)))
        proves = can_prove(options.to) if options.proof is None else options.proof
        proof = PROVERS.get(options.to, _by_itself)(folder, exported) if proves else None
        if proves and brings_code(folder):
            said = f"{said}; {write_programs_beside(folder, options.dtype)}"
    print(f"{options.out}: {said}")
    print(proof or f"not proven yet: {how_to_prove(options.to, options.out)}")


LIBRARIES = {"open_clip": "open_clip", "onnx": "onnxruntime"}
"""What a proof needs beside `transformers`, where it is not PyTorch."""


def can_prove(format: str) -> bool:
    return importlib.util.find_spec(LIBRARIES.get(format, "torch")) is not None


def how_to_prove(format: str, out: Path) -> str:
    """The line that proves an export."""
    if format == "open_clip":
        return f"in an environment of its own, with open_clip_torch and this repository: python -m mmjax.prove {out}"
    install = f"{sys.executable} -m pip install -r requirements-export.txt"
    if format in PROVERS:
        return f"{install}, and export it again"
    return f"{install} && {sys.executable} -m mmjax.prove {out}"


def _by_itself(folder: Path, exported: Trained) -> str:
    """The proof of a folder that carries all that its proof needs."""
    del exported
    return prove.prove(folder)


PROVERS: dict[str, Callable[[Path, Trained], str]] = {"reference": prove_through_module}
"""Formats whose folder is proven as it is written, and not afterwards."""


def _hugging_face(folder: Path, trained: Trained, options: argparse.Namespace) -> Written:
    return _rounded(write_hugging_face(folder, trained, options.part, options.dtype), trained, options)


def _open_clip(folder: Path, trained: Trained, options: argparse.Namespace) -> Written:
    return _rounded(write_open_clip(folder, trained, options.part, options.dtype), trained, options)


def _programs(folder: Path, trained: Trained, options: argparse.Namespace) -> Written:
    if options.part != "both":
        raise UserError(f"--to {options.to} always writes a program for each tower: leave out --part")
    return _rounded(write_programs(folder, trained, options.to, options.dtype), trained, options)


def _rounded(said: str, trained: Trained, options: argparse.Namespace) -> Written:
    return Written(said, replace(trained, weights=Rounded(trained.weights, options.dtype)))


def _fusion(folder: Path, trained: Trained, options: argparse.Namespace) -> Written:
    said = write_fusion(folder, trained, options.to, options.dtype)
    return Written(said, replace(trained, weights=read_back(folder, trained, options.to, options.dtype)))


@dataclass(frozen=True)
class Kind:
    """How models of a kind are exported.

    name: what `mmjax.json` calls it; `words` are what messages call one of them.
    writers: by what --to calls the format; the first is the one by default.
    has_towers: whether --part may ask for one of them.
    num_pairs: of the proof's sample.
    computing: what the model makes of the sample.
    """

    name: str
    words: str
    writers: dict[str, Writer]
    has_towers: bool
    num_pairs: int
    computing: Callable[[argparse.Namespace], Compute]

    def chosen(self, options: argparse.Namespace) -> str:
        """The format that is asked for.

        Raises:
            UserError: it is not for models of this kind, nor is --part.
        """
        format = next(iter(self.writers)) if options.to is None else options.to
        if format not in self.writers:
            raise UserError(f"--to {format} is not for a {self.words}: choose one of {', '.join(self.writers)}")
        if options.part != "both" and not self.has_towers:
            raise UserError(f"--part {options.part} is not for a {self.words}, whose parts are one: leave it out")
        return format


KINDS: dict[type[ModelConfig], Kind] = {
    DualEncoderConfig: Kind(
        DUAL_ENCODER,
        "dual encoder",
        {"huggingface": _hugging_face, "open_clip": _open_clip, "onnx": _programs, "torch_export": _programs},
        has_towers=True,
        num_pairs=reference.NUM_PAIRS,
        computing=lambda options: reference.computing(options.part),
    ),
    FusionConfig: Kind(
        FUSION,
        "fusion model",
        {"mmjax": _fusion, "huggingface": _fusion, "reference": _fusion},
        has_towers=False,
        num_pairs=fusion_reference.NUM_PAIRS,
        computing=lambda options: fusion_reference.compute,
    ),
}
FORMATS = list(dict.fromkeys(format for kind in KINDS.values() for format in kind.writers))


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.export", description="Exports a trained model for PyTorch.")
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    default = "format (default: huggingface, and mmjax for a fusion model)"
    parser.add_argument("--to", choices=FORMATS, help=default)
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export in it is replaced")
    parser.add_argument("--step", type=int, help="step of the checkpoint; the last one by default")
    parser.add_argument(
        "--ema", action=argparse.BooleanOptionalAction, help="the averaged parameters; by default if the run keeps them"
    )
    parser.add_argument(
        "--part", choices=["both", "image", "text"], default="both", help="a whole dual encoder, or one of its towers"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the weights (default: float32)")
    parser.add_argument("--data", help="data of the proof's sample: emoji, imagefolder:DIR or tfds:DIR; the run's own")
    parser.add_argument(
        "--proof",
        action=argparse.BooleanOptionalAction,
        help="load the export in PyTorch and compare it; by default if the library of the format is there",
    )
    return parser.parse_args(arguments)


def read_trained(options: argparse.Namespace, experiment: Experiment, kind: Kind) -> Trained:
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
        "kind": kind.name,
        "mmjax_version": __version__,
        "step": record["step"],
        "ema": weights.is_average,
        "fingerprint": fingerprint,
        "data_licence": licences_of(experiment.data.training_sources),
        "evaluation": evaluation(options.workdir, record["step"]),
        "versions": record["versions"],
        "experiment": experiment.to_dict(),
    }
    preprocess = None if experiment.model.image_shape is None else experiment.data.preprocess
    return Trained(Spec(experiment.model, preprocess), tokenizer, weights, facts)


def evaluation(directory: Path, step: int) -> dict[str, Any]:
    """The scores of the splits at this step, as `python -m mmjax.evaluate` wrote them; nothing where it did not."""
    path = directory / workdir.EVALUATION
    if not path.exists():
        return {}
    values = workdir.read_json(path)
    return values["splits"] if values["step"] == step else {}


def sample_pairs(experiment: Experiment, source: str | None, trained: Trained, number: int) -> Pairs:
    """Pairs for the proof: of the headline split, or of what was trained on; or of another `source`."""
    if source is not None:
        experiment = assembly.with_source(experiment, source)
    data = experiment.data
    split = experiment.evals.splits[0] if experiment.evals.splits else data.split
    records = for_evaluation(open_split(data, split), data.captions)
    return spread(data, records, trained.tokenizer, number)


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
