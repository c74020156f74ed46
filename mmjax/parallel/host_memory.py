"""The C allocator of a process that computes on CPU."""

import ctypes

import jax

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has glibc keep what XLA frees, where XLA computes on CPU; call it before the first computation.

    By default glibc maps each large buffer anew and gives it back after use, and the kernel clears its pages at every
    step: a tenth to a quarter of a Transformer's step. The process then holds its peak memory until it ends. C
    libraries that have no such setting are left alone.
    """
    if jax.default_backend() != "cpu":
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (ARENA_MAX, 1)):
        library.mallopt(parameter, value)
