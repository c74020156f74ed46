"""Ports of this machine for processes that talk to each other."""

import socket
from contextlib import ExitStack, suppress


def free_port() -> int:
    """The first of two that follow each other, for the hub and for JAX, and that nobody listens on."""
    while True:
        with ExitStack() as stack, suppress(OSError, OverflowError):
            first, second = (stack.enter_context(socket.socket()) for _ in range(2))
            first.bind(("", 0))
            port = first.getsockname()[1]
            second.bind(("", port + 1))
            return port
