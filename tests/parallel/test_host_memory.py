"""What is asked of the C allocator, and of whom."""

import ctypes

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
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    host_memory.keep_freed_memory()
    assert library.settings == {}
