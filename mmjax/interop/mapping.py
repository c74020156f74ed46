"""Tables that pair our parameters with the tensors of a foreign checkpoint, and what applies them in both directions.

A table is data: one row a tensor, or one a kind of tensor where every layer has it. Both directions use every tensor of
both sides exactly once; one that is missing, left over, claimed twice or of another shape is an error that names it.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmjax.errors import UserError
from mmjax.interop.layouts import Layout, Shape

LAYER = "{l}"
"""In a foreign name, the number of the layer: row l of our stacked parameter, unless the table says another one."""


@dataclass(frozen=True)
class Row:
    """One foreign tensor, or one a layer, and the parameters of ours that it holds.

    ours: paths such as "image/blocks/attention/query/kernel"; several where the foreign tensor fuses them, none where
        it holds what we have no use for.
    numbers: of the foreign layers that the rows of our stacked parameter are; () counts them from 0.
    """

    ours: str | tuple[str, ...]
    theirs: str
    layout: Layout
    numbers: tuple[int, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def is_stacked(self) -> bool:
        return LAYER in self.theirs

    def names(self, num_layers: int) -> list[str]:
        """The foreign names of a stack."""
        return [self.theirs.replace(LAYER, str(number)) for number in self.numbers or range(num_layers)]


Table = tuple[Row, ...]


@dataclass(frozen=True)
class Ignored:
    """Foreign tensors that an import leaves out, by a regular expression for their whole names, and why."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Copy:
    """A foreign tensor that is another one under a second name: a tied weight.

    written: whether an export writes it, which a class needs that ties nothing itself when it loads.
    """

    theirs: str
    of: str
    written: bool = False


def placed(table: Table, ours: str, theirs: str) -> Table:
    """The table with a path before each of ours and a prefix before each foreign name."""
    return tuple(
        replace(row, ours=tuple(ours + path for path in row.paths), theirs=theirs + row.theirs) for row in table
    )


def numbered(table: Table, numbers: tuple[int, ...]) -> Table:
    """The table of stacks whose rows are the foreign layers of these numbers."""
    return tuple(replace(row, numbers=numbers) for row in table)


def selected(table: Table, paths: Iterable[str]) -> Table:
    """The rows that fill only parameters in `paths`, such as those of a backbone without its head."""
    known = set(paths)
    return tuple(row for row in table if row.paths and known.issuperset(row.paths))


def to_theirs(table: Table, ours: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Each foreign tensor under its name; of `ours`, which may read on demand, each parameter is taken once.

    Raises:
        UserError: a parameter has no row, or a row has no parameter.
    """
    check_ours(table, ours)
    yield from rows_to_theirs(table, ours)


def rows_to_theirs(table: Table, ours: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """`to_theirs` of rows that need not name every parameter, and may name one that others name too."""
    for row in table:
        # A function of its own lets go of one row's arrays before the next one's are read.
        yield from _row_to_theirs(row, ours)


def _row_to_theirs(row: Row, ours: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    arrays = tuple(ours[path] for path in row.paths)
    if not row.is_stacked:
        yield row.theirs, row.layout.to_theirs(arrays)
        return
    for layer, name in enumerate(row.names(len(arrays[0]))):
        yield name, row.layout.to_theirs(tuple(array[layer] for array in arrays))


def copies_to_theirs(
    table: Table, copies: Iterable[Copy], ours: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The second names of tied tensors that are written, with what their first ones hold."""
    rows = {row.theirs: row for row in table}
    for copy in copies:
        if copy.written:
            for _, array in _row_to_theirs(rows[copy.of], ours):
                yield copy.theirs, array


def without_copies(copies: Iterable[Copy], theirs: Mapping[str, np.ndarray]) -> list[str]:
    """The names of `theirs` that are no copies.

    Raises:
        UserError: a tensor that should be another one under a second name is not.
    """
    there = [copy for copy in copies if copy.theirs in theirs]
    for copy in there:
        if copy.of in theirs and not np.array_equal(theirs[copy.theirs], theirs[copy.of]):
            remedy = "the checkpoint was trained untied, which this class is not: choose another one"
            raise UserError(f"tensor {copy.theirs} is tied to {copy.of}, but differs from it: {remedy}")
    names = {copy.theirs for copy in there}
    return [name for name in theirs if name not in names]


def to_ours(
    table: Table, theirs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each parameter of `shapes` under its path, from foreign tensors, which may be read on demand and are taken once.

    Raises:
        UserError: a parameter has no row, a tensor is missing, left over or of another shape.
    """
    check_ours(table, shapes)
    check_theirs(table, theirs, shapes)
    for row in table:
        yield from _row_to_ours(row, theirs, shapes)


def partly_to_ours(
    table: Table, theirs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters that the table names, from foreign tensors of which others may be left over.

    Raises:
        UserError: a tensor is missing, or of another shape.
    """
    for row in table:
        missing = [name for name in names_of(row, shapes) if name not in theirs]
        if missing:
            raise UserError(f"tensor {missing[0]} is missing: the checkpoint has fewer layers than the model")
        yield from _row_to_ours(row, theirs, shapes)


def _row_to_ours(
    row: Row, theirs: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, np.ndarray]]:
    targets = tuple(shapes[path] for path in row.paths)
    if not row.is_stacked:
        arrays = _laid_out(row, row.theirs, theirs, targets)
    else:
        layers = tuple(shape[1:] for shape in targets)
        parts = (_laid_out(row, name, theirs, layers) for name in names_of(row, shapes))
        arrays = tuple(np.stack(stack) for stack in zip(*parts, strict=True))
    yield from zip(row.paths, arrays, strict=True)


def names_of(row: Row, shapes: Mapping[str, Shape]) -> list[str]:
    """The foreign names of a row: one, or one a layer."""
    if not row.is_stacked:
        return [row.theirs]
    return row.names(shapes[row.paths[0]][0])


def check_ours(table: Table, known: Iterable[str]) -> None:
    """Raises UserError unless the table names each of our parameters in `known` exactly once, and no other."""
    _refuse(*_unpaired((path for row in table for path in row.paths), known), "parameter")


def check_theirs(table: Table, known: Iterable[str], shapes: Mapping[str, Shape]) -> None:
    """Raises UserError unless the table names each foreign tensor in `known` exactly once, and no other."""
    _refuse(*_unpaired((name for row in table for name in names_of(row, shapes)), known), "tensor")


def without_ignored(names: Iterable[str], ignored: Iterable[Ignored]) -> tuple[list[str], dict[str, str]]:
    """The names that no pattern takes, and the others with the reason why they are left out."""
    kept, left_out = [], {}
    for name in names:
        reason = next((entry.reason for entry in ignored if re.fullmatch(entry.pattern, name)), None)
        if reason is None:
            kept.append(name)
        else:
            left_out[name] = reason
    return kept, left_out


class Chosen(Mapping[str, np.ndarray]):
    """Some tensors of many, still read on demand."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: list[str]):
        self._tensors, self._names = tensors, dict.fromkeys(names)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _laid_out(
    row: Row, name: str, theirs: Mapping[str, np.ndarray], shapes: tuple[Shape, ...]
) -> tuple[np.ndarray, ...]:
    try:
        return row.layout.to_ours(theirs[name], shapes)
    except ValueError as error:
        into = ", ".join(row.paths)
        raise UserError(f"tensor {name} does not fit {into}: {error}: the checkpoint is not of this config") from error


def _unpaired(claimed: Iterable[str], known: Iterable[str]) -> tuple[list[str], list[str], list[str]]:
    """What is claimed more than once, claimed but not known, and known but not claimed."""
    counts, known = Counter(claimed), set(known)
    twice = [name for name, count in counts.items() if count > 1]
    return twice, [name for name in counts if name not in known], sorted(known - counts.keys())


def _refuse(twice: list[str], missing: list[str], left_over: list[str], kind: str) -> None:
    for names, problem in ((twice, "is claimed by two rows"), (missing, "is missing"), (left_over, "is left over")):
        if names:
            others = f" (and {len(names) - 1} others)" if len(names) > 1 else ""
            remedy = "the checkpoint and the model are not of the same kind"
            raise UserError(f"{kind} {names[0]}{others} {problem}: {remedy}")
