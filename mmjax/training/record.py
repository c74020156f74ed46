"""The JSON record beside the arrays of a checkpoint, which may become known while they are written."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

FILE = "metadata"


class RecordHandler(ocp.AsyncCheckpointHandler):
    """Asks for the record of a `RecordSave`, and writes it, in the background; only the first process does."""

    async def async_save(self, directory: Any, args: "RecordSave") -> list[ocp.future.Future]:
        async def write() -> None:
            if jax.process_index() == 0:
                (directory / FILE).write_text(json.dumps(args.record()))

        return [ocp.future.CommitFutureAwaitingContractedSignals(write(), name="record")]

    def save(self, directory: Any, args: "RecordSave") -> None:
        for future in asyncio.run(self.async_save(directory, args)):
            future.result()

    def restore(self, directory: Any, args: "RecordRestore | None" = None) -> dict[str, Any]:
        """The record of the folder.

        Raises:
            FileNotFoundError: there is none.
            json.JSONDecodeError: it is not whole.
        """
        return json.loads((directory / FILE).read_text())


@ocp.args.register_with_handler(RecordHandler, for_save=True)
class RecordSave(ocp.args.CheckpointArgs):
    """A record that is known once it is asked for."""

    def __init__(self, record: Callable[[], Mapping[str, Any]]):
        self.record = record


@ocp.args.register_with_handler(RecordHandler, for_restore=True)
class RecordRestore(ocp.args.CheckpointArgs):
    """All of a record."""
