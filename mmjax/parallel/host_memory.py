"""The C allocator of a process that computes on CPU."""

import ctypes
import importlib.metadata
import importlib.util

import jax

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has glibc keep what XLA frees, where XLA computes on CPU; call it before anything asks JAX for devices.

    By default glibc maps each large buffer anew and gives it back after use, and the kernel clears its pages at every
    step: a tenth to a quarter of a Transformer's step. The process then holds its peak memory until it ends. C
    libraries that have no such setting are left alone.
    """
    # JAX is not asked where the answer is known: once its threads run, each keeps the heap that it began with. In any
    # but the first heap, buffers of more than 64 MiB are mapped anew whatever MMAP_MAX says.
    if _may_have_accelerators() and jax.default_backend() != "cpu":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1)):
        library.mallopt(parameter, value)


def _may_have_accelerators() -> bool:
    """Whether JAX might compute on other devices than CPUs, as far as that shows before it starts."""
    if platforms := jax.config.jax_platforms:  # type: ignore[attr-defined]
        return platforms != "cpu"
    return bool(importlib.metadata.entry_points(group="jax_plugins")) or importlib.util.find_spec("libtpu") is not None
