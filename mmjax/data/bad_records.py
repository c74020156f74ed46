"""The log of records that could not be used, and the limit on their share."""

import json
from collections.abc import Iterable
from pathlib import Path

from mmjax.data.notes import Notes, Unusable
from mmjax.errors import UserError

# Below this many records a share means nothing: one bad record among the first three is no reason to stop.
MIN_RECORDS_SEEN = 100


class BadRecords:
    """Counts and lists bad records.

    Attributes:
      total: records in the source.
      max_share: share of bad records past which `take` raises UserError.
      path: JSON-lines file that each bad record is appended to, once; None writes no file.
      skipped: positions of the run whose record could not be reached. They stay skipped when the run goes on, though it
        may be there again: a run has one history.
    """

    def __init__(self, total: int, max_share: float, path: Path | None = None, skipped: Iterable[int] = ()):
        self.total, self.max_share, self.path = total, max_share, path
        self._skipped = set(skipped)
        self._seen = 0
        self._bad: dict[int, str] = {}

    @property
    def count(self) -> int:
        """Number of different bad records so far."""
        return len(self._bad)

    @property
    def skipped(self) -> frozenset[int]:
        """Positions of the run that were skipped so far."""
        return frozenset(self._skipped)

    def take(self, notes: Notes) -> None:
        """Counts what rows were made of.

        Raises:
            UserError: too many records could not be used.
        """
        self._seen += notes.good + len(notes.unusable)
        for record in notes.unusable:
            self._list(record)
        if notes.unusable:
            self._check()

    def _list(self, record: Unusable) -> None:
        if record.position is not None:
            self._skipped.add(record.position)
        if record.index not in self._bad:
            self._bad[record.index] = f"{record.name}: {record.reason}"
            self._write(record)

    def _write(self, record: Unusable) -> None:
        if self.path is not None:
            line = {"index": record.index, "name": record.name, "reason": record.reason}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _check(self) -> None:
        # An epoch shows every record once, so what was seen more often than `total` was seen again.
        seen = min(self._seen, self.total)
        share = len(self._bad) / seen
        if seen >= min(MIN_RECORDS_SEEN, self.total) and share > self.max_share:
            last = next(reversed(self._bad.values()))
            raise UserError(
                f"{len(self._bad)} of the {seen} records seen are bad, more than data.max_bad_share="
                f"{self.max_share:g} (the last one: {last}): repair the data or raise the limit"
            )
