"""Parts of a source that has one split, in TFDS's notation: "train", "train[:90%]", "train[:10]+train[20:]"."""

from collections.abc import Sequence

from mmjax.data.nearest import unknown_name
from mmjax.data.records import Record, Source, check_index
from mmjax.errors import UserError

WHOLE = "train"


class Slices:
    """The records of `source` with these numbers, one range after the other."""

    def __init__(self, source: Source, ranges: Sequence[range]):
        self._source, self._ranges = source, tuple(ranges)

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __getitem__(self, index: int) -> Record:
        check_index(index, self)
        for part in self._ranges:
            if index < len(part):
                break
            index -= len(part)
        return self._source[part[index]]


def sliced(source: Source, split: str, where: str, whole: str = WHOLE) -> Source:
    """The records that `split` asks for, of a source that is the split `whole`.

    Raises:
        UserError: it names another split, is no slice, or is empty.
    """
    if split == whole:
        return source
    if "[" not in split:
        raise unknown_name(f"{where}: split", split, (whole, f"{whole}[:90%]"))
    import tensorflow_datasets as tfds  # Here, because it takes most of a second to import.

    info = tfds.core.SplitInfo(name=whole, shard_lengths=[len(source)], num_bytes=0)
    try:
        instructions = tfds.core.ReadInstruction.from_spec(split).to_absolute({whole: info})
    except (ValueError, AssertionError, KeyError) as error:
        raise UserError(
            f"{where}: split {split!r} is not a part of {whole!r}: write {whole}[:90%] or the like"
        ) from error
    ranges = [range(part.from_ or 0, len(source) if part.to is None else part.to) for part in instructions]
    if not any(map(len, ranges)):
        raise UserError(f"{where}: split {split!r} is empty: choose a larger part of the {len(source)} records")
    return Slices(source, ranges)
