"""Processes that start, agree and end together: the hub and its peers, as threads of one process and without JAX."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import numpy as np
import pytest

from mmjax.errors import StartAgain, UserError
from mmjax.parallel import hub as hub_module
from mmjax.parallel import peers, processes
from mmjax.parallel.activity import Activity
from mmjax.parallel.hub import Hub, ProcessesConfig
from mmjax.parallel.peers import Peers
from tests.ports import free_port

LIMITS = ProcessesConfig(start_secs=20, silence_secs=20, stall_secs=20)


class Member:
    """One process: its activity, its connection, and how it was told to end."""

    def __init__(self, port: int, process: int, num_processes: int, limits: ProcessesConfig = LIMITS):
        self.activity, self.ended, self.end = Activity(), threading.Event(), ("", 0)
        self.said: list[str] = []
        self.peers = Peers.meet(
            ("127.0.0.1", port), process, num_processes, limits, self.activity, self.said.append, self._end
        )

    def _end(self, why: str, status: int) -> None:
        self.end = why, status
        self.ended.set()

    def told(self) -> tuple[str, int]:
        assert self.ended.wait(10)
        return self.end


@pytest.fixture
def meet() -> Iterator[Callable[..., list[Member]]]:
    members: list[Member] = []

    def start(num_processes: int, limits: ProcessesConfig = LIMITS) -> list[Member]:
        port = free_port()
        Hub(port, num_processes, limits).start()
        with ThreadPoolExecutor(num_processes) as pool:
            members.extend(pool.map(lambda process: Member(port, process, num_processes, limits), range(num_processes)))
        return members

    yield start
    for member in reversed(members):
        member.peers.close()


def test_processes_that_say_the_same_agree_and_leave(meet: Callable[..., list[Member]]) -> None:
    members = meet(3)
    for values in ({"config": {"seed": 1}}, {"config": {"seed": 2}}):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda member, values=values: member.peers.agree("start", values), members))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda member: member.peers.leave(), members))
    assert not any(member.ended.is_set() for member in members)


def test_a_difference_is_shown_to_all(meet: Callable[..., list[Member]]) -> None:
    members = meet(3)

    def agree(number: int) -> str:
        with pytest.raises(UserError) as caught:
            members[number].peers.agree("start", {"config": {"seed": 7 if number == 2 else 1, "name": "a"}})
        return str(caught.value)

    with ThreadPoolExecutor(3) as pool:
        messages = set(pool.map(agree, range(3)))
    assert len(messages) == 1
    message = messages.pop()
    assert message.startswith("config.seed is 1 on process 0 and 7 on process 2 (")
    assert message.endswith("give all processes the same command, code, libraries and data")


def test_a_lost_process_is_named_with_what_it_was_doing(meet: Callable[..., list[Member]]) -> None:
    members = meet(3, replace(LIMITS, silence_secs=2))
    members[2].activity.turn_to("data", 12)
    time.sleep(1.2)
    members[2].peers.close()
    for member in members[:2]:
        why, status = member.told()
        assert why.startswith("process 2 (")
        assert why.endswith("was lost; it was last doing data at step 12")
        assert status == 75


def test_a_verdict_reaches_process_0_last() -> None:
    """It takes the hub with it when it ends, perhaps before the next line is sent."""
    told: list[int] = []

    class Line:
        def __init__(self, process: int):
            self.write = lambda _: told.append(process)

    hub = Hub(0, 3, LIMITS)
    hub._members = {process: hub_module.Member(process, "host", Line(process)) for process in range(3)}  # type: ignore[arg-type]
    hub._end("process 2 was lost", 75)
    assert told == [1, 2, 0]


def test_where_all_fail_process_0_ends_after_the_others(meet: Callable[..., list[Member]]) -> None:
    """With it goes JAX's service, without which they would abort before they have said why."""
    first, second = meet(2)
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(first.peers.leave, 2, "error: other data")
        second.peers.leave(2, "error: other data")
        time.sleep(1.5)
        assert not leaving.done()
        second.peers.close()
        leaving.result(5)


def test_a_lost_hub_ends_the_others(meet: Callable[..., list[Member]]) -> None:
    members = meet(2, replace(LIMITS, silence_secs=2))
    members[0].activity.turn_to("checkpoint", 3)
    time.sleep(1.2)
    members[0].peers.close()
    why, status = members[1].told()
    assert "process 0" in why
    assert "last doing checkpoint at step 3" in why
    assert status == 75


def test_a_silent_process_is_lost(meet: Callable[..., list[Member]]) -> None:
    members = meet(2, replace(LIMITS, silence_secs=1))
    members[1].peers._ended.set()
    why, status = members[0].told()
    assert "process 1 (" in why
    assert "has been silent for 1 s; it was last doing start-up at step 0" in why
    assert status == 75


def test_the_process_that_holds_up_the_others_is_named(meet: Callable[..., list[Member]]) -> None:
    members = meet(3, replace(LIMITS, silence_secs=4, stall_secs=1.5))
    for number, member in enumerate(members):
        member.activity.turn_to("data", 5)
        if number != 1:
            member.activity.turn_to("step", 5)
    for member in members:
        why, status = member.told()
        assert why.startswith("process 1 (")
        assert "does not go on: it has been doing data at step 5 for" in why
        assert "while the first is doing step at step 5" in why
        assert status == 75


@pytest.mark.parametrize(("status", "told"), [(2, 2), (1, 75)])
def test_a_process_that_fails_says_why(status: int, told: int, meet: Callable[..., list[Member]]) -> None:
    members = meet(2)
    members[1].peers.leave(status, "error: data folder x does not exist")
    why, its_status = members[0].told()
    assert why.endswith("ended: error: data folder x does not exist")
    assert its_status == told


def test_a_process_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "SAID_EVERY_SECS", 0.0)
    port, limits = free_port(), replace(LIMITS, start_secs=1)
    Hub(port, 3, limits, ("a", "b", "c")).start()
    said: list[str] = []
    with pytest.raises(StartAgain, match=r"process 1 \(b\), process 2 \(c\) did not start within 1 s: look at its log"):
        Peers.meet(("127.0.0.1", port), 0, 3, limits, Activity(), said.append)
    assert re.fullmatch(r"waiting for process 1 \(b\), process 2 \(c\) \([01] of 1 s\)", said[0])


def test_without_a_hub_its_address_is_named() -> None:
    with pytest.raises(StartAgain, match=r"process 0 does not answer at 127.0.0.1:\d+ \(Connection refused\)"):
        Peers.meet(("127.0.0.1", free_port()), 1, 2, replace(LIMITS, start_secs=0.5), Activity())


def test_a_process_of_another_run_is_refused(meet: Callable[..., list[Member]]) -> None:
    port = free_port()
    Hub(port, 2, LIMITS).start()
    with pytest.raises(UserError, match="process 1 was started as one of 3, of 2: start each process once"):
        Peers.meet(("127.0.0.1", port), 1, 3, LIMITS, Activity())


def environment(address: str, num_processes: str = "", process: str = "", **others: str) -> dict[str, str]:
    return {"MMJAX_COORDINATOR": address, "MMJAX_NUM_PROCESSES": num_processes, "MMJAX_PROCESS_ID": process, **others}


def test_the_environment_says_where_a_process_stands() -> None:
    assert processes.place({}) is None
    place = processes.place(environment("head:12", "3", "2", MMJAX_HOSTS="a,b,c"))
    assert place == ("head", 12, 3, 2, ("a", "b", "c"), None)


@pytest.mark.parametrize(("job", "port"), [("4097", 61441), ("4095", 65534)])
def test_slurm_says_it_in_its_own_words(job: str, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of a node has the GPU of its number there; the last port is followed by none."""
    names = {"JOB_ID": job, "STEP_NODELIST": "node[003-004]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}
    for name, value in names.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert processes.place(environment("auto")) == ("node003", port, 2, 1, (), (0,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("head", "2", "0"), "give HOST:PORT and two numbers, as launch/local.sh does, or auto"),
        (("head:12", "two", "0"), "MMJAX_NUM_PROCESSES='two'"),
        (("head:12", "2", ""), "MMJAX_PROCESS_ID=''"),
        (("head:12", "2", "2"), "MMJAX_PROCESS_ID=2 of MMJAX_NUM_PROCESSES=2: count from 0"),
    ],
)
def test_a_wrong_environment(values: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processes.place(environment(*values))


def test_numbers_of_all_processes_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, others = [7, 2**40 + 3], [5, 7, 2**33, 2**32 - 1]
    assert processes.gathered(reversed(mine)) == mine

    def allgather(values: np.ndarray) -> np.ndarray:
        """What another process with other numbers would add."""
        if values.ndim == 0:
            return np.array([values, len(others)])
        theirs = np.array(others, np.uint64).view(np.uint32).reshape(-1, 2)
        return np.stack([values, theirs])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", allgather)
    assert processes.gathered(mine) == sorted({*mine, *others})


def test_seconds_of_all_kinds_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    activity = Activity()
    for kind, secs in (("data", 2.0), ("step", 3.0)):
        now[0] += 1.0
        with activity(kind, 4):
            now[0] += secs
    now[0] += 0.5
    assert activity.secs() == {"start-up": 2.5, "data": 2.0, "step": 3.0}
    assert activity.now() == ("start-up", 4, 0.5, 4)
