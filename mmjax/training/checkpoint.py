"""Checkpoints of a run: asynchronous, sharded, written by Orbax."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mmjax.errors import UserError
from mmjax.training.state import TrainState

STATE, RECORD = "state", "record"
MIN_SLICE_BYTES = 2**20
"""Replicas of an array share the writing of it only from this size on: slicing a small one costs a compilation."""
FULL_DISK_MESSAGES = ("No space left", "Disk quota exceeded")
"""The storage library wraps the system's error in exceptions of its own; the text is what they share."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved. The final state is always saved."""

    every_steps: int = 1000
    keep_last: int = 2


class Checkpoints:
    """The checkpoints under `directory`, one folder a step; a folder without its step's commit is never read."""

    def __init__(self, directory: Path, config: CheckpointConfig = CheckpointConfig()):
        self.directory = directory.absolute()
        logging.getLogger("absl").addFilter(_is_news)
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep_last, enable_async_checkpointing=True)
        handlers = {STATE: _state_handler(), RECORD: ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    @property
    def last_step(self) -> int | None:
        """The newest step that was saved whole; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, record: dict[str, Any]) -> None:
        """Starts writing `state` and the JSON `record`; returns when the arrays are copied off the devices.

        Raises:
            UserError: the disk of this or of an earlier, still running save is full.
        """
        with self._disk_errors():
            items = {STATE: ocp.args.PyTreeSave(state), RECORD: ocp.args.JsonSave(record)}
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, abstract_state: TrainState, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """The state and record of `step`, the newest by default, in the shapes and shardings of `abstract_state`.

        Raises:
            UserError: there is no such checkpoint.
        """
        known = self._manager.all_steps()
        step = self.last_step if step is None else step
        if step not in known:
            wanted = "" if step is None else f" of step {step}"
            there = ", ".join(map(str, sorted(known))) or "none"
            raise UserError(f"{self.directory} holds no checkpoint{wanted} (steps that it has: {there}): train first")
        arrays = ocp.checkpoint_utils.construct_restore_args(abstract_state)
        items = {STATE: ocp.args.PyTreeRestore(abstract_state, arrays), RECORD: ocp.args.JsonRestore()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        return restored[STATE], restored[RECORD]

    def wait(self) -> None:
        """Returns when every save that was started is on disk.

        Raises:
            UserError: the disk is full.
        """
        with self._disk_errors():
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
