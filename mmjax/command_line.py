"""How a process with JAX in it runs `python -m mmjax.X`, and ends."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

import jax

from mmjax.ending import status
from mmjax.errors import StartAgain


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Calls `main` with the arguments of the process and exits with its status; SIGTERM ends it as `StartAgain`."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = status(main, sys.argv[1:])
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        code = 1
    if jax.distributed.is_initialized():
        # It failed among others. At a usual exit JAX waits for them to come to the end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _stop(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise StartAgain("told to end before there was anything to save: run the same command again")
