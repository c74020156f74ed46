"""How much of this machine a process may use."""

import os


def num_cores() -> int:
    """The cores that this process may use."""
    return len(_allowed())


def idle_secs() -> float:
    """Seconds that the cores which this process may use had nothing to do, of this or of any other program, in all."""
    import psutil  # Here, because what runs without JAX does without it, and asks for the cores alone.

    times = psutil.cpu_times(percpu=True)
    # Linux counts waiting for a disk apart.
    return sum(times[core].idle + getattr(times[core], "iowait", 0.0) for core in _allowed() if core < len(times))


def _allowed() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
