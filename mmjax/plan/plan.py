"""The plan of a run on a machine: model, memory, communication, time and cost, as plain data that is JSON."""

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax import assembly
from mmjax.experiment import Experiment, check_mesh
from mmjax.parallel import rules
from mmjax.parallel.chips import Chip
from mmjax.parallel.mesh import make_mesh
from mmjax.plan import collectives, cpu, figures, memory, remedies, run, timing
from mmjax.plan.hlo import Instruction
from mmjax.plan.places import place_of
from mmjax.plan.program import Program
from mmjax.plan.topology import Topology
from mmjax.training.program import Program as Traced
from mmjax.versions import versions

NUM_BUFFERS = 10
CALIBRATION = (
    "on three published MaxText rows (v5e-256 16B at 61.1% MFU, v5e-256 32B at 66.9%, v5p-128 32B at 71.5%) the "
    "published time lay between the two ends: the roofline was 0.81 to 0.99 of it, the cycles 1.05 to 1.24"
)
PLATFORM_NOTES = {
    "tpu": f"time: {CALIBRATION}",
    "gpu": "time: the roofline alone, as the GPU compiler estimates no cycles; the real time is longer",
    "cpu": "time: from products and passes over memory that were measured here just now, the best and the worst",
}


class Compiled(NamedTuple):
    """A step that was compiled, or what the compiler lacked."""

    text: str
    peak_bytes: int | None
    compile_secs: float
    """Of the compiler alone: tracing and lowering, a second or two, are done before it starts."""
    missing: "TooLarge | None"


class TooLarge(NamedTuple):
    """A program that does not fit: what it needs of what there is, as far as the compiler says."""

    needed_bytes: int | None
    limit_bytes: int | None


def make_plan(
    experiment: Experiment,
    topology: Topology,
    *,
    price: float | None = None,
    preempt_hours: float = 24.0,
    restart_secs: float = run.RESTART_SECS,
    hlo: Path | None = None,
) -> dict[str, Any]:
    """The plan of `experiment` on `topology`; with `hlo`, the text of the compiled step goes there.

    Raises:
        UserError: the mesh does not fit the topology, the model or the batch.
    """
    mesh = make_mesh(experiment.mesh, topology.devices)
    check_mesh(experiment, mesh)
    with jax.set_mesh(mesh):
        traced = assembly.program(experiment, mesh)
        facts = figures.figures(experiment, traced)
        compiled = compile_step(traced)
    if hlo is not None and compiled.text:
        hlo.write_text(compiled.text)
    chip = topology.chip or cpu.shared_by(cpu.measured_chip(), len(topology.devices))
    plan: dict[str, Any] = {
        "topology": topology.written,
        "num_devices": int(mesh.size),
        "mesh": {name: int(size) for name, size in mesh.shape.items()},
        "batch_size": experiment.data.batch_size,
        "versions": versions() | _compiler_version(topology),
        "compile_secs": compiled.compile_secs,
        "model": _model(facts),
        "flops": {"model": facts.step_flops, "per_example": _per_example(facts)},
        "notes": [PLATFORM_NOTES[topology.platform]],
    }
    if mesh.size < len(topology.devices):
        idle = len(topology.devices) - mesh.size
        plan["notes"].append(f"the mesh leaves {idle} of {len(topology.devices)} devices without work")
    if compiled.missing is not None:
        return plan | _not_fitting(experiment, mesh, traced, compiled.missing, chip)
    program = Program(compiled.text)
    if program.unknown_loops:
        plan["notes"].append(_unknown_loops_note(program.unknown_loops))
    communications = [
        collectives.described(instruction, repeats, overlapped, mesh, topology.chip)
        for repeats, instruction, overlapped in program.communications
    ]
    plan |= {
        "memory": _memory(program, traced, mesh, compiled, chip),
        "collectives": [_collective(one) for one in collectives.summed(communications)],
        "time": _time(program, communications, chip, facts, int(mesh.size)),
    }
    return plan | {"run": _run(experiment, plan, traced, price, preempt_hours, restart_secs)}


def compile_step(traced: Traced) -> Compiled:
    """The training step, lowered and compiled under the mesh that is set."""
    lowered = traced.step.lower(traced.abstract_state, traced.batch_spec)
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        # The fast memory of a core can be too small for a kernel: that is a bug, and not the config's.
        if "RESOURCE_EXHAUSTED" not in str(error) or "memory space vmem" in str(error):
            raise
        return Compiled("", None, time.perf_counter() - start, _too_large(str(error)))
    secs = time.perf_counter() - start
    analysis: Any = compiled.memory_analysis()
    return Compiled(compiled.as_text() or "", _peak_bytes(analysis), secs, None)


def _unknown_loops_note(loops: list[Instruction]) -> str:
    places = dict.fromkeys(place_of(loop.op_name).path or loop.name for loop in loops)
    return f"loops of no fixed length count once: {', '.join(places)}"


def _peak_bytes(analysis: Any) -> int:
    """The compiler's own figure. On CPU that leaves out what lies between arguments and results, which is added."""
    if analysis.peak_memory_in_bytes and not rules.runs_on_cpu():
        return int(analysis.peak_memory_in_bytes)
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes)


def _too_large(message: str) -> TooLarge:
    sizes = [_bytes(*found) for found in re.findall(r"([\d.]+)([KMGT]?)(?:i?B)?\b", " ".join(_sizes(message)))]
    return TooLarge(sizes[0] if sizes else None, sizes[1] if len(sizes) > 1 else None)


def _sizes(message: str) -> list[str]:
    return re.findall(r"(?:\(|HBM \(|Used |of )([\d.]+[KMGT])", message)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _compiler_version(topology: Topology) -> dict[str, str]:
    return {"compiler": str(getattr(topology.devices[0].client, "platform_version", "")).splitlines()[0][:100]}


def _model(facts: figures.Figures) -> dict[str, Any]:
    return {"parameters": facts.parameters}


def _per_example(facts: figures.Figures) -> dict[str, Any]:
    return {name: part._asdict() for name, part in facts.parts.items()}


def _memory(program: Program, traced: Traced, mesh: Any, compiled: Compiled, chip: Chip) -> dict[str, Any]:
    peak, limit = compiled.peak_bytes or 0, chip.memory_bytes
    found = memory.peak(program.module)
    shapes = {_local_shape(leaf) for leaf in jax.tree.leaves(traced.abstract_state.params)}
    composition: Counter[str] = Counter()
    for buffer in found.buffers:
        composition[memory.category(buffer, shapes)] += buffer.num_bytes
    return {
        "peak_bytes": peak,
        "limit_bytes": limit,
        "fits": not limit or peak <= limit,
        "headroom_bytes": limit - peak if limit else None,
        "composition": dict(composition.most_common()),
        "explained_bytes": found.num_bytes,
        "largest": [
            {
                "num_bytes": buffer.num_bytes,
                "array": f"{buffer.array.dtype}[{','.join(map(str, buffer.array.dims))}]",
                "place": place_of(buffer.op_name).path or buffer.name,
                "category": memory.category(buffer, shapes),
            }
            for buffer in found.buffers[:NUM_BUFFERS]
        ],
    }


def _local_shape(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    assert leaf.sharding is not None
    return leaf.sharding.shard_shape(leaf.shape)


def state_bytes(traced: Traced) -> dict[str, int]:
    """What the state takes of one device, by its parts, and in all devices together without copies."""

    def local(tree: Any) -> int:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "sharding")]
        return sum(int(np.prod(_local_shape(leaf), dtype=np.int64)) * leaf.dtype.itemsize for leaf in leaves)

    state = traced.abstract_state
    whole = sum(int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return {
        "parameters": local(state.params),
        "optimizer state": local(state.opt_state),
        "averages and queues": local(state.ema) + local(state.objective),
        "checkpoint": whole,
    }


def _collective(one: collectives.Communication) -> dict[str, Any]:
    return {
        "operation": one.operation,
        "count": one.repeats,
        "array_bytes": one.array_bytes,
        "sent_bytes": one.sent_bytes,
        "axes": list(one.axes),
        "direction": one.direction,
        "overlapped": one.overlapped,
        "secs": one.secs,
        "place": one.place.path,
    }


def _time(
    program: Program,
    communications: list[collectives.Communication],
    chip: Chip,
    facts: figures.Figures,
    num_devices: int,
) -> dict[str, Any]:
    work = timing.total(program.operations, chip)
    waited = sum(one.repeats * (one.secs or 0.0) for one in communications if not one.overlapped)
    hidden = sum(one.repeats * (one.secs or 0.0) for one in communications if one.overlapped)
    # At the upper end nothing is hidden.
    secs = work.plus(timing.Secs(waited, waited, waited + hidden))
    peak = chip.flops_per_sec * num_devices
    by_kind = timing.grouped(program.operations, chip, timing.kind_of)
    by_path = timing.grouped(program.operations, chip, timing.path_of)
    return {
        **{f"{name}_secs": value for name, value in secs._asdict().items()},
        "computation": work._asdict(),
        "by_kind": {name: its._asdict() for name, its in by_kind.items()},
        "by_path": {name: its._asdict() for name, its in by_path.items()},
        "communication_waited_secs": waited,
        "communication_hidden_secs": hidden,
        "mfu": {name: facts.step_flops / (value * peak) for name, value in secs._asdict().items() if value},
        "has_cycles": program.estimated_cycles is not None,
        "limit": timing.limit(by_kind, by_path, waited, program.operations, chip),
    }


def _run(
    experiment: Experiment,
    plan: dict[str, Any],
    traced: Traced,
    price: float | None,
    preempt_hours: float,
    restart_secs: float,
) -> dict[str, Any]:
    found = plan["time"]
    ends = {
        name: run.run_cost(
            found[f"{name}_secs"], experiment.train.num_steps, plan["batch_size"], plan["num_devices"], price
        )._asdict()
        for name in timing.Secs._fields
    }
    every = experiment.checkpoint.every_steps
    return {
        "num_steps": experiment.train.num_steps,
        "price_per_chip_hour": price,
        "ends": ends,
        "checkpoint_bytes": state_bytes(traced)["checkpoint"],
        "checkpoint_every_steps": every,
        "preempt_hours": preempt_hours,
        "restart_secs": restart_secs,
        "preempted_share": {
            name: run.preempted_share(found[f"{name}_secs"], every, preempt_hours, restart_secs)
            for name in timing.Secs._fields
        },
    }


def _not_fitting(experiment: Experiment, mesh: Any, traced: Traced, missing: TooLarge, chip: Chip) -> dict[str, Any]:
    state = state_bytes(traced)
    limit = missing.limit_bytes or chip.memory_bytes
    return {
        "memory": {
            "peak_bytes": missing.needed_bytes,
            "limit_bytes": limit,
            "fits": False,
            "headroom_bytes": None,
            "composition": {name: size for name, size in state.items() if name != "checkpoint"},
            "largest": [],
            "remedies": remedies.remedies(experiment, dict(mesh.shape)),
        }
    }
