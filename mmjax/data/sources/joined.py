"""Records of several sources, numbered through."""

import bisect
import itertools
from collections.abc import Sequence

from mmjax.data.records import Record, Source, check_index


class Joined:
    """The records of the first source, then those of the next one, and so on."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = tuple(sources)
        self._ends = list(itertools.accumulate(map(len, self._sources)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        place = bisect.bisect_right(self._ends, index)
        source = self._sources[place]
        return source[index - self._ends[place] + len(source)]
