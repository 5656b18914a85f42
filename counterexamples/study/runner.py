"""The whole study: rows into jobs, jobs to worker processes, answers beside what was expected."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from dmaproof.counterexamples.study.answers import (
    Answer,
    Answerer,
    Job,
    questions,
    undecided,
)
from dmaproof.counterexamples.study.memo import Memo
from dmaproof.counterexamples.study.pool import Event, Work, spread
from dmaproof.counterexamples.study.table import (
    FabricRow,
    LemmaRow,
    MatrixRow,
    ScenarioRow,
    Table,
    rank,
)
from dmaproof.engine.cache import Cache, sweep

SCHEMA: Final = "dmaproof/study/1"


@dataclass(frozen=True)
class Verdict:
    """One answer under one row, beside what was expected.

    Attributes:
        row, part: which row.
        kind: of the row: ``scenario``, ``lemma``, ``fabric`` or ``matrix``.
        says: the row's sentence.
        number: the row of the table of expected verdicts (0: of none).
    """

    row: str
    part: str
    kind: str
    says: str
    expected: str
    answer: Answer
    number: int = 0

    @property
    def as_expected(self) -> bool:
        """Whether the answer is the one expected, in every respect that the row names."""
        return self.answer.found == self.expected and not self.answer.wrong

    def data(self) -> dict[str, Any]:
        """The verdict as JSON data."""
        answer = self.answer
        return {
            "row": self.row, "part": self.part, "kind": self.kind, "says": self.says,
            "expected": self.expected, "found": answer.found, "as_expected": self.as_expected,
            "scope": answer.scope, "seconds": round(answer.seconds, 3),
            "assumptions": answer.assumptions, "premise": answer.premise,
            "about": answer.about, "reason": answer.reason, "wrong": list(answer.wrong),
            "origin": answer.origin, "by_hand": answer.by_hand,
            "trace": answer.trace, "certificate": answer.certificate,
            **({"slice": self.number} if self.number else {}),
            **({"bits": answer.bits} if answer.bits else {}),
        }


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """1 if something came out otherwise than expected, else 3 if something is undecided, else 0."""
    if any(not v.as_expected and v.answer.found != "undecided" for v in verdicts):
        return 1
    return 3 if any(v.answer.found == "undecided" for v in verdicts) else 0


# -- jobs -----------------------------------------------------------------------------------


def jobs_of(table: Table) -> list[Job]:
    """What has to be asked, each question once, the longest jobs first."""
    claims: dict[str, dict[str, None]] = {}
    others: dict[tuple[str, str], None] = {}
    theorems: dict[str, None] = {}
    checks: dict[str, dict[tuple[int, int], None]] = {}
    for row in table.rows:
        match row:
            case ScenarioRow():
                claims.setdefault(row.design, {})[row.claim] = None
            case LemmaRow():
                others["lemma", row.lemma] = None
            case FabricRow():
                theorems[row.theorem] = None
    for entry in table.matrix:
        for name in getattr(entry.asked, "designs", None) or ("",):
            checks.setdefault(name, {})[entry.number, entry.check] = None
    # Theorems over shapes share the rules of each shape: two jobs, for two processors.
    halves = [names for start in (0, 1) if (names := tuple(theorems)[start::2])]
    return [
        *(Job("fabric", "shapes", names) for names in halves),
        *(Job(kind, name) for kind, name in others),
        *(Job("matrix", name, tuple(parts)) for name, parts in checks.items()),
        *(Job("scenario", name, tuple(parts)) for name, parts in claims.items()),
    ]


@dataclass(frozen=True)
class Settings:
    """How the study is run.

    Attributes:
        cache: folder of kept answers (None: nothing is kept).
        out: folder for traces and certificates (None: nothing is written).
        seconds: time for one question.
        workers: processes (0: one a processor).
        library: whether the package's known answers are used.
        bits: whether a run counts only if it replays on the bits as well.
    """

    cache: Path | None = None
    out: Path | None = None
    seconds: float = 60.0
    workers: int = 0
    library: bool = True
    bits: bool = False


def answerer(settings: Settings) -> Work:
    """Return what answers jobs in a worker."""
    found = Answerer(Cache(settings.cache), settings.out, settings.seconds, settings.library,
                     settings.bits)
    return found.answers


def memo(settings: Settings) -> Memo:
    """Return the whole answers of earlier runs with the same settings."""
    out = "" if settings.out is None else str(settings.out.resolve())
    return Memo(Cache(settings.cache), (out, f"{settings.library}", f"{settings.bits}"))


@dataclass
class Progress:
    """How far the study is; told after each event.

    Attributes:
        total: jobs.
        done: jobs that are done.
        answers: answers so far.
        running: names of the jobs under way.
    """

    total: int
    done: int = 0
    answers: int = 0
    running: list[str] = field(default_factory=list)


def study(
    table: Table, settings: Settings, progress: Callable[[Progress], None] = lambda _: None,
) -> list[Verdict]:
    """Answer every row, in the order of the rows.

    Args:
        table: the rows.
        settings: how.
        progress: told after each event.
    """
    Cache(settings.cache).tidy()
    if settings.out is not None:
        sweep(settings.out, "*/.draft-*")
    kept = memo(settings)
    known: dict[tuple[Any, ...], list[Answer]] = {}
    every = jobs_of(table)
    jobs = [left for job in every if (left := _recalled(job, kept, known)) is not None]
    state = Progress(len(every), len(every) - len(jobs), sum(map(len, known.values())))
    for event in _events(jobs, settings):
        job = jobs[event.number]
        match event.kind:
            case "start":
                state.running.append(job.name or job.kind)
            case "answer":
                known.setdefault(event.value.question, []).append(event.value)
                state.answers += 1
            case _:
                state.running.remove(job.name or job.kind)
                state.done += 1
                if event.kind == "lost":
                    _lost(known, job, str(event.value))
                for question in questions(job):
                    kept.put(question, known.get(question, []))
        progress(state)
    return list(_verdicts(table, known))


def _recalled(
    job: Job, kept: Memo, known: dict[tuple[Any, ...], list[Answer]]
) -> Job | None:
    """Note what earlier runs answered; returns what is left of a job, None if nothing is."""
    open_parts = []
    for question in questions(job):
        answers = kept.get(question)
        if answers is None:
            open_parts.append(question[-1])
        else:
            known[question] = answers
    if not open_parts:
        return None
    return replace(job, parts=tuple(open_parts)) if job.parts else job


def _events(jobs: Sequence[Job], settings: Settings) -> Iterator[Event]:
    budgets = [(job, settings.seconds * max(1, len(questions(job)))) for job in jobs]
    return spread(answerer, (settings,), budgets, settings.workers or os.cpu_count() or 1)


def _lost(known: dict[tuple[Any, ...], list[Answer]], job: Job, reason: str) -> None:
    """Whatever a job was asked and has not answered is undecided."""
    for question in questions(job):
        if question not in known:
            known[question] = [undecided(question, reason)]
        elif job.kind == "matrix":  # a check has several answers: some may be missing
            known[question].append(undecided(question, reason))


# -- verdicts -------------------------------------------------------------------------------


def _verdicts(table: Table, known: dict[tuple[Any, ...], list[Answer]]) -> Iterator[Verdict]:
    found: list[Verdict] = []
    for row in table.rows:
        question = _question(row)
        for answer in known.get(question, [undecided(question, "it was not answered")]):
            found.append(Verdict(row.id, row.part, row.kind, row.says, row.expected, answer))
    for entry in table.matrix:
        for identifier in entry.ids:
            found += _of_check(entry, identifier, known)
    yield from sorted(_named(found), key=lambda v: rank(v.row))


def _question(row: ScenarioRow | LemmaRow | FabricRow) -> tuple[Any, ...]:
    match row:
        case ScenarioRow():
            return ("scenario", row.design, row.claim)
        case LemmaRow():
            return ("lemma", row.lemma)
        case FabricRow():
            return ("fabric", "shapes", row.theorem)


def _of_check(
    entry: MatrixRow, identifier: str, known: dict[tuple[Any, ...], list[Answer]]
) -> Iterator[Verdict]:
    check = entry.asked
    for name in getattr(check, "designs", None) or ("",):
        question = ("matrix", name, (entry.number, entry.check))
        for answer in known.get(question, [undecided(question, "it was not answered")]):
            asked = answer.about.get("property") or answer.about.get("subject") or "unanswered"
            part = asked.split(" / ")[-1].replace("-", " ")
            yield Verdict(identifier, part, "matrix", entry.says, check.result, answer,
                          entry.number)


def _named(verdicts: Sequence[Verdict]) -> Iterator[Verdict]:
    """Give the answers of a row that would bear one name longer ones."""
    names: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        names[verdict.row, verdict.part] = names.get((verdict.row, verdict.part), 0) + 1
    seen: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        part = verdict.part
        if names[verdict.row, part] > 1:
            part = _longer(verdict)
            number = seen[verdict.row, part] = seen.get((verdict.row, part), 0) + 1
            if number > 1:  # the same under other assumptions
                part += f" ({number})"
        yield Verdict(verdict.row, part, verdict.kind, verdict.says, verdict.expected,
                      verdict.answer, verdict.number)


def _longer(verdict: Verdict) -> str:
    about = verdict.answer.about
    if "machine" in about:
        return f"{verdict.part}, {about['design']} on {about['machine']}"
    design = about.get("subject", "").partition(" / ")[0]
    return f"{verdict.part}, {design}" if design else verdict.part
