"""What rows take to make: seconds by stage, and what so many rows a second need of this machine."""

import time
from dataclasses import dataclass, field

from mmjax.data.cores import num_cores

STAGES = ("read", "decode", "augment", "tokenize", "stack")
"""Of a row: its record from the source; its image; what is changed at random, with the decoding of photos of which a
part is wanted; its text, with all others of its task; arrays of all rows."""

VERBS = {
    "read": "read its record",
    "decode": "decode its image",
    "augment": "change its image at random",
    "tokenize": "tokenize its text",
    "stack": "stack its arrays",
}


@dataclass
class Costs:
    """What so many rows took, by stage: seconds by the clock, and seconds that the thread computed."""

    rows: int = 0
    secs: dict[str, float] = field(default_factory=dict)
    cpu_secs: dict[str, float] = field(default_factory=dict)

    def timed(self, stage: str) -> "Timed":
        """Counts what a block takes as that of a stage."""
        return Timed(self, stage)

    @property
    def cpu_secs_each(self) -> float:
        """What one row takes of a core; 0 before there are any."""
        return sum(self.cpu_secs.values()) / self.rows if self.rows else 0.0

    def add(self, other: "Costs") -> None:
        self.rows += other.rows
        for stage in other.secs:
            self.count(stage, other.secs[stage], other.cpu_secs[stage])

    def count(self, stage: str, secs: float, cpu_secs: float) -> None:
        self.secs[stage] = self.secs.get(stage, 0.0) + secs
        self.cpu_secs[stage] = self.cpu_secs.get(stage, 0.0) + cpu_secs


class Timed:
    """A block of a stage; a class, as it is entered for each record."""

    __slots__ = ("_costs", "_cpu_start", "_stage", "_start")

    def __init__(self, costs: Costs, stage: str):
        self._costs, self._stage = costs, stage

    def __enter__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.thread_time()

    def __exit__(self, *error: object) -> None:
        self._costs.count(self._stage, time.perf_counter() - self._start, time.thread_time() - self._cpu_start)


def needs(costs: Costs, rows_per_sec: float) -> str:
    """What making so many rows a second takes of this machine, in a sentence; "" before there are any."""
    if not costs.cpu_secs_each:
        return ""
    stage, secs = max(costs.cpu_secs.items(), key=lambda item: item[1])
    share = secs / sum(costs.cpu_secs.values())
    return (
        f"an example takes {1e3 * costs.cpu_secs_each:.2f} ms of a core, {share:.0%} of it to {VERBS[stage]}: "
        f"{rows_per_sec:,.0f} examples/s need {rows_per_sec * costs.cpu_secs_each:.1f} of {num_cores()} cores"
    )
