"""Worker processes: every job ends, whatever the worker does, and no process is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmaproof.counterexamples.study import pool
from dmaproof.counterexamples.study.pool import Event, spread


def events(source: str, jobs: list[object], workers: int = 2, seconds: float = 30.0) -> list[Event]:
    # `eval` is what a worker can be sent without a module that both sides know.
    return list(spread(eval, (source,), [(job, seconds) for job in jobs], workers))


def values(found: list[Event], number: int, kind: str = "answer") -> list[object]:
    return [e.value for e in found if e.number == number and e.kind == kind]


def gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_every_job_is_started_answered_and_done() -> None:
    found = events("lambda job: iter([job, job * 2])", [1, 2, 3, 4, 5])
    for number in range(5):
        job = number + 1
        assert [e.kind for e in found if e.number == number] == [
            "start", "answer", "answer", "done"]
        assert values(found, number) == [job, 2 * job]


def test_no_jobs_need_no_workers() -> None:
    assert events("no such name", []) == []


def test_an_exception_costs_its_job_only() -> None:
    found = events("lambda job: iter([1 // job])", [1, 0, 1])
    assert [e.kind for e in found if e.number == 1] == ["start", "lost"]
    assert "ZeroDivisionError" in str(values(found, 1, "lost")[0])
    assert values(found, 0) == values(found, 2) == [1]


@pytest.mark.parametrize(("death", "said"), [
    ("__import__('os').abort()", "SIGABRT"),
    ("__import__('os').kill(__import__('os').getpid(), 9)", "killed"),
    ("__import__('os')._exit(3)", "died"),
])
def test_a_worker_that_dies_is_replaced(death: str, said: str) -> None:
    found = events(f"lambda job: iter([job]) if job else iter([{death}])", [1, 0, 2, 3], 1)
    assert said in str(values(found, 1, "lost")[0])
    assert [values(found, n) for n in (0, 2, 3)] == [[1], [2], [3]]


def test_a_job_that_overruns_is_cut_off_but_keeps_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.0)
    source = "lambda job: ((__import__('time').sleep(600 * i * job), i)[1] for i in (0, 1))"
    found = events(source, [1, 0], 1, 3.0)
    assert values(found, 0) == [0]
    assert "time" in str(values(found, 0, "lost")[0])
    assert values(found, 1) == [0, 1]


def test_whoever_stops_listening_leaves_no_process() -> None:
    source = "lambda job: (x() for x in (__import__('os').getpid, " \
             "lambda: __import__('time').sleep(600)))"
    stream = spread(eval, (source,), [(1, 600.0), (2, 600.0)], 2)
    pids = []
    for event in stream:
        if event.kind == "answer":
            pids.append(event.value)
        if len(pids) == 2:
            break
    stream.close()  # type: ignore[attr-defined]
    assert all(gone(pid) for pid in pids)


PARENT = """
from dmaproof.counterexamples.study.pool import spread
source = "lambda job: (x() for x in (__import__('os').getpid, {work}))"
for event in spread(eval, (source,), [(1, 600.0), (2, 600.0)], 2):
    if event.kind == "answer":
        print(event.value, flush=True)
"""
WORK = {
    "asleep": "lambda: __import__('time').sleep(600)",
    "in python": "lambda: [None for _ in iter(int, 1)]",
    "in z3": "lambda: [s.check() for z in [__import__('z3')] for s in [z.Solver()] for n in"
             " [z.BitVecs('a b', 64)] for _ in [s.add(n[0] * n[1] == 18446743979220271189,"
             " z.UGT(n[0], 1), z.UGT(n[1], 1), z.ULT(n[0], 1 << 33), z.ULT(n[1], 1 << 33))]]",
}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("work", WORK)
def test_workers_die_with_their_parent(work: str, how: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("{work}", WORK[work])], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    time.sleep(0.2)
    os.kill(parent.pid, how)
    parent.wait(20)
    parent.stdout.close()
    assert all(gone(pid) for pid in pids)
