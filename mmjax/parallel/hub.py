"""The hub of a run of several processes: it knows where each is and what it does, and tells all when one is lost.

It runs on a thread of process 0, and talks with all processes (with `parallel.peers` on their side) in lines of JSON.
Its own connections, not those of collectives, because these hang or die with the first process that is lost.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mmjax.config import differences
from mmjax.parallel.activity import Doing

MAX_LINE_BYTES = 2**24
"""Of one message: a whole config fits easily."""
SHOWN_DIFFERENCES = 5
LAST_SECS = 10.0
"""For all others to end after process 0 has failed."""


@dataclass(frozen=True)
class ProcessesConfig:
    """How long the processes of a run wait for each other, in seconds.

    Attributes:
      start_secs: for all to be there.
      silence_secs: without a sign of life from a process, after which it is taken for lost.
      stall_secs: without progress, after which the run ends; more than any compilation, save or evaluated batch takes.
    """

    start_secs: float = 300.0
    silence_secs: float = 60.0
    stall_secs: float = 1800.0


@dataclass
class Member:
    """A process, as the hub knows it."""

    process: int
    host: str
    writer: asyncio.StreamWriter
    heard: float = field(default_factory=time.monotonic)
    doing: Doing = Doing("start-up", 0, 0.0, 0)
    left: bool = False
    gone: bool = False

    def __str__(self) -> str:
        return f"process {self.process} ({self.host})"


class Hub:
    """Listens on `port` until every process has left. `hosts` are names for those that do not come, where known."""

    def __init__(self, port: int, num_processes: int, config: ProcessesConfig, hosts: tuple[str, ...] = ()):
        self._port, self._num_processes, self._config, self._hosts = port, num_processes, config, hosts
        self._members: dict[int, Member] = {}
        self._values: dict[str, dict[int, Any]] = {}
        self._over = False
        self._listening = threading.Event()
        self._error: OSError | None = None

    def start(self) -> None:
        """Returns once processes can connect.

        Raises:
            OSError: the port cannot be listened on.
        """
        threading.Thread(target=lambda: asyncio.run(self._serve()), name="hub", daemon=True).start()
        self._listening.wait()
        if self._error is not None:
            raise self._error

    async def _serve(self) -> None:
        try:
            server = await asyncio.start_server(self._talk, port=self._port, limit=MAX_LINE_BYTES)
        except OSError as error:
            self._error = error
            return
        finally:
            self._listening.set()
        async with server:
            await self._wait_for_all()
            while not self._over:
                await asyncio.sleep(min(1.0, self._config.silence_secs / 4))
                self._look_for_lost()
            # Process 0 ends when its connection does, and takes JAX's service along: not before the others.
            await self._wait_for_others(failed=True)
            for member in self._members.values():
                await _close(member.writer)

    async def _wait_for_all(self) -> None:
        start = time.monotonic()
        while missing := self._missing():
            waited = time.monotonic() - start
            if waited > self._config.start_secs:
                names = ", ".join(map(self._name, missing))
                self._end(f"{names} did not start within {waited:.0f} s: look at its log, then start all again", 75)
                return
            self._tell_all({"missing": [self._name(process) for process in missing], "secs": waited})
            await asyncio.sleep(0.5)
        self._tell_all({"all": True})

    def _missing(self) -> list[int]:
        return [process for process in range(self._num_processes) if process not in self._members]

    def _name(self, process: int) -> str:
        return f"process {process}" + (f" ({self._hosts[process]})" if process < len(self._hosts) else "")

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from hello to the end."""
        # It is cancelled when the hub closes before the other side does.
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            hello = await _receive(reader)
            if hello is None or not self._is_welcome(hello, writer):
                await _close(writer)
                return
            member = self._members[hello["process"]] = Member(hello["process"], hello["host"], writer)
            with contextlib.suppress(ConnectionError):
                while message := await _receive(reader):
                    member.heard = time.monotonic()
                    await self._hear(member, message)
            member.gone = True
            if not member.left and not self._over:
                self._end(f"{member} was lost; it was last doing {member.doing}", 75)

    def _is_welcome(self, hello: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        process = hello["process"]
        if hello["num_processes"] == self._num_processes and process not in self._members:
            return True
        problem = "is there twice" if process in self._members else f"was started as one of {hello['num_processes']}"
        text = f"process {process} {problem}, of {self._num_processes}: start each process once, with its own number"
        _tell(writer, {"lost": text, "status": 2})
        return False

    async def _hear(self, member: Member, message: dict[str, Any]) -> None:
        if "doing" in message:
            member.doing = Doing(*message["doing"])
            _tell(member.writer, {"doing": list(self._members[0].doing)})
        elif "agree" in message:
            self._compare(message["agree"], member.process, message["values"])
        elif "left" in message:
            await self._say_goodbye(member, message["left"], message["reason"])

    def _compare(self, name: str, process: int, values: dict[str, Any]) -> None:
        """Answers all once all have said their values: what differs from those of process 0, if anything."""
        said = self._values.setdefault(name, {})
        said[process] = values
        if len(said) == self._num_processes:
            del self._values[name]
            texts = (_difference(self._members[other], said[0], said[other]) for other in sorted(said))
            self._tell_all({"agreed": name, "difference": next(filter(None, texts), None)})

    async def _say_goodbye(self, member: Member, status: int, reason: str) -> None:
        member.left = True
        if status and not self._over:
            self._end(f"{member} ended: {reason}", 2 if status == 2 else 75)
        if member.process == 0:
            # It takes the hub with it, and JAX's service, without which the others cannot say why they end.
            await self._wait_for_others(failed=bool(status))
        self._over = self._over or member.process == 0
        _tell(member.writer, {"goodbye": True})
        for other in self._members.values():
            with contextlib.suppress(ConnectionError):
                await other.writer.drain()

    async def _wait_for_others(self, *, failed: bool) -> None:
        others = [member for member in self._members.values() if member.process != 0]
        end = time.monotonic() + (LAST_SECS if failed else self._config.silence_secs)
        while time.monotonic() < end and not all(other.gone or (other.left and not failed) for other in others):
            await asyncio.sleep(0.05)

    def _look_for_lost(self) -> None:
        now, here = time.monotonic(), [member for member in self._members.values() if not member.left]
        silent = [member for member in here if now - member.heard > self._config.silence_secs]
        if silent:
            secs = now - silent[0].heard
            self._end(f"{silent[0]} has been silent for {secs:.0f} s; it was last doing {silent[0].doing}", 75)
        elif any(member.doing.secs > self._config.stall_secs for member in here):
            self._end(_stalled(here), 75)

    def _end(self, text: str, status: int) -> None:
        if not self._over:
            self._over = True
            self._tell_all({"lost": text, "status": status})

    def _tell_all(self, message: dict[str, Any]) -> None:
        # Process 0 comes last: it may end, and the hub with it, before the next line is reached.
        for member in sorted(self._members.values(), key=lambda member: member.process == 0):
            if not member.left:
                _tell(member.writer, message)


def _stalled(members: Iterable[Member]) -> str:
    """Who holds up all others: the one that has done the least."""
    *others, last = sorted(members, key=lambda member: -member.doing.num_before)
    ahead = f", while the first is doing {others[0].doing}" if others else ""
    return f"{last} does not go on: it has been doing {last.doing} for {last.doing.secs:.0f} s{ahead}"


def _difference(member: Member, first: dict[str, Any], values: dict[str, Any]) -> str | None:
    changed = sorted(differences(first, values).items())
    if not changed:
        return None
    shown = ", ".join(
        f"{key} is {here!r} on process 0 and {there!r}" for key, (here, there) in changed[:SHOWN_DIFFERENCES]
    )
    more = f" (and {len(changed) - SHOWN_DIFFERENCES} more)" if len(changed) > SHOWN_DIFFERENCES else ""
    return f"{shown} on {member}{more}: give all processes the same command, code, libraries and data"


async def _close(writer: asyncio.StreamWriter) -> None:
    """Sends what was not sent yet, and ends a connection."""
    with contextlib.suppress(ConnectionError):
        writer.close()
        await writer.wait_closed()


async def _receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None at the end."""
    line = await reader.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _tell(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(json.dumps(message).encode() + b"\n")
