"""What the report says in words and figures: each function turns a run into one part of the page."""

import shlex
from typing import Any, NamedTuple

import numpy as np

from mmjax.config import flatten
from mmjax.data.mixture import described
from mmjax.report.run import Run, first_order, has_recalls
from mmjax.report.wording import duration, of_pairs, percent, written
from mmjax.training.profile import verdict

SETTINGS = {
    "data.batch_size": "Batch size",
    "data.tokenizer": "Tokenizer",
    "objective.class": "Objective",
    "objective.kind": "Loss",
    "train.num_steps": "Steps",
    "train.seed": "Seed",
    "train.accumulate": "Microbatches a step",
    "train.ema_decay": "EMA decay",
    "optim.optimizer": "Optimizer",
    "optim.learning_rate": "Learning rate",
    "optim.weight_decay": "Weight decay",
    "optim.schedule.name": "Schedule",
    "optim.schedule.warmup_steps": "Warm-up steps",
    "model.image.image_size": "Image size",
    "model.image.patch_size": "Patch size",
    "model.image.stem": "Image stem",
    "model.image.width": "Image width",
    "model.image.depth": "Image depth",
    "model.text.width": "Text width",
    "model.text.depth": "Text depth",
    "model.text.context_len": "Text length",
    "model.embed_dim": "Embedding width",
    "mesh.data": "Mesh: data",
    "mesh.fsdp": "Mesh: fsdp",
    "mesh.tensor": "Mesh: tensor",
}
"""The config in short: dotted keys and what to call them; a key that a config lacks is left out."""


class Tile(NamedTuple):
    """A figure worth a glance."""

    name: str
    value: str
    note: str


class Row(NamedTuple):
    """A line of the evaluation table."""

    split: str
    cells: tuple[str, ...]


def title(run: Run) -> str:
    return run.workdir.resolve().name


def headline(run: Run) -> tuple[str, dict[str, Any]] | None:
    """The first split that images and captions were found in, and its results."""
    return next(((split, results) for split, results in run.results.items() if has_recalls(results)), None)


def summary(run: Run) -> str:
    """What was reached, in one or two sentences."""
    steps = int(run.metrics["step"][-1])
    trained = f"Trained for {steps:,} steps on {described(run.config['data'])}{_in_time(run)}."
    first = headline(run)
    if first is None:
        return f"{trained} It has not been evaluated yet."
    split, results = first
    count = first_order(results)["num_candidates"]
    recall, chance = percent(_in_order(results)["image_to_text"]["r@1"]), percent(1 / count)
    return (
        f"{trained} On {split}, {recall} of the images find their caption at once among "
        f"{count:,} captions; guessing would find {chance}."
    )


def tiles(run: Run) -> list[Tile]:
    """Headline figures: recalls, last loss, throughput, utilisation."""
    shown = []
    if (first := headline(run)) is not None:
        split, results = first
        shown += [
            Tile(f"{name}, R@1", percent(_in_order(results)[direction]["r@1"]), split)
            for direction, name in (("image_to_text", "Image to text"), ("text_to_image", "Text to image"))
        ]
    shown.append(Tile("Loss", f"{np.nanmean(_last_tenth(run, 'loss')):.3f}", "mean of the last tenth of the steps"))
    if "examples_per_sec" in run.metrics:
        rate = _median(run, "examples_per_sec")
        shown.append(Tile("Throughput", f"{rate:,.0f}", "examples per second, median"))
    if "mfu" in run.metrics:
        shown.append(Tile("MFU", percent(_median(run, "mfu")), "model FLOP/s over the peak, median"))
    return shown


def rows(run: Run) -> list[Row]:
    """The evaluation table, a line a split, and one below it where a fusion put the nearest in order."""
    shown = []
    for split, results in run.results.items():
        if has_recalls(results):
            name = split if "retrieval" in results else f"{split}, chosen"
            shown.append(Row(name, (*_retrieval_cells(results), *_zero_shot_cells(run, results))))
        if "reranked" in results:
            shown.append(Row(f"{split}, reranked", (*_reranked_cells(results), *_no_zero_shot(run))))
    return shown


def pair_lines(run: Run) -> list[str]:
    """What fusion models reach beside retrieval, a sentence a split."""
    return [
        f"{split}: {'; '.join(clauses)}." for split, results in run.results.items() if (clauses := of_pairs(results))
    ]


def has_zero_shot(run: Run) -> bool:
    return any("zero_shot" in results for results in run.results.values())


def settings(run: Run) -> list[tuple[str, str]]:
    """The config in short."""
    values = flatten(run.config)
    shown = [(name, written(values[key])) for key, name in SETTINGS.items() if key in values]
    return [("Data", described(run.config["data"])), *shown]


def next_steps(run: Run) -> list[tuple[str, str]]:
    """What for, and the command."""
    steps = run.config["train"]["num_steps"]
    workdir, longer = (shlex.quote(f"{run.workdir}{ending}") for ending in ("", "_longer"))
    own = "python -m mmjax.train --config configs/NAME.py --data imagefolder:DIR --workdir runs/own"
    return [
        ("Score it on your own images", f"python -m mmjax.evaluate --workdir {workdir} --data imagefolder:DIR"),
        ("Train on your own images", own),
        (
            "Train longer, in a folder of its own",
            f"python -m mmjax.train --config configs/NAME.py --workdir {longer} --config.train.num_steps={4 * steps}",
        ),
        ("Look at every logged number", f"tensorboard --logdir {workdir}"),
    ]


def data_verdict(run: Run) -> str:
    """Whether input starved the run; empty where it was not measured."""
    if "data_wait_share" not in run.metrics:
        return ""
    sentence = verdict(_median(run, "data_wait_share"))
    return sentence[0].upper() + sentence[1:] + "."


def _in_time(run: Run) -> str:
    if "step_secs" not in run.metrics:
        return ""
    return f" in {duration(float(np.nansum(run.metrics['step_secs'])))}"


def _median(run: Run, name: str) -> float:
    return float(np.nanmedian(run.metrics[name]))


def _last_tenth(run: Run, name: str) -> np.ndarray:
    values = run.metrics[name]
    return values[-max(1, len(values) // 10) :]


def _retrieval_cells(results: dict[str, Any]) -> tuple[str, ...]:
    found = first_order(results)
    count = found["num_candidates"]
    return (f"{count:,}", percent(1 / count), *_recall_cells(found))


def _reranked_cells(results: dict[str, Any]) -> tuple[str, ...]:
    reranked = results["reranked"]
    return (f"{reranked['num_candidates']} nearest", "", *_recall_cells(reranked))


def _recall_cells(scores: dict[str, Any]) -> tuple[str, ...]:
    """Of fewer candidates than ten there are not all recalls."""
    recalls = [scores[way].get(f"r@{k}") for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    return tuple("" if recall is None else f"{100 * recall:.1f}" for recall in recalls)


def _in_order(results: dict[str, Any]) -> dict[str, Any]:
    """The recalls of the order that a model gives in the end: that of its fusion, where it has one."""
    found: dict[str, Any] | None = results.get("reranked")
    return first_order(results) if found is None else found


def _zero_shot_cells(run: Run, results: dict[str, Any]) -> tuple[str, ...]:
    if not has_zero_shot(run):
        return ()
    if "zero_shot" not in results:
        return _no_zero_shot(run)
    scores = results["zero_shot"]
    return (f"{100 * scores['top1']:.1f}", f"{100 * scores['top5']:.1f}", f"{scores['num_classes']:,}")


def _no_zero_shot(run: Run) -> tuple[str, ...]:
    return ("", "", "") if has_zero_shot(run) else ()
