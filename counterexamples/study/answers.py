"""Answers to the questions of the study, one job at a time, in whichever process is asked.

A job is what shares engines: all claims of one design, all checks of one bind design, one lemma.
Nothing here compares with what is expected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from dmaproof.counterexamples import runs
from dmaproof.counterexamples.expected import (
    Asker,
    Found,
    complaints,
    table,
)
from dmaproof.counterexamples.study import fabric
from dmaproof.counterexamples.study.searches import CachedDriver
from dmaproof.counterexamples.verdict import Result, Verdict, against_bits, slug
from dmaproof.engine import certificate
from dmaproof.engine.cache import Cache, keep, key_of, program
from dmaproof.engine.candidates import Clause
from dmaproof.engine.known import Known
from dmaproof.engine.library import text_of
from dmaproof.engine.scenarios import Found as Decided
from dmaproof.engine.scenarios import Open, Proved, Run
from dmaproof.engine.theorems import Theorem
from dmaproof.model.errors import InputError
from dmaproof.model.scenario import Claim, ClaimKind, StudyDesign, builtin
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd import lemmas

REPLAYED = "replayed"
"""What `Answer.bits` says of a run that replays."""


@dataclass(frozen=True)
class Job:
    """What one process is asked in one go.

    Attributes:
        kind: ``scenario``, ``lemma``, ``fabric`` or ``matrix``.
        name: a design, a lemma or a theorem.
        parts: for a scenario its claims; for the matrix (row, place of the check) in turn.
    """

    kind: str
    name: str
    parts: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: what was asked: the job's kind and names; for the matrix (row, check) and subject.
        found: as the claim was asked.
        scope: ``any`` (any number of everything, any run), ``values`` (all values of the bits),
            ``shapes`` (all fabrics up to a size), ``machine`` or ``instance`` (a small world).
        reason: one sentence.
        about: names of what it is about: design, claim, machine, property, lemma, theorem.
        assumptions: literals that it rests on.
        origin: ``engines``, ``library`` or ``cache``.
        by_hand: how many clauses of the invariant were written by hand.
        trace, certificate: files, where they were written.
        wrong: what a check complains about besides the result.
        bits: of a run, if it was asked: ``replayed``, or why the bits have nothing of it.
    """

    question: tuple[Any, ...]
    found: Result
    scope: str
    reason: str
    about: dict[str, str] = field(default_factory=dict)
    assumptions: dict[str, str] = field(default_factory=dict)
    premise: str = ""
    origin: str = "engines"
    by_hand: int = 0
    seconds: float = 0.0
    trace: str | None = None
    certificate: str | None = None
    wrong: tuple[str, ...] = ()
    bits: str = ""


def undecided(question: tuple[Any, ...], reason: str) -> Answer:
    """Return the answer of an engine that gave none."""
    return Answer(question, "undecided", "", reason)


def questions(job: Job) -> list[tuple[Any, ...]]:
    """Return what a job is asked, as far as that is known before it is answered."""
    if job.kind in ("scenario", "matrix", "fabric"):
        return [(job.kind, job.name, part) for part in job.parts]
    return [(job.kind, job.name)]


@dataclass
class Answerer:
    """Answers jobs; engines of a design are kept for its next question.

    Attributes:
        cache: answers of earlier runs.
        out: folder for traces and certificates (None: nothing is written).
        seconds: time for one question.
        library: whether the package's known answers are used, too.
        bits: whether a run counts only if it replays on tables, caches and requests as well.
    """

    cache: Cache
    out: Path | None = None
    seconds: float = 60.0
    library: bool = True
    bits: bool = False
    _theorems: dict[str, tuple[Theorem, Model]] = field(default_factory=dict)

    @cached_property
    def _known(self) -> Known:
        return Known(self.cache, self.library)

    @cached_property
    def _asker(self) -> Asker:
        return Asker(lambda model, prover: CachedDriver(
            model, prover, cache=self.cache, noted=self._theorems
        ))

    def answers(self, job: Job) -> Iterator[Answer]:
        """Answer a job, question by question."""
        start = time.perf_counter()
        for answer in self._of(job):
            now = time.perf_counter()
            yield replace(answer, seconds=now - start)
            start = now

    def _of(self, job: Job) -> Iterator[Answer]:
        if job.kind == "matrix":
            yield from self._matrix(job)
            return
        if job.kind == "fabric":
            yield from self._fabric(job)
            return
        for question in questions(job):
            try:
                if job.kind == "scenario":
                    yield self._claim(question, builtin(job.name), question[2])
                elif job.kind == "lemma":
                    yield self._lemma(question, job.name)
                else:
                    yield undecided(question, f"no engine answers questions of kind {job.kind}")
            except Exception as error:
                # A verdict must never be lost, nor invented, because an engine broke.
                yield undecided(question, f"internal error: {error!r}")

    # -- scenarios --------------------------------------------------------------------------

    def _claim(self, question: tuple[Any, ...], design: StudyDesign, name: str) -> Answer:
        scenario = design.scenario
        if name not in scenario.claims:
            claims = ", ".join(scenario.claims)
            return undecided(question, f"{design.name} makes no claim {name!r}, but {claims}")
        claim = scenario.claims[name]
        about = {"design": design.name, "claim": name}
        found, origin = self._known.settle(scenario, claim, self.seconds)
        answer = self._decided(question, design, claim, found, origin)
        if claim.kind is ClaimKind.REFUSED and answer.found == "proved":
            answer = self._called(answer, design, claim)
        return replace(answer, about=about, origin=origin)

    def _decided(
        self, question: tuple[Any, ...], design: StudyDesign, claim: Claim, found: Decided,
        origin: str,
    ) -> Answer:
        can = claim.kind is ClaimKind.CAN
        match found:
            case Proved(invariant, by_hand):
                answer = Answer(
                    question, "refuted" if can else "proved", "any",
                    f"never: {claim.says}" if can else claim.says, by_hand=len(by_hand),
                )
                name = slug(f"{design.name}--{claim.id}")
                whole = (design.model_dump_json(by_alias=True), claim.id)
                return self._file(answer, "certificate", f"certificates/{name}", lambda path: (
                    self._certified(whole, invariant, path, lambda: certificate.write_claim(
                        design, claim, invariant, path
                    ))
                ))
            case Run():
                return self._shown(question, design, claim, found, origin)
            case Open(reason, exhausted):
                clean = "; the small worlds have no run" if exhausted else ""
                return undecided(question, f"{reason}{clean}")

    def _shown(
        self, question: tuple[Any, ...], design: StudyDesign, claim: Claim, run: Run, origin: str
    ) -> Answer:
        can = claim.kind is ClaimKind.CAN
        trace = runs.confirm(design, claim, run, "happens" if can else "violated",
                             minimal=origin != "engines")
        if isinstance(trace, runs.Rejected):
            return undecided(question, trace.reason)
        answer = Answer(question, "proved" if can else "refuted", "instance", trace.end.says)
        return self._run(answer, trace, design, claim)

    def _called(self, answer: Answer, design: StudyDesign, claim: Claim) -> Answer:
        """A proof about calls counts only if such a call can be made."""
        assert claim.when is not None
        run = self._known.reach(design.scenario, claim.when, self.seconds)
        if run is None:
            return undecided(answer.question, "no run to a call as the claim describes was found")
        trace = runs.confirm(design, claim, run, "refused", minimal=True)
        if isinstance(trace, runs.Rejected):
            return undecided(answer.question, trace.reason)
        return self._run(replace(answer, reason=trace.end.says), trace, design, claim)

    def _run(
        self, answer: Answer, trace: runs.RunTrace, design: StudyDesign, claim: Claim
    ) -> Answer:
        if self.bits:
            answer = _on_bits(answer, trace)
        if answer.found == "undecided":
            return answer
        name = slug(f"{design.name}--{claim.id}")
        return self._file(answer, "trace", f"traces/{name}.json",
                          lambda path: runs.write(trace, path))

    def _certified(
        self, name: tuple[str, ...], clauses: Sequence[Clause], folder: Path,
        write: Callable[[], object],
    ) -> None:
        """Write a certificate, unless an earlier run wrote this very one and it is still there."""
        key = key_of([
            "certificate", program("model", "properties", "engine"), str(folder.resolve()), *name,
            *map(text_of, clauses),
        ])
        kept = self.cache.get(key)
        if not kept or kept != certificate.sizes(folder):
            write()
            self.cache.put(key, certificate.sizes(folder))

    def _file(
        self, answer: Answer, kind: str, name: str, write: Callable[[Path], object]
    ) -> Answer:
        """The answer with a file of it; one that cannot be written costs no verdict."""
        if self.out is None:
            return answer
        path = self.out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except (OSError, InputError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            return replace(answer, reason=f"{answer.reason} (its {kind} was not written: {reason})")
        return replace(answer, trace=str(path)) if kind == "trace" else replace(
            answer, certificate=str(path)
        )

    # -- lemmas -----------------------------------------------------------------------------

    def _lemma(self, question: tuple[Any, ...], name: str) -> Answer:
        lemma = lemmas.LEMMAS[name]
        about = {"lemma": name, "source": lemma.source}
        key = key_of(["lemma", name, program("model", "engine")])
        kept, origin = self.cache.get(key), "cache"
        verdict = _kept_lemma(lemma, kept)
        if verdict is None:
            origin = "engines"
            verdict = lemmas.decide(lemma, int(self.seconds * 1000))
            if verdict.result != "undecided":
                self.cache.put(key, vars(verdict) | {"values": dict(verdict.values)})
        values = ", ".join(f"{n} = {v:#x}" for n, v in verdict.values.items())
        match verdict.result:
            case "proved":
                answer = Answer(question, "proved", "values", lemma.says, about, origin=origin)
                script = verdict.script.encode()
                return self._file(answer, "certificate", f"lemmas/{slug(name)}.smt2",
                                  lambda path: keep(path, script))
            case "refuted":
                return Answer(question, "refuted", "values", f"not so for {values}", about,
                              origin=origin)
        return replace(undecided(question, verdict.reason), about=about)

    # -- all fabrics up to a size -----------------------------------------------------------

    def _fabric(self, job: Job) -> Iterator[Answer]:
        for name, shapes in fabric.decided(job.parts, self.cache, self.seconds):
            question = (job.kind, job.name, name)
            about = {"theorem": name}
            if shapes.result not in ("proved", "refuted"):
                yield replace(undecided(question, shapes.reason), about=about)
                continue
            answer = Answer(question, shapes.result, "shapes", shapes.reason, about,
                            shapes.assumptions, origin=shapes.origin)
            text = shapes.machine.encode()
            yield self._file(answer, "trace", f"machines/{slug(name)}.json",
                             partial(keep, data=text)) if text else answer

    # -- bind designs on machines -----------------------------------------------------------

    def _matrix(self, job: Job) -> Iterator[Answer]:
        for part in job.parts:
            question = (job.kind, job.name, part)
            try:
                row, place = part
                check = next(r for r in table().row if r.id == row).check[place]
                designs = getattr(check, "designs", ())
                if job.name in designs:
                    check = check.model_copy(update={"designs": (job.name,)})
                for found in self._asker.answers(check):
                    yield self._verdict(question, check, found)
            except Exception as error:
                yield undecided(question, f"internal error: {error!r}")

    def _verdict(self, question: tuple[Any, ...], check: Any, found: Found) -> Answer:  # noqa: ANN401
        # The result itself is compared by the study; here what the check expects besides.
        wrong = tuple(complaints(check.model_copy(update={"result": found.result}), found))
        answer = Answer(
            question, found.result, found.scope, found.reason, {"subject": found.subject},
            wrong=wrong,
        )
        verdict = found.answer
        if not isinstance(verdict, Verdict):
            return answer
        answer = replace(
            answer,
            about={"design": verdict.design, "machine": verdict.machine,
                   "property": verdict.property},
            assumptions=verdict.assumptions, premise=verdict.premise,
        )
        if verdict.theorem:
            theorem, model = self._theorems[verdict.theorem]
            whole = (model.design.model_dump_json(by_alias=True), theorem.name)
            return self._file(
                answer, "certificate", f"certificates/{slug(theorem.name)}",
                lambda path: self._certified(whole, theorem.invariant, path, lambda: (
                    certificate.write(theorem, model, path)
                )),
            )
        if found.trace is None:
            return answer
        if self.bits:
            reason = against_bits(found.trace)
            if reason:
                return undecided(question, reason)
            answer = replace(answer, bits=REPLAYED)
        text = found.trace.dump().encode()
        literals = "".join(f"--{n}={v}" for n, v in check.assume.items())
        name = slug(f"{found.subject.replace(' / ', '--')}{literals}")
        return self._file(answer, "trace", f"traces/{name}.json", lambda path: keep(path, text))


def _on_bits(answer: Answer, trace: runs.RunTrace) -> Answer:
    """The answer of a run that was replayed on the bits; undecided if it does not replay there."""
    from dmaproof.counterexamples.bits.scenarios.replay import replay_run

    done = replay_run(trace)
    if done.result == "undecided":
        return undecided(answer.question, done.reason)
    return replace(answer, bits=done.word)


def _kept_lemma(lemma: lemmas.Lemma, kept: Any) -> lemmas.LemmaVerdict | None:  # noqa: ANN401
    """What the cache says of a lemma, if numbers that refute it do so again."""
    try:
        verdict = lemmas.LemmaVerdict(**kept) if kept is not None else None
        if verdict is not None and verdict.result == "refuted":
            return verdict if lemmas.evaluate(lemma, verdict.values) == (True, False) else None
    except (TypeError, ValueError, KeyError):
        return None
    return verdict
