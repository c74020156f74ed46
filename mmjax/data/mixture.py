"""Several sources read as one: which record of which of them every position of a run shows."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmjax.data.order import record_index
from mmjax.errors import UserError

SHARE_UNITS = 2**40
"""Whole numbers that shares are rounded to, so that counting to any position is exact."""


@dataclass(frozen=True)
class PartConfig:
    """One source of a mixture; what is None is as `DataConfig` has it.

    Attributes:
      source, split: as those of `DataConfig`.
      weight: how often its records are read, beside those of the others; None is as many as it has.
      image_key, text_key, locale: as those of `DataConfig`.
    """

    source: str
    split: str = "train"
    weight: float | None = None
    image_key: str | None = None
    text_key: str | None = None
    locale: str | None = None

    def __post_init__(self) -> None:
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise UserError(
                f"data.mixture: weight = {self.weight} of {self.source} is not above 0, or endless: leave the part out"
            )


@dataclass(frozen=True)
class Part:
    """What the order of a run knows of one source.

    Attributes:
      name: source, split and keys; it tells one part from another when a run goes on.
      num_records: how many it has.
      weight: its share, beside the weights of the others.
      stream: which sequence of permutations is its own.
      first_draw: how many of its records the run had seen before the mixture began.
    """

    name: str
    num_records: int
    weight: float
    stream: int = 0
    first_draw: int = 0


@dataclass(frozen=True)
class Mixture:
    """The parts that a run reads from `first_position` on.

    Positions are dealt out to the parts evenly, so that of any n in a row a part has its share of n, to within one for
    each part before it. Draw d of a part with N records shows record `record_index(seed, d, N, stream)`: each pass over
    a part is a permutation of its own, however fast the others pass.
    """

    parts: tuple[Part, ...]
    first_position: int = 0
    num_streams: int = 1

    @staticmethod
    def of(parts: Iterable[Part]) -> "Mixture":
        """A new run's."""
        streams = tuple(replace(part, stream=number) for number, part in enumerate(parts))
        return Mixture(streams, 0, len(streams))

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Mixture":
        """What `to_dict` made a dict of."""
        parts = tuple(Part(**part) for part in values["parts"])
        return Mixture(parts, values["first_position"], values["num_streams"])

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def record(self, seed: int, position: int) -> int:
        """The record at `position`, numbered through all parts in their order: a pure function."""
        place, draw = self._draw(position)
        part = self.parts[place]
        return self._starts[place] + record_index(seed, draw, part.num_records, part.stream)

    def beside(self, index: int) -> range:
        """The records of the part that record `index` is of."""
        starts = self._starts
        place = max(place for place, start in enumerate(starts) if start <= index)
        return range(starts[place], starts[place] + self.parts[place].num_records)

    def draws(self, position: int) -> list[int]:
        """How many records of each part a run has seen before `position`."""
        counted = counts(position - self.first_position, self._shares)
        return [part.first_draw + count for part, count in zip(self.parts, counted, strict=True)]

    def _draw(self, position: int) -> tuple[int, int]:
        """The part that `position` falls to, and how many of its records came before: as `counts`, one part further."""
        left = position - self.first_position
        after, units = left + 1, sum(self._shares)
        for place, share in enumerate(self._shares):
            rest, rest_after = left * (units - share) // units, after * (units - share) // units
            if after - rest_after != left - rest:
                return place, self.parts[place].first_draw + left - rest
            left, after, units = rest, rest_after, units - share
        raise AssertionError("one position more is one more of one part")

    @functools.cached_property
    def _starts(self) -> list[int]:
        starts = [0]
        for part in self.parts[:-1]:
            starts.append(starts[-1] + part.num_records)
        return starts

    @functools.cached_property
    def _shares(self) -> list[int]:
        total = sum(part.weight for part in self.parts)
        return [max(1, round(SHARE_UNITS * part.weight / total)) for part in self.parts]


def described(data: Mapping[str, Any]) -> str:
    """The sources that plain settings of the data train on, and their splits, as far as they say."""
    parts = data.get("mixture") or [data]
    return ", ".join(part["source"] + (f" (split {part['split']})" if "split" in part else "") for part in parts)


def counts(positions: int, shares: Sequence[int]) -> list[int]:
    """How many of the first `positions` each part has; one position more is one more of exactly one part.

    Each part in turn takes its share of what the parts before it have left.
    """
    left, units, found = positions, sum(shares), []
    for share in shares:
        rest = left * (units - share) // units
        found.append(left - rest)
        left, units = rest, units - share
    return found


def tempered(weights: Sequence[float], temperature: float) -> list[float]:
    """w^(1/T) of each weight: 1 leaves them, above 1 the small ones gain (Conneau et al. 2019, XLM-R, section 3.1).

    Raises:
        UserError: the temperature is not above 0.
    """
    if not temperature > 0:
        raise UserError(f"data.temperature = {temperature} is not above 0: 1 leaves the weights as they are")
    try:
        return [weight ** (1 / temperature) for weight in weights]
    except OverflowError as error:
        raise UserError(f"data.temperature = {temperature} leaves nothing but the largest part: raise it") from error


def changes(before: Mixture, parts: Sequence[Part]) -> list[str]:
    """What differs between the parts of a run and those that it is to go on with, in words."""
    old, new = ({part.name: part for part in found} for found in (before.parts, parts))
    said = [f"{name} is new" for name in new if name not in old]
    said += [f"{name} is gone" for name in old if name not in new]
    for name in [name for name in old if name in new]:
        if old[name].num_records != new[name].num_records:
            said.append(f"{name} has {new[name].num_records} records, and had {old[name].num_records}")
        elif old[name].weight != new[name].weight:
            said.append(f"the weight of {name} is {new[name].weight:g}, and was {old[name].weight:g}")
    if not said and [part.name for part in before.parts] != [part.name for part in parts]:
        said.append("the parts come in another order")
    return said


def continued(before: Mixture, parts: Sequence[Part], position: int) -> Mixture:
    """The mixture that a run of `before` goes on with, of these parts, from `position` on.

    A part that stays goes on with the records that it has not yet shown in its pass; one whose number of records
    changed begins its next pass; a new one its first.
    """
    drawn = dict(zip([part.name for part in before.parts], before.draws(position), strict=True))
    old = {part.name: part for part in before.parts}
    num_streams, found = before.num_streams, []
    for part in parts:
        if part.name not in old:
            found.append(replace(part, stream=num_streams, first_draw=0))
            num_streams += 1
            continue
        then = old[part.name]
        draws = drawn[part.name]
        if then.num_records != part.num_records:
            draws = -(-draws // then.num_records) * part.num_records
        found.append(replace(part, stream=then.stream, first_draw=draws))
    return Mixture(tuple(found), position, num_streams)
