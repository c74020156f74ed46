"""What is asked of the C allocator, and of whom."""

import ctypes
import os
import subprocess
import sys

import jax

from mmjax.parallel import host_memory


class FakeGlibc:
    """Notes what `mallopt` is called with."""

    def __init__(self):
        self.settings: dict[int, int] = {}

    def gnu_get_libc_version(self) -> bytes:
        return b"2.36"

    def mallopt(self, parameter: int, value: int) -> int:
        self.settings[parameter] = value
        return 1


def test_glibc_keeps_buffers_on_cpu(monkeypatch):
    library = FakeGlibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    host_memory.keep_freed_memory()
    # No buffer is mapped on its own, none is given back, and all threads share one heap.
    assert library.settings == {-4: 0, -1: -1, -8: 1}


def test_other_libraries_and_accelerators_are_left_alone(monkeypatch):
    library = FakeGlibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    host_memory.keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(host_memory, "_may_have_accelerators", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    host_memory.keep_freed_memory()
    assert library.settings == {}


FAULTS = """
import resource

import jax

from mmjax.parallel.host_memory import keep_freed_memory

keep_freed_memory()
large = jax.numpy.ones(20 * 2**20)
step = jax.jit(lambda x: x + 1)


def faults(num_steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(num_steps):
        step(large).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults(40)
print(faults(20))
"""


def test_a_buffer_of_80_mib_is_not_mapped_anew():
    """In the long run: until its parts fit, glibc takes new ones."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 20_480 / 4
