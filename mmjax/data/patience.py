"""Reading a source that may be away for a while, as a network file system or an object store is."""

import tenacity

from mmjax.data.records import Record, Source, Unreachable

FIRST_WAIT_SECS, LONGEST_WAIT_SECS = 0.2, 10.0
RETRY_SECS = 60.0
"""How long, where nobody says otherwise."""


class PatientSource:
    """Reads again, with growing pauses, what cannot be reached; safe to use from many threads.

    Once a record was given up after `retry_secs`, others are tried only once, until one of them can be read: a shard
    that is gone for good costs that time once, and not for each of its records.
    """

    def __init__(self, source: Source, retry_secs: float = RETRY_SECS):
        self._source, self._retry_secs = source, retry_secs
        self._gave_up = False

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """As `Source`.

        Raises:
            Unreachable: it could not be read for so long.
        """
        try:
            record = self._source[index]
        except Unreachable:
            if self._gave_up:
                raise
            # What can be read at once, as nearly all can, does without what counts attempts, which takes its time.
            record = self._again(index)
        self._gave_up = False
        return record

    def _again(self, index: int) -> Record:
        try:
            return self._attempts()(self._source.__getitem__, index)
        except Unreachable:
            self._gave_up = True
            raise

    def _attempts(self) -> tenacity.Retrying:
        secs = 0.0 if self._gave_up else self._retry_secs
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=tenacity.stop_after_attempt(1) if not secs else tenacity.stop_after_delay(secs),
            wait=tenacity.wait_random_exponential(FIRST_WAIT_SECS, LONGEST_WAIT_SECS),
            reraise=True,
        )
