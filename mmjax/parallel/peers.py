"""One process among the others of its run: they start together, agree, and do not wait for the lost."""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.errors import StartAgain, UserError
from mmjax.parallel.activity import Activity, Doing
from mmjax.parallel.hub import ProcessesConfig

BEATS_A_LIMIT = 4
"""Signs of life within the silence that is allowed."""
SAID_EVERY_SECS = 5.0
LAST_WORDS_SECS = 2.0
"""For a process that was told to end because another one ended, to say first what is wrong with itself."""
THREAD_SECS = 5.0
VERDICT_SECS = 5.0
"""A failed collective may be the fault of another process; the hub knows within this time."""

Say = Callable[[str], None]
End = Callable[[str, int], None]
"""(why, status): ends this process, from a thread that is not the main one, which may hang in compiled code."""


def end_process(why: str, status: int) -> None:
    """Says why and exits at once."""
    print(f"stopped: {why}", file=sys.stderr, flush=True)
    os._exit(status)


class Peers:
    """The connection of one process to the hub. When another process is lost, this one ends: a collective without it
    would wait for ever, in compiled code that nothing can interrupt."""

    def __init__(self, connection: socket.socket, config: ProcessesConfig, activity: Activity, end: End):
        self._connection, self._config, self._activity, self._end_process = connection, config, activity, end
        self._lines = connection.makefile("r", encoding="utf-8")
        self._sending = threading.Lock()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._coordinator = Doing("start-up", 0, 0.0, 0)
        self._heard = time.monotonic()
        self._threads: list[threading.Thread] = []

    @classmethod
    def meet(
        cls,
        address: tuple[str, int],
        process: int,
        num_processes: int,
        config: ProcessesConfig,
        activity: Activity,
        say: Say = print,
        end: End = end_process,
    ) -> "Peers":
        """Connects to the hub at `address` and waits until all processes have.

        Raises:
            StartAgain: the hub, or another process, did not come in time.
        """
        peers = cls(_connected(address, config.start_secs), config, activity, end)
        peers._send({"process": process, "num_processes": num_processes, "host": socket.gethostname()})
        try:
            peers._wait_for_all(say)
        except Exception:
            peers.close()
            raise
        peers._threads += [threading.Thread(target=target, daemon=True) for target in (peers._listen, peers._beat)]
        for thread in peers._threads:
            thread.start()
        return peers

    def agree(self, name: str, values: Mapping[str, Any]) -> None:
        """Returns once every process has said the same `values` (JSON) of `name`.

        Raises:
            UserError: they differ; the message shows where.
        """
        self._send({"agree": name, "values": dict(values)})
        answer = self._answers.get()
        if answer["difference"] is not None:
            raise UserError(answer["difference"])

    def leave(self, status: int = 0, reason: str = "") -> None:
        """Ends the connection; with a `status` other than 0 all others are told the `reason`, and end too.

        After status 0, process 0 returns when all have left; after another one, when the others have ended.
        """
        self._ended.set()
        with contextlib.suppress(OSError, queue.Empty):
            self._send({"left": status, "reason": reason})
            self._answers.get(timeout=self._config.silence_secs)
        # The end of a process that fails closes its connection: process 0, with which JAX's service goes, waits for it.
        if not status:
            self.close()

    def close(self) -> None:
        """Ends the connection without a word, as the operating system does for a process that is killed."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        for thread in self._threads:
            thread.join(THREAD_SECS)
        self._lines.close()

    def wait_for_verdict(self) -> None:
        """Gives the hub time to find that it was another process which made this one fail, and to end this one."""
        time.sleep(VERDICT_SECS)

    def _wait_for_all(self, say: Say) -> None:
        said = time.monotonic()
        for message in map(json.loads, self._lines):
            if "all" in message:
                return
            if "lost" in message:
                raise (UserError if message["status"] == 2 else StartAgain)(message["lost"])
            if time.monotonic() - said > SAID_EVERY_SECS:
                said = time.monotonic()
                waited = f"{message['secs']:.0f} of {self._config.start_secs:.0f} s"
                say(f"waiting for {', '.join(message['missing'])} ({waited})")
        raise StartAgain("process 0 was lost while the processes started: look at its log, then start all again")

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for message in map(json.loads, self._lines):
                self._heard = time.monotonic()
                if "lost" in message:
                    self._end(message["lost"], message["status"])
                elif "doing" in message:
                    self._coordinator = Doing(*message["doing"])
                else:
                    self._answers.put(message)
        self._end(f"process 0 was lost; it was last doing {self._coordinator}", 75)
        self._answers.put({"difference": None})  # for who leaves, and would wait for a goodbye

    def _beat(self) -> None:
        with contextlib.suppress(OSError):
            while not self._ended.wait(min(1.0, self._config.silence_secs / BEATS_A_LIMIT)):
                self._send({"doing": list(self._activity.now())})
                silence = time.monotonic() - self._heard
                if silence > self._config.silence_secs:
                    self._end(
                        f"process 0 has been silent for {silence:.0f} s; it was last doing {self._coordinator}", 75
                    )

    def _send(self, message: dict[str, Any]) -> None:
        with self._sending:
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _end(self, text: str, status: int) -> None:
        if self._ended.is_set():
            return
        if status == 2:
            time.sleep(LAST_WORDS_SECS)
        if not self._ended.is_set():
            self._ended.set()
            self._end_process(text, status)


def _connected(address: tuple[str, int], timeout_secs: float) -> socket.socket:
    """A connection to the hub, which may start later than this process."""
    end = time.monotonic() + timeout_secs
    while True:
        try:
            connection = socket.create_connection(address, timeout=5)
        except OSError as error:
            if time.monotonic() > end:
                where = "{}:{}".format(*address)
                raise StartAgain(
                    f"process 0 does not answer at {where} ({error.strerror or error}): see that it runs, and that "
                    "this host can reach it"
                ) from error
            time.sleep(0.2)
        else:
            connection.settimeout(None)
            return connection
