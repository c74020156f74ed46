"""How every program ends: one line and an exit status. It knows no library, as some programs run without JAX."""

import errno
import signal
import sys
from collections.abc import Callable, Sequence

from mmjax.errors import StartAgain, UserError

USER_ERROR_STATUS = 2
START_AGAIN_STATUS = 75
INTERRUPTED_STATUS = 128 + signal.SIGINT
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


def status(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """0 when `main(arguments)` returns, 2 after a `UserError` or a full disk, 75 after `StartAgain`, 130 after Ctrl-C.

    A bug keeps its traceback.
    """
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {on_one_line(str(error))}", file=sys.stderr)
        return USER_ERROR_STATUS
    except StartAgain as stop:
        print(f"stopped: {on_one_line(str(stop))}", file=sys.stderr)
        return START_AGAIN_STATUS
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        place = f" for {error.filename}" if error.filename else ""
        print(f"error: no space left{place}: free some, then run the same command again", file=sys.stderr)
        return USER_ERROR_STATUS
    except KeyboardInterrupt:
        print("interrupted: run the same command again; a run will go on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED_STATUS
    return 0


def on_one_line(text: str) -> str:
    return " ".join(text.split())
