"""The steps of a preparation: look at all records, choose, write; each part of each step is done once, and kept."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import loky
import numpy as np
from rich.console import Console
from rich.progress import track

from mmjax.data.patience import PatientSource
from mmjax.data.prepare import choice, facts, manifest, shards
from mmjax.data.prepare.facts import Facts
from mmjax.data.prepare.settings import Settings
from mmjax.data.records import Source
from mmjax.data.sources.specs import list_splits, open_source
from mmjax.data.tfds_writer import ShardSize
from mmjax.errors import UserError
from mmjax.whole_files import whole

WORK, ASKED = "unfinished", "asked.json"
RETRY_SECS = 60.0


def opened(settings: Settings) -> Source:
    source = open_source(settings.source, settings.split, image_key=settings.image_key, text_key=settings.text_key)
    return PatientSource(source, RETRY_SECS)


def prepare(settings: Settings, out: Path, num_workers: int) -> dict[str, Any]:
    """The manifest of the data set in `out`, which is written where it is not finished.

    Raises:
        UserError: `out` is of another preparation, or nothing is left.
    """
    # All that can be wrong is opened before the folder is claimed, so that the corrected command may use it.
    facts.libraries()
    source, evaluations = (
        opened(settings),
        [one for spec in settings.decontaminate for one in splits_of(settings, spec)],
    )
    finished = claim(settings, len(source), out)
    if finished is not None:
        return finished
    parts = parts_of(len(source), settings.shards)
    gathered = look(settings, parts, out / WORK, num_workers)
    held_out = [facts.gather(wanted, known, range(len(known))) for wanted, known in evaluations]
    reasons = choice.choose(settings, gathered, held_out)
    if not (reasons == facts.KEPT).any():
        shutil.rmtree(out)
        dropped = manifest.in_words(manifest.dropped(reasons))
        raise UserError(f"nothing of {settings.source} is left ({dropped}): ask for less")
    sizes = write(settings, out, list(shards.kept_numbers(reasons, parts)), num_workers)
    manifest.draw_sheet(out / manifest.SHEET, source, reasons)
    found = manifest.manifest(settings, gathered, reasons, sizes, out)
    manifest.write_manifest(out, found)
    shutil.rmtree(out / WORK)
    return found


def look(settings: Settings, parts: Sequence[range], work: Path, num_workers: int) -> list[Facts]:
    """The facts of each part, which `work` keeps."""
    paths = [work / f"facts-{number:05d}.npz" for number in range(len(parts))]
    in_parallel(gather_part, [(settings, *job) for job in zip(paths, parts, strict=True)], num_workers, "looking")
    return [Facts.load(path) for path in paths]


def write(settings: Settings, out: Path, numbers: Sequence[np.ndarray], num_workers: int) -> list[ShardSize]:
    """The size of each shard, written from the records of these numbers."""
    done = [out / WORK / f"written-{shard:05d}.json" for shard in range(len(numbers))]
    jobs = [(settings, out, *job) for job in zip(done, range(len(numbers)), numbers, strict=True)]
    in_parallel(write_part, jobs, num_workers, "writing")
    sizes = [ShardSize(*json.loads(path.read_text())) for path in done]
    shards.write_facts(settings, out, sizes)
    return sizes


def claim(settings: Settings, num_records: int, out: Path) -> dict[str, Any] | None:
    """The manifest of `out` where it is finished; else makes it the folder of this preparation, or goes on with it.

    Raises:
        UserError: it is of another preparation, or of a source with another number of records; or it cannot be written.
    """
    asked = json.loads(json.dumps({**settings.to_dict(), "records": num_records}))
    if (out / manifest.MANIFEST).exists():
        found = _read(out / manifest.MANIFEST)
        _refuse_other(out, {**found["settings"], "records": found["records"]}, asked)
        shutil.rmtree(out / WORK, ignore_errors=True)  # It was killed after its last word.
        return found
    if (out / WORK / ASKED).exists():
        _refuse_other(out, _read(out / WORK / ASKED), asked)
        return None
    if out.exists() and {path.name for path in out.iterdir()} - {WORK}:
        raise UserError(f"{out} holds something else: give another --out")
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        with whole(out / WORK / ASKED) as unfinished:
            unfinished.write_text(json.dumps(asked, indent=2), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): give another --out") from error
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give another --out") from error
    return found


def _refuse_other(out: Path, known: dict[str, Any], asked: dict[str, Any]) -> None:
    changed = [f"{name} {known.get(name)!r} -> {asked[name]!r}" for name in asked if known.get(name) != asked[name]]
    if changed:
        raise UserError(f"{out} was prepared otherwise ({', '.join(changed)}): give another --out")


def parts_of(num_records: int, num_parts: int) -> list[range]:
    """Consecutive parts of nearly equal size."""
    edges = [part * num_records // num_parts for part in range(num_parts + 1)]
    return [range(start, stop) for start, stop in itertools.pairwise(edges)]


def splits_of(settings: Settings, spec: str) -> Iterator[tuple[Settings, Source]]:
    """All splits of an evaluation, of which only the images are compared."""
    for split in list_splits(spec):
        wanted = replace(settings, source=spec, split=split, filters=())
        yield wanted, opened(wanted)


def gather_part(settings: Settings, path: Path, numbers: range) -> None:
    if not path.exists():
        facts.gather(settings, opened(settings), numbers).save(path)


def write_part(settings: Settings, out: Path, done: Path, shard: int, numbers: np.ndarray) -> None:
    if not done.exists():
        size = shards.write(settings, opened(settings), numbers.tolist(), out, shard)
        with whole(done) as unfinished:
            unfinished.write_text(json.dumps(size))


def in_parallel(work: Callable[..., None], jobs: Sequence[tuple[Any, ...]], num_workers: int, what: str) -> None:
    """Does all jobs in processes; what one raises ends them."""
    if num_workers > 1:
        # The same processes for every step: each of them imports for seconds.
        done = loky.get_reusable_executor(num_workers).map(work, *zip(*jobs, strict=True))
    else:
        done = itertools.starmap(work, jobs)
    console = Console(stderr=True)
    for _ in track(done, what, len(jobs), console=console, disable=not console.is_terminal):
        pass
