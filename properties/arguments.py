"""What the arguments of a bind call decide: claim C11 of the thread, for all values of all fields.

Jean-Philippe Brucker, 7 June 2018: `bytes` of `struct pasid_table_config` is redundant with
`argsz`. Here that means: no outcome depends on `bytes`, and one does on `argsz`. That nothing
depends on `version` either is a finding about the patch: the header asks for version 1.

An *outcome* is what the caller can tell: the errno, and on success the quadword written to the
context entry. z3 reads the very rules that answer concrete calls (`model.vfio.uapi`); every witness
is put to the concrete reading before it is reported.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from dmaproof.model.algebra import (
    Carrier,
    SymbolicMemory,
    Term,
    Truth,
    Word,
    cond_z3,
    word_z3,
)
from dmaproof.model.vfio.uapi import (
    BIND_RULES,
    VFIO_IOMMU_BIND_PASIDTBL,
    ArgumentRule,
    BindCall,
    Host,
    Outcome,
    ProcessBind,
    TableConfig,
    check_bind,
    context_high,
    first_refusal,
)

Expr = Any  # z3's expressions carry no useful static types
Values = Mapping[str, Any]  # a word or condition for each field
Result = Literal["proved", "refuted", "undecided"]

ARGUMENTS: Mapping[str, int] = {
    "argsz": 32, "flags": 32,
    "version": 32, "bytes": 32, "base_ptr": 64, "pasid_bits": 8,
    "process.flags": 32, "process.pasid": 32,
}
"""The fields of a bind call and their widths in bits.

Without the process payload's `pid`: which process it names, if any, is no matter of argument rules.
"""

TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Interface:
    """How a kernel treats arguments.

    Attributes:
        rules: what it refuses, in its order.
        writes: the quadword that an accepted table bind writes to the context entry.

    """

    rules: Sequence[ArgumentRule] = BIND_RULES
    writes: Callable[[TableConfig], Word] = context_high


KERNEL_2018 = Interface()
"""`VFIO_IOMMU_BIND` in front of the VT-d driver of patch v4 04/22."""


@dataclass(frozen=True)
class Answer:
    """One concrete call and what came of it.

    Attributes:
        arguments: value of each field of `ARGUMENTS`.
        outcome: what the call returned.
        written: what an accepted table bind wrote to the context entry, else None.

    """

    arguments: Mapping[str, int]
    outcome: Outcome
    written: int | None


@dataclass(frozen=True)
class Witness:
    """Concrete calls that show a claim or break it, answered by the concrete reading.

    Attributes:
        host: the values of the fields of `Host` that all calls meet.
        answers: the calls with their outcomes.

    """

    host: Mapping[str, int]
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ArgumentVerdict:
    """The answer to one claim about arguments.

    Attributes:
        claim: the claim in one sentence.
        result: `proved` and `refuted` answer the claim as stated, for all values.
        witness: the calls that prove a `can` claim or refute an `always` claim (None otherwise).
        reason: how the result came about, or why there is none.
        finding: what a reviewer of the interface should know ("" if nothing).

    """

    claim: str
    result: Result
    witness: Witness | None
    reason: str
    finding: str = ""


# -- claims ----------------------------------------------------------------------------------


def bytes_is_redundant(interface: Interface = KERNEL_2018) -> ArgumentVerdict:
    """Answer C11's first half: no outcome depends on `bytes`."""
    return ignores("bytes", interface)


def argsz_decides(interface: Interface = KERNEL_2018) -> ArgumentVerdict:
    """Answer C11's second half: two calls that differ in `argsz` alone have different outcomes."""
    return decides("argsz", interface)


def version_is_ignored(interface: Interface = KERNEL_2018) -> ArgumentVerdict:
    """Answer whether no outcome depends on `version`, and report it if so."""
    verdict = ignores("version", interface)
    if verdict.result != "proved":
        return verdict
    return replace(
        verdict,
        finding="version unchecked: a caller of a later version is served as one of version 1",
    )


def claim_c11(interface: Interface = KERNEL_2018) -> tuple[ArgumentVerdict, ...]:
    """Answer the three parts of C11: `bytes`, `argsz`, `version`."""
    return bytes_is_redundant(interface), argsz_decides(interface), version_is_ignored(interface)


def ignores(
    field: str, interface: Interface = KERNEL_2018, timeout_ms: int = TIMEOUT_MS
) -> ArgumentVerdict:
    """Decide whether calls that differ in *field* alone always have one outcome.

    Args:
        field: a key of `ARGUMENTS`.
        interface: the kernel in question.
        timeout_ms: limit of each query in milliseconds.

    Raises:
        KeyError: there is no such field.

    """
    claim = f"no outcome depends on {field}"
    accepted = _Query(interface, timeout_ms).accepts()
    if accepted != "sat":
        why = "vacuous: every table bind is refused" if accepted == "unsat" else accepted
        return ArgumentVerdict(claim, "undecided", None, why)
    answer, witness = _differing(field, interface, timeout_ms)
    if answer == "unsat":
        return ArgumentVerdict(claim, "proved", None, "z3: no two such calls differ in outcome")
    if answer == "sat":
        return ArgumentVerdict(claim, "refuted", witness, f"two calls differ in {field} alone")
    return ArgumentVerdict(claim, "undecided", None, answer)


def decides(
    field: str, interface: Interface = KERNEL_2018, timeout_ms: int = TIMEOUT_MS
) -> ArgumentVerdict:
    """Decide whether two calls that differ in *field* alone can have different outcomes.

    Args:
        field: a key of `ARGUMENTS`.
        interface: the kernel in question.
        timeout_ms: limit of each query in milliseconds.

    Raises:
        KeyError: there is no such field.

    """
    claim = f"{field} decides an outcome"
    answer, witness = _differing(field, interface, timeout_ms)
    if answer == "sat":
        return ArgumentVerdict(claim, "proved", witness, f"two calls differ in {field} alone")
    if answer == "unsat":
        return ArgumentVerdict(claim, "refuted", None, "z3: no two such calls differ in outcome")
    return ArgumentVerdict(claim, "undecided", None, answer)


def can_refuse(
    rule: str, interface: Interface = KERNEL_2018, timeout_ms: int = TIMEOUT_MS
) -> ArgumentVerdict:
    """Decide whether a rule is the first to refuse some call: a rule that never is says nothing.

    Args:
        rule: the name of a rule of *interface*.
        interface: the kernel in question.
        timeout_ms: limit of each query in milliseconds.

    Raises:
        KeyError: there is no such rule.

    """
    names = [r.name for r in interface.rules]
    if rule not in names:
        raise KeyError(f"no argument rule is called {rule}")
    claim = f"{rule} refuses some call"
    query = _Query(interface, timeout_ms)
    number, _, _ = query.outcome(query.first)
    answer, witness = query.solve(number == names.index(rule) + 1, pairs=False)
    if answer == "sat" and witness is not None:
        if witness.answers[0].outcome.guard != rule:
            return ArgumentVerdict(claim, "undecided", None, "replay-failed")
        return ArgumentVerdict(claim, "proved", witness, "a call that it refuses")
    if answer == "unsat":
        return ArgumentVerdict(claim, "refuted", None, "z3: an earlier rule refuses all its calls")
    return ArgumentVerdict(claim, "undecided", None, answer)


# -- queries ---------------------------------------------------------------------------------


def _differing(
    field: str, interface: Interface, timeout_ms: int
) -> tuple[str, Witness | None]:
    """Look for two calls that differ in *field* alone and in outcome."""
    query = _Query(interface, timeout_ms)
    second = query.varied(field)
    codes = [0, *(getattr(errno, r.errno) for r in interface.rules)]
    tells = []
    for values in (query.first, second):
        number, writes, written = query.outcome(values)
        tells.append((_lookup(codes, number), writes, written))
    import z3

    differ = [one != two for one, two in zip(*tells, strict=True)]
    answer, witness = query.solve(z3.Or(differ), pairs=True)
    if witness is not None and not _shows(witness, field):
        return "replay-failed", None
    return answer, witness


def _shows(witness: Witness, field: str) -> bool:
    """Whether two concrete calls differ in *field* alone, and in what the caller can tell."""
    one, two = witness.answers
    differing = {n for n in ARGUMENTS if one.arguments[n] != two.arguments[n]}
    return differing == {field} and (one.outcome.errno, one.written) != (
        two.outcome.errno, two.written
    )


def answer_to(
    arguments: Mapping[str, int], host: Mapping[str, int], interface: Interface = KERNEL_2018
) -> Answer:
    """Return what the concrete reading answers to a call.

    Args:
        arguments: value of each field of `ARGUMENTS`.
        host: value of each field of `Host`; conditions are 0 or 1.
        interface: the kernel in question.

    """
    call = _call(arguments)
    outcome = check_bind(call, _host(host), interface.rules)
    writes = outcome.errno is None and call.flags == VFIO_IOMMU_BIND_PASIDTBL
    return Answer(dict(arguments), outcome, interface.writes(call.config) if writes else None)


def _call(values: Values) -> BindCall:
    part = values.__getitem__
    return BindCall(
        part("argsz"), part("flags"),
        TableConfig(part("version"), part("bytes"), part("base_ptr"), part("pasid_bits")),
        ProcessBind(part("process.flags"), part("process.pasid")),
    )


def _host(values: Values) -> Host:
    conditions = {n: v for n, v in values.items() if n != "pasid_bits"}
    made = {n: bool(v) if isinstance(v, int) else v for n, v in conditions.items()}
    return Host(values["pasid_bits"], **made)


def _defaults() -> dict[str, int]:
    """Return an ordinary table bind, which witnesses depart from as little as they can."""
    call = BindCall()
    config, process = call.config, call.process
    return {
        "argsz": call.argsz, "flags": call.flags,
        "version": config.version, "bytes": config.bytes, "base_ptr": config.base_ptr,
        "pasid_bits": config.pasid_bits,
        "process.flags": process.flags, "process.pasid": process.pasid,
    }


def _lookup(table: Sequence[int], index: Expr) -> Expr:
    import z3

    chosen = z3.BitVecVal(table[0], 64)
    for number, value in enumerate(table):
        chosen = z3.If(index == number, z3.BitVecVal(value, 64), chosen)
    return chosen


class _Query:
    """Symbolic calls on a symbolic host."""

    def __init__(self, interface: Interface, timeout_ms: int) -> None:
        import z3

        self.interface = interface
        self.timeout_ms = timeout_ms
        self.variables = {n: z3.BitVec(n, w) for n, w in ARGUMENTS.items()}
        self.second: dict[str, Expr] = dict(self.variables)
        self.field = ""
        self.facts: dict[str, Expr] = {"pasid_bits": z3.BitVec("host.pasid_bits", 8)}
        for item in fields(Host):
            self.facts.setdefault(item.name, z3.Bool(f"host.{item.name}"))

    @property
    def first(self) -> Mapping[str, Expr]:
        """The fields of the first call."""
        return self.variables

    def varied(self, field: str) -> Mapping[str, Expr]:
        """Return the fields of a second call that differs in *field* at the most.

        Raises:
            KeyError: there is no such field.

        """
        import z3

        self.field = field
        self.second = {**self.variables, field: z3.BitVec(f"{field}'", ARGUMENTS[field])}
        return self.second

    def outcome(self, values: Mapping[str, Expr]) -> tuple[Expr, Expr, Expr]:
        """Return the number of the rule that refuses (0: none), whether and what is written."""
        import z3

        words = {n: Term(z3.ZeroExt(64 - x.size(), x)) for n, x in values.items()}
        call = _call(words)
        bits = self.facts["pasid_bits"]
        host = _host({
            n: Term(z3.ZeroExt(64 - bits.size(), bits)) if n == "pasid_bits" else Truth(x)
            for n, x in self.facts.items()
        })
        carrier: Carrier = SymbolicMemory().carrier()
        number = word_z3(first_refusal(carrier, call, host, self.interface.rules))
        table = cond_z3(call.flags == VFIO_IOMMU_BIND_PASIDTBL)
        written = word_z3(self.interface.writes(call.config))
        writes = z3.And(number == 0, table)
        return number, writes, z3.If(writes, written, z3.BitVecVal(0, 64))

    def accepts(self) -> str:
        """Whether some table bind succeeds: sat, unsat or why that is not known."""
        _, writes, _ = self.outcome(self.first)
        return self.solve(writes, pairs=False)[0]

    def solve(self, claim: Expr, *, pairs: bool) -> tuple[str, Witness | None]:
        """Return sat with a concrete witness, unsat, or the reason for neither."""
        import z3

        solver = z3.SolverFor("QF_BV")
        solver.set("timeout", self.timeout_ms)
        solver.add(claim)
        result = check_sat(solver)
        if result != z3.sat:
            unsat = result == z3.unsat
            return "unsat" if unsat else f"z3 answers unknown ({solver.reason_unknown()})", None
        model = self._settled(solver)
        calls = [self.variables, self.second] if pairs else [self.variables]
        host = {n: _number(model.eval(x, model_completion=True)) for n, x in self.facts.items()}
        answers = []
        for call in calls:
            values = {
                n: _number(model.eval(x, model_completion=True)) for n, x in call.items()
            }
            answers.append(answer_to(values, host, self.interface))
        return "sat", Witness(host, tuple(answers))

    def _settled(self, solver: Expr) -> Expr:
        """Return a model in which every field that may has its ordinary value."""
        import z3

        model = solver.model()
        ordinary = [self.facts[f.name] == f.default for f in fields(Host)]
        defaults = _defaults()
        ordinary += [self.variables[n] == value for n, value in defaults.items()]
        if self.field:  # the second call differs by one, if that is enough
            near = self.second[self.field]
            ordinary += [near == defaults[self.field] - 1, near == defaults[self.field] + 1]
        for pin in ordinary:
            solver.push()
            solver.add(pin)
            if solver.check() == z3.sat:
                model = solver.model()
            else:
                solver.pop()
        return model


def check_sat(solver: Expr) -> Expr:
    """Ask z3; by itself so that a test can make it give up."""
    return solver.check()


def _number(value: Expr) -> int:
    import z3

    if z3.is_bool(value):
        return int(z3.is_true(value))
    return int(value.as_long())
