"""Many designs on many machines, spread over worker processes, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from dmaproof.counterexamples.verdict import Judge, Verdict
from dmaproof.engine.assumptions import Assumptions
from dmaproof.model.design import Design
from dmaproof.model.pcie.topology import Machine
from dmaproof.properties.base import Property
from dmaproof.properties.registry import find


def judged(
    designs: Sequence[Design],
    machines: Sequence[Machine | None],
    properties: Sequence[Property],
    assumptions: Assumptions,
    grouping: str | None = None,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """All verdicts, by design, machine and property in the order given.

    Args:
        designs: the designs.
        machines: the machines; None stands for any machine.
        properties: the properties; those without meaning for a design are left out.
        assumptions: a value for each assumption.
        grouping: the grouping algorithm (None: the design's own).
        out: folder for traces and certificates.
        progress: is told the name of each design that is done.
    """
    jobs = [
        (d, tuple(machines), tuple(p.id for p in properties), assumptions, grouping, out)
        for d in designs
    ]
    workers = min(len(jobs), os.cpu_count() or 1)
    if workers <= 1:
        found = []
        for job in jobs:
            found.append(_job(*job))
            progress(job[0].name)
        return [v for part in found for v in part]
    return list(_spread(jobs, workers, progress))


_Job = tuple[
    Design, tuple[Machine | None, ...], tuple[str, ...], Assumptions, str | None, Path | None
]


def _spread(jobs: list[_Job], workers: int, progress: Callable[[str], None]) -> Iterator[Verdict]:
    # Forked workers would inherit z3's state; a fresh interpreter costs 0.2 s and is safe.
    results: dict[int, list[Verdict]] = {}
    # Container designs take longest: started first, they do not finish last.
    order = sorted(range(len(jobs)), key=lambda i: jobs[i][0].interface.object != "container")
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending = {pool.submit(_job, *jobs[i]): i for i in order}
        for done in as_completed(pending):
            number = pending[done]
            results[number] = done.result()
            progress(jobs[number][0].name)
    for number in range(len(jobs)):
        yield from results[number]


def _job(
    design: Design,
    machines: tuple[Machine | None, ...],
    properties: tuple[str, ...],
    assumptions: Assumptions,
    grouping: str | None,
    out: Path | None,
) -> list[Verdict]:
    judge = Judge(design, assumptions, grouping or design.fabric.grouping, out)
    return list(judge.judge(machines, [find(p) for p in properties]))
