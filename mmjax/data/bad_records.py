"""The log of records that could not be used, and the limit on their share."""

import json
import threading
from collections.abc import Iterable
from pathlib import Path

from mmjax.errors import UserError

# Below this many records a share means nothing: one bad record among the first three is no reason to stop.
MIN_RECORDS_SEEN = 100


class BadRecords:
    """Counts and lists bad records; safe to use from many loader threads.

    Attributes:
      total: records in the source.
      max_share: share of bad records past which `bad` raises UserError.
      path: JSON-lines file that each bad record is appended to, once; None writes no file.
      skipped: positions of the run whose record could not be reached. They stay skipped when the run goes on, though it
        may be there again: a run has one history.
    """

    def __init__(self, total: int, max_share: float, path: Path | None = None, skipped: Iterable[int] = ()):
        self.total, self.max_share, self.path = total, max_share, path
        self._skipped = set(skipped)
        self._seen = 0
        self._bad: dict[int, str] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of different bad records so far."""
        return len(self._bad)

    @property
    def skipped(self) -> frozenset[int]:
        """Positions of the run that were skipped so far."""
        with self._lock:
            return frozenset(self._skipped)

    def is_skipped(self, position: int) -> bool:
        return position in self._skipped

    def good(self) -> None:
        """Notes that a record was used."""
        with self._lock:
            self._seen += 1

    def bad(self, index: int, name: str, reason: str) -> None:
        """Notes that record `index` could not be used; raises UserError when too many could not."""
        with self._lock:
            self._seen += 1
            if index not in self._bad:
                self._bad[index] = f"{name}: {reason}"
                self._write(index, name, reason)
            self._check()

    def skip(self, position: int, index: int, reason: str) -> None:
        """Notes that record `index` could not be reached at `position`; raises UserError as `bad` does."""
        with self._lock:
            self._skipped.add(position)
        self.bad(index, f"record {index} at position {position}", reason)

    def _write(self, index: int, name: str, reason: str) -> None:
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"index": index, "name": name, "reason": reason}, ensure_ascii=False) + "\n")

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
