"""Checkpoints of a run: asynchronous, sharded, written by Orbax."""

import contextlib
import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.config import suggestion
from mmjax.errors import StartAgain, UserError
from mmjax.training.checksums import describe, describe_shapes, start_describing
from mmjax.training.integrity import ARRAYS, Damaged, check_signature, reading_errors, sign, unsigned
from mmjax.training.record import RecordHandler, RecordRestore, RecordSave
from mmjax.training.retention import CheckpointConfig, preservation_policy
from mmjax.training.state import TrainState
from mmjax.training.weights import SavedWeights

STATE, RECORD = "state", "record"
DAMAGED = "damaged_checkpoints"
MIN_SLICE_BYTES = 2**20
"""Replicas of an array share the writing of it only from this size on: slicing a small one costs a compilation."""
FULL_DISK_MESSAGES = ("No space left", "Disk quota exceeded")
"""The storage library wraps the system's error in exceptions of its own; the text is what they share."""


class Checkpoints:
    """The checkpoints under `directory`, one folder a step; a folder without its step's commit is never read.

    A checkpoint holds the state and a JSON record, and in the record the shape and checksum of every array. One that
    does not agree with its checksums is set aside in `damaged_checkpoints`, beside `directory`, and never written over.
    """

    def __init__(self, directory: Path, config: CheckpointConfig = CheckpointConfig(), *, read_only: bool = False):
        """Opens the folder; all but readers, which may look on while a run saves, clean it of saves that were killed.

        Raises:
            UserError: `config` does not say which metric is best.
        """
        self.directory = directory.absolute()
        self._config, self._read_only = config, read_only
        self._is_pending = False
        """Whether a save was started and not asked how it ended."""
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy(config),
                enable_async_checkpointing=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
            item_handlers={STATE: _state_handler(), RECORD: RecordHandler()},
        )
        logging.getLogger("absl").addFilter(_is_news)

    @property
    def last_step(self) -> int | None:
        """The newest step that was saved whole; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, record: Mapping[str, Any], metrics: Mapping[str, float] = {}) -> None:
        """Starts writing `state` and the JSON `record`; returns when the arrays are copied off the devices.

        `metrics` are results of the evaluations of this state, by name, of which one may choose what is kept.

        Raises:
            UserError: the disk of this or of an earlier, still running save is full, or there is no best metric of
                the name that the config gives.
        """
        # The devices count on beside the copy, and the record waits for them in the background.
        description = start_describing(state)
        with self._disk_errors():
            signed = RecordSave(lambda: sign({**record, ARRAYS: description()}))
            items = {STATE: ocp.args.PyTreeSave(state), RECORD: signed}
            self._is_pending = True
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=dict(metrics) or None)
        # The state is not lost for a name that was mistyped.
        self._check_metric(metrics)

    def restore(self, abstract_state: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """The state and record of `step`, in the shapes and shardings of `abstract_state`.

        By default it is the newest checkpoint that is whole; damaged ones are set aside, and named in the log.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it is of another model.
            StartAgain: one was damaged, and several processes have to agree on the one before it.
        """
        known = self._known(step)
        for candidate in reversed(known):
            try:
                return self._read(abstract_state, candidate)
            except Damaged as damage:
                self._report(candidate, damage)
        remedy = "restore a copy of one, or train anew in another --workdir"
        if step is not None:
            remedy = f"choose another --step ({', '.join(map(str, self._manager.all_steps()))})"
        raise UserError(f"no checkpoint of {self.directory} is whole: {remedy}")

    def weights(self, step: int | None = None, *, ema: bool | None = None) -> tuple[SavedWeights, dict[str, Any]]:
        """The parameters of `step`, the newest by default, to be read one by one on this host, and its record.

        `ema` chooses their average; by default it is taken where there is one, as evaluations do.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it has no average.
        """
        step = self._known(step)[-1]
        try:
            record = self._read_record(step)
        except Damaged as damage:
            raise UserError(
                f"checkpoint {self.directory / str(step)} is damaged ({damage}): choose another --step"
            ) from damage
        has_ema = any(path.startswith("ema/") for path in record[ARRAYS])
        if ema and not has_ema:
            raise UserError("the run keeps no averaged parameters: leave out --ema, or train with train.ema_decay")
        tree = "ema" if has_ema and ema is not False else "params"
        return SavedWeights(self.directory / str(step) / STATE, tree, record[ARRAYS]), {**record, "step": step}

    def _known(self, step: int | None) -> list[int]:
        """The steps that may be meant: `step`, or all from the oldest to the newest.

        Raises:
            UserError: there is none.
        """
        known = sorted(self._manager.all_steps())
        if not known or (step is not None and step not in known):
            wanted = "" if step is None else f" of step {step}"
            there = ", ".join(map(str, known)) or "none"
            raise UserError(f"{self.directory} holds no checkpoint{wanted} (steps that it has: {there}): train first")
        return known if step is None else [step]

    def _read_record(self, step: int) -> dict[str, Any]:
        """Raises `Damaged` where it is not what was saved."""
        with reading_errors():
            record = self._manager.restore(step, args=ocp.args.Composite(**{RECORD: RecordRestore()}))[RECORD]
        check_signature(record)
        return record

    def _check_metric(self, metrics: Mapping[str, float]) -> None:
        name = self._config.best_metric
        if self._config.keep_best and metrics and name not in metrics:
            raise UserError(f"checkpoint.best_metric = {name!r} is not known: {suggestion(name, metrics)}")

    def _read(self, abstract_state: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """What `restore` returns.

        Raises:
            Damaged: it cannot be read, or is not what was saved.
            UserError: it is of another model.
        """
        record = self._read_record(step)
        self._check_model(abstract_state, record)
        wanted = ocp.args.PyTreeRestore(abstract_state, ocp.checkpoint_utils.construct_restore_args(abstract_state))
        with reading_errors():
            state = self._manager.restore(step, args=ocp.args.Composite(**{STATE: wanted}))[STATE]
        found = describe(state)
        broken = [path for path, about in record[ARRAYS].items() if found[path] != about]
        if broken:
            raise Damaged(
                f"the checksum of {broken[0]} is wrong{f' (and of {len(broken) - 1} more)' * (len(broken) > 1)}"
            )
        return state, {key: value for key, value in unsigned(record).items() if key != ARRAYS}

    def _check_model(self, abstract_state: TrainState, record: Mapping[str, Any]) -> None:
        saved = {path: (about["shape"], about["dtype"]) for path, about in record[ARRAYS].items()}
        asked = {path: (about["shape"], about["dtype"]) for path, about in describe_shapes(abstract_state).items()}
        differing = [path for path in saved | asked if saved.get(path) != asked.get(path)]
        if differing:
            path = differing[0]
            raise UserError(
                f"{self.directory} holds checkpoints of another model ({path}: {saved.get(path, 'none')} there, "
                f"{asked.get(path, 'none')} here): use the code and the config that wrote it"
            )

    def _report(self, step: int, damage: Damaged) -> None:
        """Names a damaged checkpoint, and sets it aside where this process may write."""
        place = self.directory / str(step)
        if self._read_only:
            print(f"checkpoint {place} is damaged ({damage}): it is left out", file=sys.stderr)
            return
        aside = _free_name(self.directory.with_name(DAMAGED) / str(step))
        aside.parent.mkdir(exist_ok=True)
        fate = f"it was moved to {aside}"
        try:
            place.rename(aside)
        except FileNotFoundError:
            fate = f"another process has moved it to {aside.parent}"
        line = f"checkpoint {place} is damaged ({damage}): {fate}"
        if jax.process_count() > 1:
            raise StartAgain(f"{line}; the next start goes on from the one before it")
        self._manager.reload()
        print(line, file=sys.stderr)

    def check(self) -> None:
        """Raises what a save in the background has failed with; costs nothing.

        Raises:
            UserError: the disk is full.
        """
        if self._is_pending and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when every save that was started is on disk.

        Raises:
            UserError: the disk is full.
        """
        with self._disk_errors():
            self._is_pending = False
            self._manager.wait_until_finished()
            self._manager.check_for_errors()

    def close(self) -> None:
        with self._disk_errors():
            self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not _is_full_disk(str(error)):
                raise
            raise UserError(
                f"no space left to write a checkpoint in {self.directory}; earlier checkpoints are intact: "
                "free some space or lower checkpoint.keep_last, then run the same command again"
            ) from error


def _free_name(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that is not there."""
    names = itertools.chain([path], (path.with_name(f"{path.name}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _is_full_disk(message: str) -> bool:
    return any(text in message for text in FULL_DISK_MESSAGES)


def _is_news(record: logging.LogRecord) -> bool:
    """False for a full disk: the storage library raises what it logs, and we say it in one line."""
    raised = record.exc_info[1] if record.exc_info else None
    return not _is_full_disk(f"{record.getMessage()} {raised}")


def _state_handler() -> ocp.PyTreeCheckpointHandler:
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=MIN_SLICE_BYTES)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays), (np.ndarray, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
