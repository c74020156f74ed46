"""Who does the parts of a preparation: processes of this machine, or the machines that Apache Beam finds."""

import itertools
import shlex
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import loky
from rich.console import Console
from rich.progress import track

from mmjax.data.optional import imported
from mmjax.errors import UserError

Job = tuple[Any, ...]


class Runner(Protocol):
    def __call__(self, work: Callable[..., None], jobs: Sequence[Job], what: str) -> None:
        """Calls `work(*job)` for every job, in any order, and is done when all are; `what` is what people are told.

        A job may be done twice, where its machine was lost. What one raises ends it.
        """
        ...


def processes(number: int) -> Runner:
    """So many of this machine."""

    def run(work: Callable[..., None], jobs: Sequence[Job], what: str) -> None:
        if number > 1 and len(jobs) > 1:
            # The same processes for every step: each of them imports for seconds.
            done = loky.get_reusable_executor(number).map(work, *zip(*jobs, strict=True))
        else:
            done = itertools.starmap(work, jobs)
        console = Console(stderr=True)
        for _ in track(done, what, len(jobs), console=console, disable=not console.is_terminal):
            pass

    return run


def beam(command: str) -> Runner:
    """A runner of Apache Beam, and its options: "DataflowRunner --project=p --region=r", "DirectRunner".

    Raises:
        UserError: Beam is not installed, or knows no such runner.
    """
    (apache_beam,) = imported("--beam", "requirements-beam.txt", "apache_beam")
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import create_runner

    try:
        name, *options = shlex.split(command) or [""]
        create_runner(name)
        asked = PipelineOptions([f"--runner={name}", *options])
        unknown = set(asked.get_all_options(retain_unknown_options=True)) - set(asked.get_all_options())
    except (ValueError, ImportError, AttributeError, TypeError, SystemExit) as error:
        raise UserError(f"--beam {command.strip()!r} is no runner with its options: {error}") from error
    if unknown:
        raise UserError(f"--beam: Beam has no option {' and '.join(f'--{option}' for option in sorted(unknown))}")

    def run(work: Callable[..., None], jobs: Sequence[Job], what: str) -> None:
        Console(stderr=True).print(f"{what}: {len(jobs):,} parts by {name}", highlight=False)
        try:
            with apache_beam.Pipeline(options=asked) as pipeline:
                # Reshuffled, as a runner may else give all that one step makes to one machine.
                spread = pipeline | apache_beam.Create(jobs) | apache_beam.Reshuffle()
                _ = spread | what >> apache_beam.MapTuple(work)
        except UserError:
            raise
        except Exception as error:  # Each runner has errors of its own.
            raise UserError(f"{name} gave up {what} ({error}): run the same command again, and it goes on") from error

    return run
