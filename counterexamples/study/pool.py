"""Worker processes: jobs out, answers back one by one, nobody left behind.

A worker is a fresh interpreter. It takes one job at a time over a socket and sends each answer as
it is found, so a job that is cut off loses only what was not yet answered. A worker that outlives
its time for a job, or dies of it, is replaced, and the job counts as undecided.

Nothing survives the parent: the workers' standard input is a pipe whose other end the parent alone
holds, and a thread in each worker ends the process when that pipe closes, however the parent died.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

import dmaproof.model as lowest_room

GRACE_SECONDS: Final = 15.0
"""How much longer than its own budget a job may take before its worker is killed."""


@dataclass(frozen=True)
class Event:
    """What happened to a job.

    Attributes:
        number: of the job.
        kind: ``start``, ``answer``, ``done`` or ``lost``.
        value: the answer, or why the rest of the job was lost.
    """

    number: int
    kind: str
    value: Any = None


Work = Callable[[Any], Iterator[Any]]
"""What a worker does: from a job to its answers. Made in the worker, of a picklable function."""


class _Worker:
    """One process."""

    def __init__(self, make: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], env=_environment(),
            )
        self.connection = Connection(ours.detach())
        self.connection.send((make, arguments))
        self.number: int | None = None
        self.deadline = float("inf")

    def give(self, number: int, job: Any, seconds: float) -> None:  # noqa: ANN401
        """Send a job."""
        self.number, self.deadline = number, time.monotonic() + seconds
        with suppress(OSError):  # a dead worker is noticed by its silence
            self.connection.send(job)

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


def _environment() -> dict[str, str]:
    """The parent's environment, in which workers find the very same package."""
    found = dict(os.environ)
    # Not resolved: in a clone the rooms are links, and the package is where the links are.
    home = str(Path(lowest_room.__file__).absolute().parents[2])
    found["PYTHONPATH"] = os.pathsep.join(p for p in (home, found.get("PYTHONPATH", "")) if p)
    return found


class Team:
    """Workers that start at once, so that they are ready when the jobs are; see `spread`."""

    def __init__(
        self, make: Callable[..., Work], arguments: tuple[Any, ...], workers: int
    ) -> None:
        """Start the workers.

        Args:
            make: called with *arguments* in each worker; returns what does a job.
            arguments: picklable.
            workers: how many processes.
        """
        self._make, self._arguments, self._size = make, arguments, max(1, workers)
        self._members: list[_Worker] = []
        try:
            for _ in range(self._size):
                self._members.append(_Worker(make, arguments))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Team:
        """Return the team."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all workers."""
        self.close()

    def close(self) -> None:
        """End all workers."""
        while self._members:
            self._members.pop().close()

    def spread(self, jobs: Sequence[tuple[Any, float]]) -> Iterator[Event]:
        """Do jobs; yields events as they come.

        Args:
            jobs: each with its budget of time in seconds.
        """
        left = list(enumerate(jobs))
        try:
            while left or any(w.number is not None for w in self._members):
                while left and len(self._members) < min(self._size, len(left)):
                    self._members.append(_Worker(self._make, self._arguments))
                for worker in self._members:
                    if worker.number is None and left:
                        number, (job, seconds) = left.pop(0)
                        worker.give(number, job, seconds + GRACE_SECONDS)
                        yield Event(number, "start")
                for worker in list(self._members):
                    if worker.number is None and not left:
                        self._members.remove(worker)
                        worker.close()
                yield from _listen(self._members)
        finally:
            self.close()


def spread(
    make: Callable[..., Work],
    arguments: tuple[Any, ...],
    jobs: Sequence[tuple[Any, float]],
    workers: int,
) -> Iterator[Event]:
    """Do jobs in worker processes; yields events as they come.

    Args:
        make: called with *arguments* in each worker; returns what does a job.
        arguments: picklable.
        jobs: each with its budget of time in seconds.
        workers: how many processes.
    """
    if jobs:
        yield from Team(make, arguments, min(workers, len(jobs))).spread(jobs)


def _listen(team: list[_Worker]) -> Iterator[Event]:
    """Wait until something happens, and tell it; workers that died or overran are dropped."""
    busy = [w for w in team if w.number is not None]
    if not busy:
        return
    pause = max(0.0, min(w.deadline for w in busy) - time.monotonic())
    ready = wait([w.connection for w in busy], min(pause, 1.0))
    for worker in busy:
        assert worker.number is not None
        if worker.connection in ready:
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                team.remove(worker)
                worker.close()
                yield Event(worker.number, "lost", _death(worker.process.returncode))
                continue
            yield Event(worker.number, kind, value)
            if kind != "answer":
                worker.number, worker.deadline = None, float("inf")
        elif time.monotonic() > worker.deadline:
            team.remove(worker)
            worker.close()
            yield Event(worker.number, "lost", "the time is used up")


def _death(code: int | None) -> str:
    if code is not None and code < 0 and code != -signal.SIGKILL:
        with suppress(ValueError):
            return f"the engine's process died of {signal.Signals(-code).name}"
    return "the engine's process died (out of memory, or killed)"


# -- in the worker --------------------------------------------------------------------------


def _end_with_parent() -> None:
    """End this process when standard input closes: the parent holds its other end."""
    with suppress(OSError):
        os.read(0, 1)
    os._exit(1)


def serve(handle: int) -> None:
    """Take jobs from a socket until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(handle)
    try:
        make, arguments = connection.recv()
        work = make(*arguments)
        while True:
            job = connection.recv()
            try:
                for answer in work(job):
                    connection.send(("answer", answer))
            except Exception as error:
                connection.send(("lost", f"internal error: {error!r}"))
            else:
                connection.send(("done", None))
    except (EOFError, OSError):
        os._exit(0)  # nobody listens any more


if __name__ == "__main__":
    serve(int(sys.argv[1]))
