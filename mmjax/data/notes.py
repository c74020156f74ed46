"""What comes to light while rows are made: records that cannot be used, and where the time goes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mmjax.data.costs import Costs


@dataclass(frozen=True)
class Unusable:
    """A record without a use: at `position` of the run alone, where it could not be reached, else for good (None)."""

    index: int
    name: str
    reason: str
    position: int | None = None


@dataclass
class Notes:
    """Of one task, which one thread makes: what its rows took, how many have a record that can be used, and the records
    of the others."""

    costs: Costs = field(default_factory=Costs)
    good: int = 0
    unusable: list[Unusable] = field(default_factory=list)


def joined(notes: Iterable[Notes]) -> Notes:
    """Those of several tasks, in their order."""
    total = Notes()
    for one in notes:
        total.costs.add(one.costs)
        total.good += one.good
        total.unusable += one.unusable
    return total
