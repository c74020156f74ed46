"""The folder of a run: which files lie in it, and whose it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax import config
from mmjax.errors import UserError
from mmjax.whole_files import whole

CONFIG, FINGERPRINT = "config.json", "fingerprint.json"
CHECKPOINTS = "checkpoints"
COMPILED = "compiled"
EVALUATION = "evaluation.json"
DATA_CHANGES = "data_changes.jsonl"

MAY_CHANGE = (
    "train.num_steps",
    "mesh.",
    "checkpoint.",
    "evals.",
    "logs.",
    "data.num_threads",
    "data.num_workers",
    "data.prefetch",
    "data.cache_bytes",
    "data.max_bad_share",
    "data.retry_secs",
    "processes.",
)
"""Keys (or their beginnings) that may differ when a run goes on: they leave its batches and its updates as they are,
but for a longer `train.num_steps`, which stretches the schedule."""

DATA_KEYS = (
    "data.source",
    "data.split",
    "data.mixture",
    "data.temperature",
    "data.image_key",
    "data.text_key",
    "data.locale",
    "data.captions.evaluation",
)
"""Keys that may differ beside them when a run goes on with new data."""


def claim(
    workdir: Path,
    experiment: Mapping[str, Any],
    fingerprint: Mapping[str, str],
    *,
    writes: bool = True,
    may_change: tuple[str, ...] = (),
) -> bool:
    """Makes `workdir` the folder of this run, or goes on with the run that it holds; True where it holds one.

    Of several processes one `writes`. Keys that begin as `may_change` has it may differ beside those of `MAY_CHANGE`.

    Raises:
        UserError: it holds a run of another config or of other preprocessing, or it cannot be written.
    """
    goes_on = (workdir / CONFIG).exists()
    if goes_on:
        _refuse_other_config(workdir, experiment, MAY_CHANGE + may_change)
        check_fingerprint(workdir, fingerprint)
    if not writes:
        return goes_on
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / FINGERPRINT, fingerprint)
        write_json(workdir / CONFIG, experiment)
    except OSError as error:
        raise UserError(f"{workdir} cannot be written ({error.strerror}): give another --workdir") from error
    return goes_on


def add_data_change(
    workdir: Path, step: int, changes: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any]
) -> None:
    """Keeps that from `step` on the run reads other data, in a file with a line for each time."""
    line = {"step": step, "changes": list(changes), "before": before, "after": after}
    with (workdir / DATA_CHANGES).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def bad_records(workdir: Path, split: str = "", process: int = 0) -> Path:
    """The list of records that one process could not use: of the training data, or of a `split` to evaluate on."""
    of_split = f"_{split.replace('/', '_')}" if split else ""
    of_process = f".process_{process}" if process else ""
    return workdir / f"bad_records{of_split}{of_process}.jsonl"


def check_fingerprint(workdir: Path, fingerprint: Mapping[str, str]) -> None:
    """Refuses inputs that are not prepared as those of the run were: they would give a bad score, not an error.

    Raises:
        UserError: the tokenizer or the image preprocessing differs, by name.
    """
    changed = config.differences(read_json(workdir / FINGERPRINT), fingerprint)
    if changed:
        names = " and ".join(sorted(changed))
        raise UserError(
            f"{workdir}: the {names} is not the one this run was trained with; put back the original, or train anew in "
            "another --workdir"
        )


def read_config(workdir: Path) -> dict[str, Any]:
    """The resolved config of the run in `workdir`.

    Raises:
        UserError: there is no run in it.
    """
    if not (workdir / CONFIG).exists():
        raise UserError(f"{workdir} holds no run ({CONFIG} is missing): give the --workdir of python -m mmjax.train")
    return read_json(workdir / CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        UserError: it is not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): restore it, or train anew in another --workdir") from error


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    with whole(path) as unfinished:
        unfinished.write_text(json.dumps(values, indent=2) + "\n")


def _refuse_other_config(workdir: Path, experiment: Mapping[str, Any], may_change: tuple[str, ...]) -> None:
    changed = config.differences(read_json(workdir / CONFIG), json.loads(json.dumps(experiment)))
    refused = {key: values for key, values in changed.items() if not key.startswith(may_change)}
    if refused:
        shown = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in sorted(refused.items())[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        accept = ", or --accept_new_data" if all(key.startswith(DATA_KEYS) for key in refused) else ""
        raise UserError(f"{workdir} holds a run of another config ({shown}{more}): give another --workdir{accept}")
