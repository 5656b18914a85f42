"""Many designs on many machines, spread over worker processes, in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from dmaproof.counterexamples.expected import Asker, complaints, rows, run
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
    *,
    bits: bool = False,
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
        bits: a run counts only if it replays on tables, registers and requests as well.
    """
    jobs = [
        (d, tuple(machines), tuple(p.id for p in properties), assumptions, grouping, out, bits)
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
    Design, tuple[Machine | None, ...], tuple[str, ...], Assumptions, str | None, Path | None, bool
]


def _spread(jobs: list[_Job], workers: int, progress: Callable[[str], None]) -> Iterator[Verdict]:
    # Container designs take longest: started first, they do not finish last.
    order = sorted(range(len(jobs)), key=lambda i: jobs[i][0].interface.object != "container")
    results: dict[int, list[Verdict]] = {}
    # Forked workers would inherit z3's state; a fresh interpreter costs 0.2 s and is safe.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pending = {pool.submit(_job, *jobs[i]): i for i in order}
        for done in as_completed(pending):
            number = pending[done]
            results[number] = done.result()
            progress(jobs[number][0].name)
    for number in range(len(jobs)):
        yield from results[number]


@dataclass(frozen=True)
class Claim:
    """One row of the table of expected verdicts, asked again.

    Attributes:
        verdicts: how many answers the row has.
        wrong: what came out otherwise than expected; empty when all is as expected.
    """

    row: int
    names: tuple[str, ...]
    says: str
    verdicts: int
    wrong: tuple[str, ...]


def claims(progress: Callable[[str], None] = lambda _: None) -> list[Claim]:
    """Ask every row of the table of expected verdicts again, by row."""
    numbers = [r.id for r in rows()]
    workers = os.cpu_count() or 1
    found = []
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        # Neighbouring rows often ask about one design, whose engines are then shared.
        parts = [tuple(numbers[i :: 2 * workers]) for i in range(2 * workers)]
        for done in as_completed([pool.submit(_claims, part) for part in parts]):
            found += done.result()
            progress("claims")
    return sorted(found, key=lambda c: c.row)


def _claims(numbers: tuple[int, ...]) -> list[Claim]:
    asker = Asker()
    found = []
    for row in rows():
        if row.id in numbers:
            answers = run(row, asker)
            wrong = [c for check, part in zip(row.check, answers, strict=True)
                     for answer in part for c in complaints(check, answer)]
            found.append(Claim(row.id, row.claims, row.says, sum(map(len, answers)), tuple(wrong)))
    return found


def _job(
    design: Design,
    machines: tuple[Machine | None, ...],
    properties: tuple[str, ...],
    assumptions: Assumptions,
    grouping: str | None,
    out: Path | None,
    bits: bool,
) -> list[Verdict]:
    judge = Judge(design, assumptions, grouping or design.fabric.grouping, out, bits)
    return list(judge.judge(machines, [find(p) for p in properties]))
