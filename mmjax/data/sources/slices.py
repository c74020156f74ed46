"""Parts of a source that has one split, in TFDS's notation: "train", "train[:90%]", "train[:10]+train[20:]"."""

from collections.abc import Callable, Sequence

from mmjax.data.nearest import unknown_name
from mmjax.data.records import Record, Source, check_index
from mmjax.data.sources.joined import Joined
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

    def part(self, numbers: range) -> Source | None:
        """These records alone, where the source has parts; None where it has none."""
        parts, first = [], 0
        for whole in self._ranges:
            inside = range(max(numbers.start - first, 0), min(numbers.stop - first, len(whole)))
            if inside:
                parts.append(part_of(self._source, whole[inside.start : inside.stop]))
            first += len(whole)
        found = [part for part in parts if part is not None]
        return Joined(found) if len(found) == len(parts) else None


def part_of(source: Source, numbers: range) -> Source | None:
    """These records alone, of a source that can give them to another machine; None of others, which it opens anew."""
    part: Callable[[range], Source | None] | None = getattr(source, "part", None)
    return None if part is None else part(numbers)


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
