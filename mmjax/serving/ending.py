"""How the programs of this folder end; `mmjax.command_line` does the same for those that have jax."""

import sys
from collections.abc import Callable, Sequence

from mmjax.errors import UserError

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130


def status(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> int:
    """0 when `main(arguments)` returns, 2 after a `UserError` (one line on stderr), 130 after Ctrl-C.

    A bug keeps its traceback.
    """
    try:
        main(arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED_STATUS
    return 0
