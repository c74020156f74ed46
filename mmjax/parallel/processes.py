"""Several processes as one run: where the environment says that they are, and how they start and end together.

A launcher starts the same command once for each process, with MMJAX_COORDINATOR=HOST:PORT (where process 0 can be
reached; the next port is used too), MMJAX_NUM_PROCESSES and MMJAX_PROCESS_ID; or with MMJAX_COORDINATOR=auto where JAX
can find out, as in SLURM and on TPU. MMJAX_HOSTS, names separated by commas, is for messages.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax._src.clusters import ClusterEnv  # no public name gives a cluster's addresses without starting
from jax.experimental import multihost_utils

from mmjax.errors import Preempted, StartAgain, UserError
from mmjax.parallel.activity import Activity
from mmjax.parallel.hub import Hub, ProcessesConfig
from mmjax.parallel.peers import Peers, Say

COORDINATOR, NUM_PROCESSES, PROCESS_ID = "MMJAX_COORDINATOR", "MMJAX_NUM_PROCESSES", "MMJAX_PROCESS_ID"
HOSTS = "MMJAX_HOSTS"
DETECTION_SECS = 60
LAST_PORT = 65535


class Place(NamedTuple):
    """Where a process stands among those of its run."""

    host: str
    """Of process 0."""
    port: int
    """Of the hub; JAX's own service has the next one."""
    num_processes: int
    process: int
    hosts: tuple[str, ...]
    local_device_ids: tuple[int, ...] | None = None
    """Which GPUs of its host are its own, where it shares them with other processes."""


class Company(Protocol):
    """The other processes, as a run needs them."""

    def agree(self, name: str, values: Mapping[str, Any]) -> None:
        """Returns once every process has said the same `values`.

        Raises:
            UserError: they differ.
        """
        ...


class Alone:
    """The company of a run of one process."""

    def agree(self, name: str, values: Mapping[str, Any]) -> None:
        del name, values


def place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Where the environment says that this process stands; None for the only one.

    Raises:
        UserError: a variable is missing or is not what it should be.
    """
    address = environment.get(COORDINATOR)
    if not address:
        return None
    if address == "auto":
        return _detected(environment)
    host, colon, port = address.rpartition(":")
    numbers = [environment.get(name, "") for name in (NUM_PROCESSES, PROCESS_ID)]
    if not colon or not port.isdigit() or not all(number.isdigit() for number in numbers):
        raise UserError(
            f"{COORDINATOR}={address!r}, {NUM_PROCESSES}={numbers[0]!r}, {PROCESS_ID}={numbers[1]!r}: give HOST:PORT "
            "and two numbers, as launch/local.sh does, or auto"
        )
    num_processes, process = map(int, numbers)
    if process >= num_processes:
        raise UserError(f"{PROCESS_ID}={process} of {NUM_PROCESSES}={num_processes}: count from 0")
    return Place(host, int(port), num_processes, process, _hosts(environment))


@contextlib.contextmanager
def joined(config: ProcessesConfig, said: Mapping[str, Any], activity: Activity, say: Say) -> Iterator[Company]:
    """Starts with all processes of the run, and ends with them. To be entered before JAX is asked for devices.

    What is `said` has to be the same on all.

    When this process fails, the others are told why, and end; it has to exit by `os._exit`, as `command_line.run` does.

    Raises:
        UserError: the environment is wrong, or other processes say otherwise.
        StartAgain: not all processes came in time.
    """
    here = place()
    if here is None or here.num_processes == 1:
        yield Alone()
        return
    peers = _meet(here, config, activity, say)
    try:
        # Before JAX has started: a process that ends afterwards takes the others down without a word.
        peers.agree("start", said)
        _start_jax(here, config)
        yield peers
    except Preempted:
        _end_together(peers)
        raise
    except BaseException as error:
        _leave(peers, error)
        raise
    _end_together(peers)


def gathered(numbers: Iterable[int]) -> list[int]:
    """The numbers of all processes, below 2^64, in their order; all of them have to call it."""
    own = np.array(sorted(numbers), np.uint64)
    if jax.process_count() == 1:
        return own.tolist()
    length = int(np.max(multihost_utils.process_allgather(np.int32(len(own)))))
    # JAX has no integers of 64 bits by default; -1 in both halves is none.
    padded = np.full((length, 2), np.uint32(2**32 - 1))
    padded[: len(own)] = own.view(np.uint32).reshape(-1, 2)
    rows = np.ascontiguousarray(multihost_utils.process_allgather(padded).reshape(-1, 2))
    return np.unique(rows[(rows != 2**32 - 1).any(axis=1)].copy().view(np.uint64)).tolist()


def _meet(here: Place, config: ProcessesConfig, activity: Activity, say: Say) -> Peers:
    if here.process == 0:
        try:
            Hub(here.port, here.num_processes, config, here.hosts).start()
        except OSError as error:
            raise UserError(
                f"port {here.port} cannot be listened on ({error.strerror}): give {COORDINATOR} another"
            ) from error
    return Peers.meet((here.host, here.port), here.process, here.num_processes, config, activity, say)


def _start_jax(here: Place, config: ProcessesConfig) -> None:
    jax.distributed.initialize(
        f"{here.host}:{here.port + 1}",
        here.num_processes,
        here.process,
        here.local_device_ids,
        initialization_timeout=int(config.start_secs),
        # The hub notices sooner, and says more.
        heartbeat_timeout_seconds=int(max(100, 4 * config.silence_secs)),
        cluster_detection_method="deactivate",
    )


def _end_together(peers: Peers) -> None:
    """Waits until all have come to the end."""
    jax.distributed.shutdown()
    peers.leave()


def _leave(peers: Peers, error: BaseException) -> None:
    """Tells the others why this process ends; what is no error for users may be another process's fault."""
    if isinstance(error, UserError):
        peers.leave(2, f"error: {error}")
        return
    if isinstance(error, Exception) and not isinstance(error, StartAgain):
        peers.wait_for_verdict()
    reason = str(error) if isinstance(error, StartAgain) else f"{type(error).__name__}: {error}"
    peers.leave(1, reason[:300])


def _detected(environment: Mapping[str, str]) -> Place:
    """What JAX finds in the environment of a cluster."""
    address, num_processes, process, device_ids = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 60
    )
    if address is None or num_processes is None or process is None:
        raise UserError(
            f"{COORDINATOR}=auto, but this is neither a SLURM step nor a TPU host: set {COORDINATOR}=HOST:PORT, "
            f"{NUM_PROCESSES} and {PROCESS_ID}"
        )
    host, _, number = address.rpartition(":")
    # JAX takes a port near the last one there is, and ours is followed by another.
    port = min(int(number), LAST_PORT - 1)
    return Place(host, port, num_processes, process, _hosts(environment), tuple(device_ids) if device_ids else None)


def _hosts(environment: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(filter(None, environment.get(HOSTS, "").split(",")))
