"""The steps of a preparation: look at all records, choose, write; each part of each step is done once, and kept."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.console import Console

from mmjax.data.patience import PatientSource
from mmjax.data.prepare import choice, facts, manifest, shards
from mmjax.data.prepare.facts import Facts
from mmjax.data.prepare.folder import WORK, Folder
from mmjax.data.prepare.parts import (
    around,
    carried,
    gather_part,
    opened,
    opened_here,
    parts_of,
    write_part,
)
from mmjax.data.prepare.runners import Runner
from mmjax.data.prepare.settings import RECORDS_A_PART, Settings
from mmjax.data.prepare.shards import Shard
from mmjax.data.records import Source
from mmjax.data.sources.specs import list_splits
from mmjax.errors import UserError

ASKED = f"{WORK}/asked.json"


def prepare(settings: Settings, folder: Folder, run: Runner) -> dict[str, Any]:
    """The manifest of the data set in the folder, which is written where it is not finished.

    Raises:
        UserError: the folder is of another preparation, or nothing is left.
    """
    # All that can be wrong is opened before the folder is claimed, so that the corrected command may use it.
    facts.libraries()
    opened_here.cache_clear()
    source, evaluations = opened(settings), list(evaluations_of(settings))
    held_out_sizes = {f"{wanted.source} ({wanted.split})": len(known) for wanted, known in evaluations}
    finished = claim(settings, {"records": len(source), "held_out": held_out_sizes}, folder)
    if finished is not None:
        return finished
    parts = parts_of(len(source), settings.shards)
    gathered, held_out = look(settings, source, parts, evaluations, folder, run)
    reasons = choice.choose(settings, gathered, held_out)
    if not (reasons == facts.KEPT).any():
        folder.give_up()
        dropped = manifest.in_words(manifest.dropped(reasons))
        raise UserError(f"nothing of {settings.source} is left ({dropped}): ask for less")
    written = write(settings, source, folder, list(shards.kept_numbers(reasons, parts)), run)
    with folder.filled() as made:
        manifest.draw_sheet(made / manifest.SHEET, PatientSource(source), reasons)
    found = manifest.manifest(settings, gathered, reasons, written) | {"held_out": held_out_sizes}
    # The last word: a folder that has it is finished.
    folder.write(manifest.MANIFEST, manifest.as_bytes(found))
    _tidy(folder)
    return found


def look(
    settings: Settings,
    source: Source,
    parts: Sequence[range],
    evaluations: Sequence[tuple[Settings, Source]],
    folder: Folder,
    run: Runner,
) -> tuple["Gathered", "Gathered"]:
    """The facts of each part, and of what is held out of it."""
    jobs = [_facts_job(settings, source, numbers, f"facts-{part:05d}", folder) for part, numbers in enumerate(parts)]
    held_out = [
        _facts_job(wanted, known, numbers, f"facts-of-{evaluation:03d}-{part:05d}", folder)
        for evaluation, (wanted, known) in enumerate(evaluations)
        for part, numbers in enumerate(parts_of(len(known), -(-len(known) // RECORDS_A_PART)))
    ]
    run(gather_part, [*jobs, *held_out], "looking")
    return Gathered(folder, [job[-1] for job in jobs]), Gathered(folder, [job[-1] for job in held_out])


class Gathered:
    """Facts of parts, each read from the folder when its turn comes: all of them may be more than memory holds."""

    def __init__(self, folder: Folder, names: Sequence[str]):
        self._folder, self._names = folder, names

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Facts]:
        for name in self._names:
            yield Facts.load(io.BytesIO(self._folder.read(name)))


def _facts_job(
    settings: Settings, source: Source, numbers: range, name: str, folder: Folder
) -> tuple[Settings, Source | None, range, Folder, str]:
    return settings, carried(source, numbers), numbers, folder, f"{WORK}/{name}.npz"


def write(
    settings: Settings, source: Source, folder: Folder, numbers: Sequence[np.ndarray], run: Runner
) -> list[Shard]:
    """The shards, each written from the records of these numbers."""
    names = [f"{WORK}/written-{shard:05d}.json" for shard in range(len(numbers))]
    jobs = [
        (settings, carried(source, around(kept)), kept, folder, shard, name)
        for shard, (kept, name) in enumerate(zip(numbers, names, strict=True))
    ]
    run(write_part, jobs, "writing")
    written = [Shard(**json.loads(folder.read(name))) for name in names]
    with folder.filled() as made:
        shards.write_facts(settings, made, written)
    return written


def _tidy(folder: Folder) -> None:
    """What is finished is so whether or not what it was made from can be removed."""
    try:
        folder.clear()
    except UserError as error:
        Console(stderr=True).print(f"{folder}/{WORK} is left: {error}", highlight=False, soft_wrap=True)


def claim(settings: Settings, sizes: Mapping[str, Any], folder: Folder) -> dict[str, Any] | None:
    """The manifest of the folder where it is finished; else makes it the one of this preparation, or goes on with it.

    `sizes` are numbers of records, of the source and of what is held out.

    Raises:
        UserError: it is of another preparation, or of sources of other sizes; or it cannot be written.
    """
    asked = json.loads(json.dumps({**settings.to_dict(), **sizes}))
    if folder.exists(manifest.MANIFEST):
        found = _read(folder, manifest.MANIFEST)
        _refuse_other(folder, {**found["settings"], **{name: found.get(name) for name in sizes}}, asked)
        _tidy(folder)  # It was killed after its last word.
        return found
    if folder.exists(ASKED):
        _refuse_other(folder, _read(folder, ASKED), asked)
        return None
    if folder.names() - {WORK}:
        raise UserError(f"{folder} holds something else: give another --out")
    folder.claim()
    folder.write(ASKED, json.dumps(asked, indent=2).encode())
    return None


def _read(folder: Folder, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(folder.read(name))
    except ValueError as error:
        raise UserError(f"{folder}/{name} cannot be read ({error}): give another --out") from error
    return found


def _refuse_other(folder: Folder, known: dict[str, Any], asked: dict[str, Any]) -> None:
    changed = [f"{name} {known.get(name)!r} -> {asked[name]!r}" for name in asked if known.get(name) != asked[name]]
    if changed:
        raise UserError(f"{folder} was prepared otherwise ({', '.join(changed)}): give another --out")


def evaluations_of(settings: Settings) -> Iterator[tuple[Settings, Source]]:
    """All splits of what is to be kept out, of which only the images are compared."""
    for spec in settings.decontaminate:
        for split in list_splits(spec):
            wanted = replace(settings, source=spec, split=split, filters=(), licence_key="")
            yield wanted, opened(wanted)
