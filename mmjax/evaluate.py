"""Scores a finished run: `python -m mmjax.evaluate --workdir DIR [--data SPEC] [--split NAME] [--json FILE]`.

Or a foreign checkpoint, on the data named: `python -m mmjax.evaluate --model hf:DIR --data SPEC`.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from mmjax import assembly, command_line, workdir
from mmjax.data.opened import open_split
from mmjax.data.preprocess import preprocess
from mmjax.data.sources.specs import list_splits
from mmjax.errors import UserError
from mmjax.evals.seen import Seen
from mmjax.experiment import NOTHING_TO_SCORE, Experiment, from_values
from mmjax.interop import imports
from mmjax.parallel.host_memory import keep_freed_memory
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.report.gallery import make_gallery, save_gallery
from mmjax.report.wording import of_pairs
from mmjax.training.checkpoint import Checkpoints
from mmjax.types import Params


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    keep_freed_memory()
    experiment, step, results = evaluate_foreign(options) if options.model else evaluate_run(options)
    show(results)
    if options.json is not None:
        write_json(options.json, summary(experiment, step, results))


def evaluate_run(options: argparse.Namespace) -> tuple[Experiment, int | None, dict[str, Any]]:
    """The experiment of a run, the step of its checkpoint, and the results by split."""
    directory = options.workdir
    experiment = chosen_data(from_values(workdir.read_config(directory)), options.data, options.split)
    tokenizer = assembly.load_tokenizer(experiment)
    workdir.check_fingerprint(directory, assembly.fingerprint(experiment, tokenizer))
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        program = assembly.program(experiment, mesh)
        encoders = assembly.encoders(experiment, program.model.graphdef, mesh)
        evaluation = assembly.Evaluation(experiment, tokenizer, encoders, directory)
        checkpoints = Checkpoints(directory / workdir.CHECKPOINTS, read_only=True)
        state, _ = checkpoints.restore(program.abstract_state, options.step)
        results = evaluation(state.eval_params)
        if options.data is None:
            save_examples(directory, evaluation, experiment, state.eval_params)
    return experiment, int(state.step), results


def evaluate_foreign(options: argparse.Namespace) -> tuple[Experiment, int | None, dict[str, Any]]:
    """The same for a foreign checkpoint, which has no step; an exported fusion model knows its data."""
    mesh = make_mesh(MeshConfig())
    with imports.opened_export(options.model) as foreign, jax.set_mesh(mesh):
        experiment = assembly.foreign_experiment(foreign)
        known = None if experiment.model.fuses else "emoji"
        experiment = chosen_data(experiment, options.data or known, options.split)
        tokenizer = assembly.load_tokenizer(experiment)
        spec = assembly.model_spec_of(experiment, mesh)
        params = imports.loaded(foreign, spec.params_spec, mesh)
        encoders = assembly.encoders(experiment, spec.graphdef, mesh)
        with tempfile.TemporaryDirectory() as folder:
            return experiment, None, assembly.Evaluation(experiment, tokenizer, encoders, Path(folder))(params)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mmjax.evaluate", description="Scores a finished run.")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--workdir", type=Path, help="folder of the run")
    model.add_argument("--model", help="a foreign checkpoint: hf:DIR, open_clip:DIR or big_vision:FILE")
    parser.add_argument("--data", help="data to score on: emoji, imagefolder:DIR or tfds:DIR; the run's own by default")
    parser.add_argument("--split", help="split of the data; by default those of the config, or test or validation")
    parser.add_argument("--step", type=int, help="step of the checkpoint; the last one by default")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser.parse_args(arguments)


def chosen_data(experiment: Experiment, source: str | None, split: str | None) -> Experiment:
    """The experiment with the data that the command line asks for; every split of it where none is held out.

    Raises:
        UserError: a model of which nothing can be scored.
    """
    if not (experiment.model.embeds or experiment.model.fuses):
        raise UserError(f"{NOTHING_TO_SCORE}: read what the objective reached in metrics.jsonl")
    if source is not None:
        experiment = assembly.with_source(experiment, source)
    splits = (split,) if split is not None else experiment.evals.splits or list_splits(experiment.data.source)
    return replace(experiment, evals=replace(experiment.evals, splits=splits))


def save_examples(directory: Path, evaluation: assembly.Evaluation, experiment: Experiment, params: Params) -> None:
    """Keeps a cross-section of the headline split's answers for the report, of data that has pixels to show."""
    if not (experiment.data.image_key and experiment.model.embeds):
        return
    split = next(iter(evaluation.splits.values())).split
    pairs = Seen(evaluation.encoders, split, params).pairs
    if jax.process_index() == 0:
        records = open_split(experiment.data, experiment.evals.splits[0])
        gallery = make_gallery(pairs, lambda row: preprocess(records[row].image, experiment.data.preprocess))
        save_gallery(directory, gallery)


def summary(experiment: Experiment, step: int | None, results: dict[str, Any]) -> dict[str, Any]:
    """What scripts read: the results of the first split at the top, and those of all splits below."""
    headline = experiment.evals.splits[0]
    uses_ema = experiment.train.ema_decay > 0
    about = {"data": experiment.data.source, "split": headline, "step": step, "ema": uses_ema}
    return {**results[headline], **about, "splits": results}


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    workdir.write_json(path, values)


def _percents(recalls: dict[str, float]) -> list[str]:
    """At 1, 5 and 10; of fewer candidates than ten there are not all."""
    return [*(f"{value:.1%}" for value in recalls.values()), "", ""][:3]


def show(results: dict[str, Any]) -> None:
    """The results as a table, one row a split and direction."""
    table = Table("split", "direction", "R@1", "R@5", "R@10", "candidates")
    for split, evals in results.items():
        for direction, candidates in (("image_to_text", "num_candidates"), ("text_to_image", "num_images")):
            name = direction.replace("_", " ")
            if (found := evals.get("retrieval")) is not None:
                table.add_row(split, name, *_percents(found[direction]), str(found[candidates]))
            if (found := evals.get("reranked")) is not None:
                within = f"{found['num_candidates']} nearest"
                table.add_row(split, f"{name}, reranked", *_percents(found[direction]), within)
            if (found := evals.get("choice")) is not None:
                table.add_row(split, f"{name}, chosen", *_percents(found[direction]), f"{found[candidates]} at a time")
    console = Console()
    console.print(table)
    for split, evals in results.items():
        for clause in of_pairs(evals):
            console.print(f"{split}: {clause}")
    for split, evals in results.items():
        if "zero_shot" in evals:
            zero_shot = evals["zero_shot"]
            console.print(
                f"{split}: zero-shot top-1 {zero_shot['top1']:.1%}, top-5 {zero_shot['top5']:.1%} "
                f"of {zero_shot['num_classes']} classes"
            )


if __name__ == "__main__":
    command_line.run(main)
