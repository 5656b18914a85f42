"""The table of expected verdicts: one file of data for tests, documentation and benchmark.

`expected.toml` says, row by row, what is asked and what must come out. `run` asks, `complaints`
compares. Where a row of the claims turned out wrong, its `note` says what is right.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dmaproof.counterexamples.refusals import Refused, settle
from dmaproof.counterexamples.trace import Trace
from dmaproof.counterexamples.verdict import ANY, Judge, Result, Verdict
from dmaproof.engine.assumptions import ASSUMPTIONS, Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.driver import Driver
from dmaproof.engine.prover import LazyProver
from dmaproof.engine.theorems import NotProved, Prover, Theorem
from dmaproof.model.design import Design, load
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.machines import machine, names
from dmaproof.model.vfio.build import Model
from dmaproof.properties.arguments import (
    ArgumentVerdict,
    decides,
    ignores,
    version_is_ignored,
)
from dmaproof.properties.base import Premise, Property
from dmaproof.properties.errno import ARGUMENT_REFUSALS, REFUSALS
from dmaproof.properties.registry import find
from dmaproof.properties.routing import RoutingVerdict, prefix_is_ignored

SCHEMA: Final = "dmaproof/expected/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expected(_Strict):
    """What every check says of its answers.

    Attributes:
        result: what each answer must be.
        scope: and its scope ("": any).
    """

    result: Literal["proved", "refuted"]
    scope: Literal["", "any", "machine"] = ""


class VerdictCheck(Expected):
    """Asks the judge: each design, changed by each change, on each machine, for each property.

    Attributes:
        changes: names of changes; without any, the designs are taken as they are.
        machines: built-in machines, or "any".
        meeting: ask all built-in machines that meet this premise.
        search: ask for a run alone; no proof is tried.
        channels: the leak channels of every trace must be these.
        literals: assumption literals that every verdict must rest on.
        premise: the premise of every proof.
        steps: actions that every trace must take, in this order.
        never_bound: for the guilty function of a trace nothing was ever bound.
    """

    by: Literal["verdict"] = "verdict"
    designs: Annotated[tuple[str, ...], Field(min_length=1)]
    changes: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    meeting: Premise | None = None
    grouping: Literal["linux", "v3", "components"] = "linux"
    assume: dict[str, str] = {}
    properties: Annotated[tuple[str, ...], Field(min_length=1)]
    search: bool = False
    channels: tuple[str, ...] | None = None
    literals: dict[str, str] = {}
    premise: Premise | None = None
    steps: tuple[str, ...] = ()
    never_bound: bool = False

    @model_validator(mode="after")
    def _sound(self) -> VerdictCheck:
        if bool(self.machines) == (self.meeting is not None):
            raise ValueError("name either machines or a premise that they meet")
        for prop in self.properties:
            find(prop)
        for name in self.machines:
            if name != ANY:
                machine(name)
        Assumptions.of(self.assume)
        unknown = set(self.literals) - set(ASSUMPTIONS)
        if unknown:
            raise ValueError(f"no assumption is called {min(unknown)}")
        if self.search and self.result == "proved":
            raise ValueError("a search alone proves nothing")
        return self


class ArgumentCheck(Expected):
    """Asks what fields of a bind call decide.

    Attributes:
        ignored: fields of which "no outcome depends on it" is asked.
        deciding: fields of which "it decides an outcome" is asked.
    """

    by: Literal["arguments"]
    ignored: tuple[str, ...] = ()
    deciding: tuple[str, ...] = ()


class RoutingCheck(Expected):
    """Asks whether a router's decisions depend on the PASID prefix, on all built-in machines."""

    by: Literal["routing"]
    router: Literal["address", "prefix"]


class ErrnoCheck(Expected):
    """Asks which errno a call returns."""

    by: Literal["errno"]
    designs: Annotated[tuple[str, ...], Field(min_length=1)]
    refusals: Annotated[tuple[str, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _known(self) -> ErrnoCheck:
        unknown = set(self.refusals) - REFUSALS.keys() - ARGUMENT_REFUSALS.keys()
        if unknown:
            raise ValueError(f"no refusal is called {min(unknown)}")
        return self


Check = Annotated[VerdictCheck | ArgumentCheck | RoutingCheck | ErrnoCheck,
                  Field(discriminator="by")]


class Row(_Strict):
    """One row of the table.

    Attributes:
        id: its number in the issue and in docs/verdicts.md.
        claims: names of the claims it settles.
        says: the claim in one sentence.
        note: what is to be known, above all where the row as first written was wrong.
        check: the questions, in order.
    """

    id: Annotated[int, Field(ge=1)]
    claims: Annotated[tuple[str, ...], Field(min_length=1)]
    says: Annotated[str, Field(min_length=1)]
    note: str = ""
    check: Annotated[tuple[Check, ...], Field(min_length=1)]


class Table(_Strict):
    """The whole file.

    Attributes:
        change: name -> what to replace in a design, section by section.
    """

    schema_: Annotated[Literal["dmaproof/expected/1"], Field(alias="schema")] = SCHEMA
    change: dict[str, dict[str, dict[str, Any]]] = {}
    row: tuple[Row, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        ids = [r.id for r in self.row]
        if ids != sorted(set(ids)):
            raise ValueError("rows are numbered in order, each once")
        for row in self.row:
            for check in row.check:
                unknown = set(getattr(check, "changes", ())) - set(self.change)
                if unknown:
                    raise ValueError(f"row {row.id}: no change is called {min(unknown)}")
                for name in getattr(check, "designs", ()):
                    load(name)
        return self


@cache
def table() -> Table:
    """Return the table of the package."""
    return parse(resources.files(__package__).joinpath("expected.toml").read_text("utf-8"))


def parse(text: str) -> Table:
    """Read a table.

    Raises:
        InputError: not TOML, or not a table.
    """
    try:
        data = tomllib.loads(text)
        for row in data.get("row", ()):
            for check in row.get("check", ()):
                check.setdefault("by", "verdict")
        return Table.model_validate(data)
    except (tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"not a table of verdicts: {error}", "expected.toml", "", "") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(first["msg"], f"expected.toml: {key}", "an edited table",
                         "compare with the rows around it") from None


def rows() -> tuple[Row, ...]:
    """Return the rows of the table, in order."""
    return table().row


def changed(design: Design, change: str) -> Design:
    """Return a design with a named change of the table, its name telling so.

    Raises:
        KeyError: there is no such change.
    """
    data = design.model_dump(by_alias=True, mode="json")
    for section, values in table().change[change].items():
        data[section] = {**data[section], **values}
    data["name"] = f"{design.name}+{change}"
    return Design.model_validate(data)


# -- asking ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """One answer.

    Attributes:
        subject: what was asked, as ``design / machine / property``.
        answer: the answer as the engines gave it.
        trace: its replayed run, if there is one.
    """

    subject: str
    result: Result
    scope: str
    reason: str
    answer: Verdict | ArgumentVerdict | RoutingVerdict | Refused
    trace: Trace | None = None


class _SearchOnly(Prover):
    """Proves nothing: for questions that a run settles."""

    def known(self, prop: Property, premise: Premise) -> Theorem | None:
        return None

    def prove(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        return NotProved(f"{prop.id} under {premise} was not asked for a proof", gave_up=True)


@dataclass
class Asker:
    """Asks the judges, and keeps theorems and searches of a design for its next question.

    Attributes:
        driver: makes the engines of a design.
    """

    driver: Callable[[Model, Prover], Driver] = Driver
    _drivers: dict[tuple[Design, bool, bool], Driver] = field(default_factory=dict)

    def judge(
        self, design: Design, assumptions: Assumptions, grouping: str, *, search: bool = False
    ) -> Judge:
        """Return a judge that shares the engines of its design."""
        judge = Judge(design, assumptions, grouping)
        key = (design, judge.model.scheme.hot_add, search)
        if key not in self._drivers:
            prover = _SearchOnly(judge.model) if search else LazyProver(judge.model)
            self._drivers[key] = self.driver(judge.model, prover)
        judge.driver = self._drivers[key]
        return judge

    def answers(self, check: Check) -> Iterator[Found]:
        """Answer one check."""
        match check:
            case VerdictCheck():
                yield from self._verdicts(check)
            case ArgumentCheck():
                yield from _arguments(check)
            case RoutingCheck():
                verdict = prefix_is_ignored(check.router, map(machine, names()))
                yield Found(f"{check.router} router", verdict.result, "machine", verdict.reason,
                            verdict)
            case ErrnoCheck():
                for name in check.designs:
                    for refusal in check.refusals:
                        settled = settle(refusal, load(name))
                        found = settled.verdict
                        yield Found(f"{name} / {refusal}", found.result, found.scope,
                                    found.reason, settled)

    def _verdicts(self, check: VerdictCheck) -> Iterator[Found]:
        assumptions = Assumptions.of(check.assume)
        properties = [find(p) for p in check.properties]
        for design in designs_of(check):
            judge = self.judge(design, assumptions, check.grouping, search=check.search)
            chosen = machines_of(check, judge.model, assumptions)
            machines = [None if n == ANY else machine(n) for n in chosen]
            for verdict in judge.judge(machines, properties):
                subject = f"{verdict.design} / {verdict.machine} / {verdict.property}"
                yield Found(subject, verdict.result, verdict.scope, verdict.reason, verdict,
                            verdict.evidence)


def designs_of(check: VerdictCheck) -> list[Design]:
    """Return the designs of a check, changed where it says so."""
    plain = [load(n) for n in check.designs]
    return [changed(d, c) for d in plain for c in check.changes] if check.changes else plain


def machines_of(check: VerdictCheck, model: Model, assumptions: Assumptions) -> tuple[str, ...]:
    """Return the names of the machines of a check."""
    if check.meeting is None:
        return check.machines
    ats = model.design.fabric.ats
    return tuple(
        n for n in names()
        if Case(machine(n), check.grouping, assumptions, ats=ats).breaks(check.meeting, model)
        is None
    )


def _arguments(check: ArgumentCheck) -> Iterator[Found]:
    answers = [version_is_ignored() if n == "version" else ignores(n) for n in check.ignored]
    for verdict in [*answers, *(decides(n) for n in check.deciding)]:
        reason = verdict.finding or verdict.reason
        yield Found(verdict.claim, verdict.result, "any", reason, verdict)


def run(row: Row, asker: Asker | None = None) -> list[list[Found]]:
    """Answer all checks of a row, in order."""
    mine = asker or Asker()
    return [list(mine.answers(c)) for c in row.check]


# -- comparing -------------------------------------------------------------------------------


def complaints(check: Check, found: Found) -> list[str]:
    """Return what an answer has that the check does not expect."""
    wrong = []
    if found.result != check.result:
        wrong.append(f"is {found.result}, not {check.result}: {found.reason}")
    if check.scope not in ("", found.scope):
        wrong.append(f"has scope {found.scope}, not {check.scope}")
    if isinstance(check, VerdictCheck):
        assert isinstance(found.answer, Verdict)
        wrong += _verdict_complaints(check, found.answer)
    return [f"{found.subject} {w}" for w in wrong]


def _verdict_complaints(check: VerdictCheck, verdict: Verdict) -> list[str]:
    wrong = []
    if check.premise is not None and verdict.premise != check.premise.value:
        wrong.append(f"rests on premise {verdict.premise or 'none'}, not {check.premise.value}")
    wrong += [
        f"does not rest on {name}={value}" for name, value in check.literals.items()
        if verdict.assumptions.get(name) != value
    ]
    trace = verdict.evidence
    if trace is None:
        if check.channels or check.steps or check.never_bound:
            wrong.append("has no trace")
        return wrong
    if check.channels is not None and tuple(trace.violation.channels) != check.channels:
        wrong.append(f"uses channels {', '.join(trace.violation.channels) or 'none'}")
    if not _in_order(check.steps, (s.action for s in trace.steps)):
        wrong.append(f"does not take {', '.join(check.steps)}")
    if check.never_bound and ever_bound(trace):
        wrong.append(f"binds something for {trace.violation.function}")
    return wrong


def _in_order(wanted: tuple[str, ...], taken: Iterator[str]) -> bool:
    return all(any(t == w for t in taken) for w in wanted)


BOUND_RELATIONS = ("grant", "table_pointer", "table_entry", "pasid_entry", "binding", "bound")


def ever_bound(trace: Trace) -> bool:
    """Whether some step of a run binds anything for the guilty function, or writes its tables."""
    guilty = {trace.violation.function, f"rid({trace.violation.function})"}
    return any(
        guilty & set(row)
        for step in trace.steps
        for rel, change in step.changed.items() if rel in BOUND_RELATIONS
        for row in change.added
    )
