"""How long a step takes, as a bracket: two bounds on each operation, added up.

The lower end is a roofline: each operation as fast as the matrix units or the memory allow, whichever is slower. The
upper end is the compiler's own estimate of its cycles, where it has one. That is right for matrix products and two to
four times too high for vector operations in bfloat16, so the truth lies between; `hybrid` takes the compiler's word for
products and the roofline for the rest. Collectives that nothing hides are added to all three at the speed of the links.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mmjax.parallel.chips import Chip
from mmjax.plan.places import place_of
from mmjax.plan.program import Operation

KERNEL_EFFICIENCY = 0.1
"""Of the peak, that hand-written kernels reach at least. By the bundles that the compiler schedules for them, one a
cycle, those of attention reach 0.10 (64 positions) to 0.43 (256, backward): `benchmarks/kernel_cycles.py`.
The kernel of the losses computes in float32, in six passes: 0.17."""

TINY_SECS = 1e-12
"""Less than any step takes: what nothing at all is divided by."""


class Secs(NamedTuple):
    """Seconds by the three sums."""

    roofline: float = 0.0
    hybrid: float = 0.0
    cycles: float = 0.0

    def plus(self, other: "Secs", times: float = 1) -> "Secs":
        return Secs(*(mine + times * its for mine, its in zip(self, other, strict=True)))


def secs_of(operation: Operation, chip: Chip) -> Secs:
    """One run of an operation."""
    if operation.instruction.operation in ("copy-start", "slice-start"):
        # A transfer between the memories of a chip, beside what is computed meanwhile.
        return Secs()
    flops = operation.flops * operation.passes
    moving = operation.num_bytes / chip.memory_bytes_per_sec
    roofline = max(flops / chip.flops_per_sec, moving)
    if operation.is_kernel:
        slow = max(flops / (KERNEL_EFFICIENCY * chip.flops_per_sec), moving)
        return Secs(roofline, slow, slow)
    if chip.slow_flops_per_sec:
        slow = max(roofline, flops / chip.slow_flops_per_sec, operation.num_bytes / chip.slow_bytes_per_sec)
        return Secs(roofline, (roofline + slow) / 2, slow)
    if operation.cycles is None or not chip.clock_hz:
        # What the compiler has no figure for: copies that run beside others, other platforms.
        return Secs(roofline, roofline, roofline)
    cycles = operation.cycles / chip.clock_hz
    return Secs(roofline, cycles if flops else roofline, cycles)


def total(operations: Iterable[Operation], chip: Chip) -> Secs:
    """All of them, as often as they run."""
    secs = Secs()
    for operation in operations:
        secs = secs.plus(secs_of(operation, chip), operation.repeats)
    return secs


def grouped(operations: Iterable[Operation], chip: Chip, key: Callable[[Operation], str]) -> dict[str, Secs]:
    """The sums of what has the same key, those that take longest first."""
    found: dict[str, Secs] = {}
    for operation in operations:
        name = key(operation)
        found[name] = found.get(name, Secs()).plus(secs_of(operation, chip), operation.repeats)
    return dict(sorted(found.items(), key=lambda item: -item[1].hybrid))


def kind_of(operation: Operation) -> str:
    """What an operation is, for a table: matrix products, kernels, copies, and the rest."""
    if operation.is_kernel:
        return "kernels"
    if operation.flops:
        return "matrix products"
    return "copies" if "copy" in operation.instruction.operation else "other"


def path_of(operation: Operation) -> str:
    """The module that an operation belongs to, and in which pass."""
    place = place_of(operation.instruction.op_name)
    return f"{place.path or 'elsewhere'} ({place.computed_in})"


def limit(
    by_kind: dict[str, Secs], by_path: dict[str, Secs], waited: float, operations: Iterable[Operation], chip: Chip
) -> str:
    """One sentence that names what limits the step."""
    work = Secs()
    for secs in by_kind.values():
        work = work.plus(secs)
    whole = max(work.hybrid + waited, TINY_SECS)
    computing = sum(o.repeats * o.flops * o.passes / chip.flops_per_sec for o in operations)
    slowest = next(iter(by_path), "nothing")
    share = by_path[slowest].hybrid / whole if by_path else 0.0
    if waited > whole / 4:
        cause = f"communication that nothing hides takes {waited / whole:.0%} of the step"
    elif computing > 0.6 * whole:
        cause = f"the matrix units: products alone take {computing / whole:.0%} of the step at their peak"
    else:
        products = by_kind.get("matrix products", Secs())
        apart, reached = products.hybrid / whole, computing / max(products.hybrid, computing, TINY_SECS)
        cause = f"small products and memory: products take {apart:.0%} of the step, at {reached:.0%} of the peak"
    return f"the step is limited by {cause}; the longest part is {slowest}, {share:.0%}"
