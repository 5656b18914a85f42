"""Verdicts: what is said of a design, a machine and a property, and what it rests on.

Only this module says "refuted", and only with a trace that replayed; "proved" comes with a theorem
whose premise the machine meets, or for a `can` property with a replayed run.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dmaproof.counterexamples.confirm import Refused, confirm
from dmaproof.counterexamples.group_leak import GroupLeak, group_leak
from dmaproof.counterexamples.trace import Trace
from dmaproof.engine.assumptions import ASSUMPTIONS, Assumptions
from dmaproof.engine.case import Case
from dmaproof.engine.driver import Driver
from dmaproof.engine.finding import Candidate, Proof, Unknown
from dmaproof.engine.hidden import case_of
from dmaproof.engine.theorems import Theorem
from dmaproof.model.design import Design
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.machines import machine as builtin_machine
from dmaproof.model.pcie.machines import names as builtin_names
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.vfio.build import build
from dmaproof.properties.base import Premise, Property, PropertyKind
from dmaproof.properties.registry import applicable

SCHEMA = "dmaproof/verdicts/1"
ANY = "any"

Result = Literal["proved", "refuted", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one triple.

    Attributes:
        result: answers the claim as asked: a `can` property is proved by a run.
        scope: "any" (any number of everything, any run), "machine" or "depth k".
        theorem, premise: what a proof rests on ("" without one).
        assumptions: literals that the verdict rests on.
        vacuous: the design refuses every bind on that machine.
        reason: one sentence.
        trace, certificate: files, where they were written.
        evidence: the trace itself (not part of the JSON).
        group_leak: a way from one group of the machine to another, where its groups leak.
    """

    design: str
    machine: str
    property: str
    kind: str
    result: Result
    scope: str
    grouping: str
    theorem: str
    premise: str
    assumptions: dict[str, str]
    vacuous: bool
    reason: str
    trace: str | None = None
    certificate: str | None = None
    seconds: float = 0.0
    evidence: Trace | None = field(default=None, repr=False)
    group_leak: GroupLeak | None = None

    def data(self, *, reproducible: bool) -> dict[str, Any]:
        """The verdict as JSON data."""
        found = {k: v for k, v in vars(self).items() if k != "evidence"}
        found["group_leak"] = self.group_leak.data() if self.group_leak else None
        if reproducible:
            del found["seconds"]
        else:
            found["seconds"] = round(self.seconds, 3)
        return found


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """1 if anything is refuted, else 3 if anything is undecided, else 0."""
    results = {v.result for v in verdicts}
    if "refuted" in results:
        return 1
    return 3 if "undecided" in results else 0


def against_bits(trace: Trace) -> str:
    """Return why a trace does not replay on tables, registers and requests; "" if it does."""
    from dmaproof.counterexamples.bits.replay import FAILED, replay_on_bits

    try:
        return replay_on_bits(trace).reason
    except InputError as error:  # there is no room for it
        return f"{FAILED}: {error.what}"


@dataclass
class Judge:
    """Judges one design on many machines.

    Attributes:
        out: folder for traces and certificates (None: nothing is written).
        bits: a run counts only if it replays on tables, registers and requests as well.
    """

    design: Design
    assumptions: Assumptions
    grouping: str
    out: Path | None = None
    bits: bool = False
    _written: dict[str, str] = field(default_factory=dict)
    _machine: Machine | None = None
    _cases: dict[Assumptions, Case] = field(default_factory=dict)
    _leaks: tuple[Machine, GroupLeak | None] | None = None

    def __post_init__(self) -> None:
        hot = not self.assumptions.effective("static_fabric")
        self.model = build(self.design, hot)
        self.driver = Driver.of(self.model)

    def properties(self, wanted: Sequence[Property]) -> list[Property]:
        """Those of *wanted* that have a meaning for the design."""
        return [p for p in wanted if not applicable(p, self.model)]

    def judge(self, machines: Iterable[Machine | None], wanted: Sequence[Property]) -> Iterator[
        Verdict
    ]:
        """Yield a verdict for every machine (None: any machine) and property."""
        for machine in machines:
            for prop in self.properties(wanted):
                start = time.perf_counter()
                try:
                    found = self._any(prop) if machine is None else self._on(prop, machine)
                    if machine is not None:
                        found = replace(found, group_leak=self._leak(machine))
                except InputError:
                    raise
                except Exception as e:
                    # A verdict must never be lost, nor invented, because an engine broke.
                    name = ANY if machine is None else machine.name
                    found = self._undecided(prop, name, f"internal error: {e!r}", None)
                yield replace(found, seconds=time.perf_counter() - start)

    # -- one machine ------------------------------------------------------------------------

    def _case(self, machine: Machine, assumptions: Assumptions | None = None) -> Case:
        """The machine under assumptions; kept until another machine's turn comes."""
        wanted = assumptions or self.assumptions
        if self._machine is not machine:
            self._machine, self._cases = machine, {}
        if wanted not in self._cases:
            known = next(iter(self._cases.values()), None)
            self._cases[wanted] = case_of(
                machine, self.grouping, wanted, ats=self.design.fabric.ats, like=known
            )
        return self._cases[wanted]

    def _leak(self, machine: Machine) -> GroupLeak | None:
        """How the machine's groups leak; asked once a machine."""
        if self._leaks is None or self._leaks[0] is not machine:
            self._leaks = (machine, group_leak(self._case(machine)))
        return self._leaks[1]

    def _on(self, prop: Property, machine: Machine) -> Verdict:
        case = self._case(machine)
        if self.assumptions.value("closed_grouping") == "on":
            broken = case.breaks(Premise.CLOSED_GROUPING, self.model)
            if broken is not None and case.unsure:
                return self._undecided(prop, machine.name, case.unsure, None)
            if broken is not None:
                names = " acts as ".join(case.name(f) for f in broken)
                return self._undecided(
                    prop, machine.name, "the machine contradicts the assumption closed_grouping=on:"
                    f" {names}, and their groups differ", None
                )
        finding = self.driver.decide(prop, case)
        if isinstance(finding, Proof):
            return self._proved(prop, case, finding)
        if isinstance(finding, Candidate):
            return self._settled(prop, case, finding)
        return self._undecided(prop, machine.name, case.unsure or finding.reason, finding.depth,
                               vacuous=self.driver.vacuous(case))

    def _proved(self, prop: Property, case: Case, proof: Proof) -> Verdict:
        never = prop.kind is PropertyKind.CAN
        vacuous = self.driver.vacuous(case)
        reason = prop.violated if never else prop.says
        if vacuous:
            reason = "The design refuses every bind on this machine."
        return Verdict(
            self.design.name, case.machine.name, prop.id, prop.kind.value,
            "refuted" if never else "proved", "any", self.grouping, proof.theorem.name,
            proof.premise.value, self._needed(proof.premise, case), vacuous, reason,
            certificate=self._certificate(proof.theorem),
        )

    def _needed(self, premise: Premise, case: Case) -> dict[str, str]:
        """Assumptions without which the machine would not meet the premise."""
        fixed = self.assumptions.restrictive()
        if premise is Premise.NONE:
            names = [n for n in fixed if n == "static_fabric"] if self._dynamic() else []
            return self.assumptions.literals(names)
        needed = []
        for name in fixed:
            if name in ("static_fabric", "closed_grouping"):
                continue
            weaker = self._case(case.machine, self.assumptions.permitting(name))
            if weaker.breaks(premise, self.model) is not None:
                needed.append(name)
        if self._dynamic() and self.assumptions.effective("static_fabric"):
            needed.append("static_fabric")
        return self.assumptions.literals(needed)

    def _dynamic(self) -> bool:
        """Whether the design's guards count functions, so that a hot-added one matters."""
        guards = self.design.guards
        return guards.singleton or guards.singleton_container

    def _settled(self, prop: Property, case: Case, candidate: Candidate) -> Verdict:
        trace = confirm(candidate, prop, self.model, case)
        reason = ""
        if isinstance(trace, Refused):
            reason = trace.reason
        elif self.bits:
            reason = against_bits(trace)
        if isinstance(trace, Refused) or reason:
            return self._undecided(prop, case.machine.name, reason, len(candidate.steps))
        witnessed = prop.kind is PropertyKind.CAN
        return Verdict(
            self.design.name, case.machine.name, prop.id, prop.kind.value,
            "proved" if witnessed else "refuted", "machine", self.grouping, "", "",
            dict(trace.assumptions), False, trace.violation.says,
            trace=self._trace(trace), evidence=trace,
        )

    def _undecided(
        self, prop: Property, machine: str, reason: str, depth: int | None, *, vacuous: bool = False
    ) -> Verdict:
        scope = "machine" if depth is None else f"depth {depth}"
        return Verdict(self.design.name, machine, prop.id, prop.kind.value, "undecided", scope,
                       self.grouping, "", "", {}, vacuous, reason)

    # -- any machine ------------------------------------------------------------------------

    def _any(self, prop: Property) -> Verdict:
        """Prove without a premise (or under the one assumed), or refute on a built-in machine."""
        closed = self.assumptions.value("closed_grouping") == "on"
        allowed = [p for p in prop.premises
                   if p is Premise.NONE or (closed and p is Premise.CLOSED_GROUPING)]
        for premise in allowed:
            found = self.driver.theorem(prop, premise)
            if isinstance(found, Theorem):
                return self._proved_anywhere(prop, found, premise)
        reasons = []
        for name in builtin_names():
            case = self._case(builtin_machine(name))
            if closed and case.breaks(Premise.CLOSED_GROUPING, self.model) is not None:
                continue
            finding = self.driver.decide(prop, case)
            if isinstance(finding, Candidate):
                verdict = self._settled(prop, case, finding)
                if verdict.result != "undecided":
                    return replace(verdict, machine=ANY,
                                   reason=f"On machine {name}: {verdict.reason}")
                reasons.append(verdict.reason)
            elif isinstance(finding, Unknown):
                reasons.append(finding.reason)
        reason = reasons[0] if reasons else "no built-in machine refutes it, and no theorem holds" \
            " without a premise about the machine"
        return self._undecided(prop, ANY, reason, None)

    def _proved_anywhere(self, prop: Property, theorem: Theorem, premise: Premise) -> Verdict:
        never = prop.kind is PropertyKind.CAN
        names = ["closed_grouping"] if premise is Premise.CLOSED_GROUPING else []
        if self._dynamic() and self.assumptions.effective("static_fabric"):
            names.append("static_fabric")
        values = {n: "on" for n in ASSUMPTIONS if n in names}
        return Verdict(
            self.design.name, ANY, prop.id, prop.kind.value, "refuted" if never else "proved",
            "any", self.grouping, theorem.name, premise.value, values, False,
            prop.violated if never else prop.says, certificate=self._certificate(theorem),
        )

    # -- files ------------------------------------------------------------------------------

    def _certificate(self, theorem: Theorem) -> str | None:
        if self.out is None:
            return None
        if theorem.name not in self._written:
            from dmaproof.engine.certificate import write

            folder = self.out / "certificates" / slug(theorem.name)
            write(theorem, self.model, folder)
            self._written[theorem.name] = str(folder)
        return self._written[theorem.name]

    def _trace(self, trace: Trace) -> str | None:
        if self.out is None:
            return None
        folder = self.out / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.design.name}--{trace.machine}--{trace.property}"
        path = folder / f"{slug(name)}.json"
        path.write_text(trace.dump(), "utf-8")
        return str(path)


def slug(name: str) -> str:
    """A name as part of a file name; different long names stay different."""
    plain = re.sub(r"[^A-Za-z0-9.+-]+", "_", name)
    if len(plain) <= 120:
        return plain
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
