"""What an evaluation reads decides it (z3).

A write to memory that no read of a request is about changes nothing for the request. In bits: let
two evaluations of one request be given values read by read, the same ones wherever a read of the
first takes place. Then the same reads take place in both, at the same addresses, and the outcomes
agree (`locality`, one formula for each format).

For two memories that differ in one quadword which no read of the first evaluation is about, the
values are the same: the first read is at the same address in both, hence gives the same value; so
is the second; and so on. (The formula holds of every beginning of the reads, since no address
depends on later ones.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dmaproof.model.algebra import SymbolicMemory, Term, Truth, Word, cond_z3, word_z3
from dmaproof.model.vtd.obligations import Obligation, TracingCarrier
from dmaproof.model.vtd.obligations_tables import same_outcome
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import evaluate


class _Given(SymbolicMemory):
    """A memory whose n-th read gives the n-th of given values, whatever its address is."""

    def __init__(self, value: Callable[[int], Any]) -> None:
        super().__init__()
        self._value = value
        self._count = 0

    def word(self, address: Word) -> Term:
        """Return the next value."""
        self._count += 1
        return Term(self._value(self._count - 1))


def locality(registers: Registers, kind: Kind, *, tagged: bool) -> Obligation:
    """Claim that an evaluation depends on the values it reads, and on nothing else in memory.

    Args:
        registers: state of the unit.
        kind: of the request, which is of any requester, at any address.
        tagged: the request carries a PASID (any).
    """
    import z3

    def word(name: str, bits: int) -> Word:
        return Term(z3.ZeroExt(64 - bits, z3.BitVec(name, bits)))

    def flag(name: str, *, of_pasid: bool = False) -> Truth | bool:
        return Truth(z3.Bool(name)) if tagged or not of_pasid else False

    untranslated = kind is Kind.UNTRANSLATED
    request = Request(
        word("sid", 16), Term(z3.BitVec("address", 64)), kind is not Kind.TRANSLATION
        and flag("write"), word("pasid", 20) if tagged else 0, tagged, kind,
        atomic=untranslated and flag("atomic"), zero_length=untranslated and flag("zero_length"),
        execute=flag("execute", of_pasid=True), privileged=flag("privileged", of_pasid=True),
        no_write=kind is Kind.TRANSLATION and flag("no_write"),
    )

    def given(value: Callable[[int], Any]) -> tuple[Any, TracingCarrier]:
        carrier = TracingCarrier(_Given(value))
        return evaluate(carrier, registers, request), carrier

    before, first = given(lambda n: z3.BitVec(f"value.{n}", 64))
    after, second = given(lambda n: z3.If(
        first.reads[n].runs, z3.BitVec(f"value.{n}", 64), z3.BitVec(f"other.{n}", 64)
    ))
    claims = []
    for read, again in zip(first.reads, second.reads, strict=True):
        there = word_z3(read.address) == word_z3(again.address)
        claims += [read.runs == again.runs, z3.Implies(read.runs, there)]
    claims += [same_outcome(before, after),
               cond_z3(before.recorded) == cond_z3(after.recorded)]
    for flags, others in zip(first.updates, second.updates, strict=True):
        same = [word_z3(x) == word_z3(y) for x, y in zip(flags[1:], others[1:], strict=True)]
        claims += [cond_z3(flags[0]) == cond_z3(others[0]),
                   z3.Implies(cond_z3(flags[0]), z3.And(same))]
    return Obligation(
        f"locality, {registers.mode.value}, {kind.value}", [], z3.And(claims),
        SymbolicMemory().array, {"sid": request.sid, "address": request.address}, logic="QF_BV",
    )
