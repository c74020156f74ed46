"""What every exported folder is made of, whatever it holds: files, facts, model card, and the format that is chosen."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.tokenizer import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.card import model_card
from mmjax.interop.formats import Files, Format, Spec
from mmjax.interop.huggingface.files import TOKENIZER
from mmjax.proof.facts import FACTS

CARD = "README.md"
MOST_OBSTACLES = 6
"""That are named of a format that cannot express a model."""


@dataclass(frozen=True)
class Trained:
    """A trained model: what is exported.

    weights: every parameter by path, read on demand.
    facts: what `mmjax.json` and the model card say beside the model: kind, step, training config, evaluation, licence.
    """

    spec: Spec
    tokenizer: Tokenizer
    weights: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]

    @property
    def text_len(self) -> int:
        """Tokens of a text in training; a model may have places for more."""
        return self.facts["experiment"]["data"]["text_len"]


def chosen(formats: Sequence[Format], spec: Spec, remedy: str) -> Format:
    """The first format that can express the model.

    Raises:
        UserError: none can; it says what is in the way of the nearest one, and the `remedy`.
    """
    found: dict[str, list[str]] = {}
    for format in [format for format in formats if format.takes_image_of(spec)] or formats:
        found[format.name] = obstacles(format, spec)
        if not found[format.name]:
            return format
    raise UserError(f"{nearest(found)}: {remedy}")


def obstacles(format: Format, spec: Spec) -> list[str]:
    """What the format cannot express of the model, and what would come back instead; nothing where it can."""
    try:
        differences = format.differences(spec)
    except UserError as error:
        return [str(error)]
    return [f"{field} = {ours!r} (only {theirs!r})" for field, (ours, theirs) in differences.items()]


def nearest(found: Mapping[str, list[str]]) -> str:
    """What the format with the fewest obstacles cannot express, in words."""
    name = min(found, key=lambda name: len(found[name]))
    shown, rest = found[name][:MOST_OBSTACLES], len(found[name]) - MOST_OBSTACLES
    return f"{name} cannot express {', '.join(shown)}" + (f" and {rest} more" if rest > 0 else "")


def write_files(folder: Path, files: Files) -> None:
    """Writes JSON files; those of the tokenizer say only what the model decides, and go into what is there."""
    for name, values in files.items():
        write_json(folder / name, merged(folder / name, values) if name == TOKENIZER else values)


def write_facts(folder: Path, trained: Trained, about: Mapping[str, Any]) -> None:
    """Writes `mmjax.json` and the model card."""
    facts = {**about, **trained.facts}
    write_json(folder / FACTS, facts)
    (folder / CARD).write_text(model_card(facts), encoding="utf-8")


def merged(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object in `path`, if there is one, with `values` in it."""
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {**there, **values}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
