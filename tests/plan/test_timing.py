"""The bounds of single operations, by hand."""

from mmjax.parallel.chips import Chip
from mmjax.plan.hlo import Computation, Instruction
from mmjax.plan.program import Operation
from mmjax.plan.timing import KERNEL_EFFICIENCY, Secs, grouped, kind_of, limit, path_of, secs_of, total

CHIP = Chip(flops_per_sec=1000.0, memory_bytes_per_sec=100.0, clock_hz=10.0)


def operation(name="fusion", *, repeats=1, flops=0, passes=1, num_bytes=0, cycles=None, is_kernel=False, scope="image"):
    instruction = Instruction("x", "f32[8]{0}", name, f'), metadata={{op_name="jit(f)/jvp({scope})/mlp/add"}}')
    return Operation(Computation("c"), instruction, repeats, flops, passes, num_bytes, cycles, is_kernel)


def test_a_roofline_is_the_slower_of_products_and_memory():
    assert secs_of(operation(flops=2000, num_bytes=100, cycles=30), CHIP) == Secs(2.0, 3.0, 3.0)
    assert secs_of(operation(flops=500, num_bytes=300, cycles=40), CHIP) == Secs(3.0, 4.0, 4.0)
    assert secs_of(operation(flops=500, passes=6, cycles=40), CHIP).roofline == 3.0


def test_the_compilers_word_counts_between_the_ends_for_products_alone():
    assert secs_of(operation(num_bytes=100, cycles=40), CHIP) == Secs(1.0, 1.0, 4.0)


def test_without_cycles_all_ends_are_the_roofline():
    assert secs_of(operation(num_bytes=100), CHIP) == Secs(1.0, 1.0, 1.0)


def test_kernels_run_at_a_part_of_the_peak_at_the_upper_end():
    slow = 2000 / (KERNEL_EFFICIENCY * 1000)
    assert secs_of(operation("custom-call", flops=2000, num_bytes=100, is_kernel=True), CHIP) == Secs(2.0, slow, slow)


def test_copies_between_memories_run_beside_the_rest():
    assert secs_of(operation("copy-start", num_bytes=1000), CHIP) == Secs()


def test_measured_machines_have_a_worst_rate():
    cpu = Chip(1000.0, memory_bytes_per_sec=100.0, slow_flops_per_sec=100.0, slow_bytes_per_sec=50.0)
    assert secs_of(operation(flops=1000), cpu) == Secs(1.0, 5.5, 10.0)
    assert secs_of(operation(num_bytes=100), cpu) == Secs(1.0, 1.5, 2.0)


def test_operations_count_as_often_as_they_run():
    both = [operation(repeats=12, flops=1000, cycles=20), operation(num_bytes=100, cycles=30, scope="text")]
    assert total(both, CHIP) == Secs(13.0, 25.0, 27.0)
    assert grouped(both, CHIP, kind_of) == {"matrix products": Secs(12.0, 24.0, 24.0), "other": Secs(1.0, 1.0, 3.0)}
    assert list(grouped(both, CHIP, path_of)) == ["image/mlp (forward)", "text/mlp (forward)"]


def test_one_sentence_names_what_limits():
    def said(operations, waited=0.0):
        kinds, paths = grouped(operations, CHIP, kind_of), grouped(operations, CHIP, path_of)
        return limit(kinds, paths, waited, operations, CHIP)

    assert "the matrix units: products alone take 100%" in said([operation(flops=1000, cycles=10)])
    assert "communication that nothing hides takes 50%" in said([operation(flops=1000, cycles=10)], waited=1.0)
    assert "at 20% of the peak; the longest part is image/mlp" in said([operation(flops=1000, cycles=50)])
    assert "nothing" in said([])
