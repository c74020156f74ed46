"""Training that breaks itself: `FAULT="kill evaluation 1"` kills it in its second evaluation.

The fault is an action (kill: SIGKILL; hang: it does not go on), a place, and how many times that is passed before.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from mmjax import assembly, command_line, train
from mmjax.training.checkpoint import Checkpoints
from mmjax.training.logs import Logs

PLACES: dict[str, tuple[Any, str]] = {
    "start-up": (train, "first_state"),
    "data": (train, "place"),
    "step": (Logs, "step"),
    "evaluation": (assembly.Evaluation, "__call__"),
    "save": (Checkpoints, "save"),
}
ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(1000),
}


def break_at(action: Callable[[], None], place: str, times: int) -> None:
    """Does `action` when `place` is passed after so many `times`; in a save, while it writes in the background."""
    owner, name = PLACES[place]
    whole, passed = getattr(owner, name), iter(range(times + 1))

    def broken(*arguments: Any, **options: Any) -> Any:
        is_time = next(passed, None) == times
        if is_time and place == "save":
            threading.Timer(0.02, action).start()
        elif is_time:
            action()
        return whole(*arguments, **options)

    setattr(owner, name, broken)


if __name__ == "__main__":
    action, place, times = os.environ["FAULT"].split()
    break_at(ACTIONS[action], place, int(times))
    sys.argv[0] = "mmjax.train"
    command_line.run(train.main)
