"""Confinement of a guest that writes its own tables (z3).

Whatever a guest writes into pages its container owns, requests end, first-stage tables are read and
flags are written only in such pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dmaproof.model.algebra import Cond, Term, Word, cond_z3, word_z3
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import second_stage
from dmaproof.model.vtd.obligations import NamedMemory, Obligation, Read, TracingCarrier
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import evaluate
from dmaproof.model.vtd.walks import SECOND


class GuestMemory(NamedMemory):
    """Memory whose pages *owned* by the guest hold anything, and all others what the host wrote."""

    def __init__(self, ram: int = 1 << 52) -> None:
        """Make an arbitrary host memory and an arbitrary guest content."""
        import z3

        super().__init__(ram=ram, name="host")
        word = z3.BitVecSort(64)
        self.guest = z3.Array("guest", word, word)
        self.owned = z3.Function("owned", word, z3.BoolSort())
        self.writable = z3.Function("writable", word, z3.BoolSort())
        self.table = z3.Function("table", word, word, z3.BoolSort())  # second stage: frame, level

    def content(self, where: Any) -> Any:  # noqa: ANN401
        """Return what hardware reads at a z3 address after the guest has written."""
        import z3

        return z3.If(self.owned(z3.LShR(where, 12)), self.guest[where], self.array[where])

    def second_stage_facts(self, registers: Registers, reads: Iterable[Read]) -> list[Any]:
        """Return what the host guarantees, at the second-stage entries that are read.

        Tables point to tables of the next level or map owned pages, and grant write only on pages
        the guest may write.
        """
        import z3

        facts = []
        for read in reads:
            if read.stage != SECOND:
                continue
            where = word_z3(read.address)
            entry, frame = Term(self.array[where]), z3.LShR(where, 12)
            bits = 3 + 9 * read.level
            leaf: Cond = read.level == 1
            if second_stage.maps_large(registers, read.level):
                leaf = (entry & 1 << 7) != 0
            offset = read.covered & ((1 << bits) - 1)
            page = (entry & (registers.address & ~((1 << bits) - 1))) | offset
            target = z3.LShR(word_z3(page), 12)
            below = z3.LShR(word_z3(entry & registers.address), 12)
            is_leaf = cond_z3(leaf)
            present = cond_z3((entry & 3) != 0)
            grants = z3.Implies(cond_z3((entry & 2) != 0), self.writable(target))
            facts.append(z3.Implies(
                z3.And(self.table(frame, read.level), present),
                z3.If(is_leaf, z3.And(self.owned(target), grants),
                      self.table(below, read.level - 1)),
            ))
        return facts

    def disjoint(self, reads: Iterable[Read]) -> list[Any]:
        """Return that no second-stage table is in a page of the guest, at the frames read."""
        import z3

        facts = []
        for read in reads:
            frame = z3.LShR(word_z3(read.address), 12)
            if read.stage == SECOND:
                facts.append(z3.Not(z3.And(self.table(frame, read.level), self.owned(frame))))
            elif read.fault not in (f.SFS_1, f.X_PT_ACCESS):  # root, context and directory entries
                facts.append(z3.Not(self.owned(frame)))
        return facts


def confinement(
    registers: Registers, request: Request, top: int, host: dict[int, int], *,
    disjoint: bool = True,
) -> Obligation:
    """Claim that no access, table read or flag update of a guest leaves its container.

    Args:
        registers: state of the unit.
        request: request with PASID at an arbitrary address.
        top: top table of the container's second stage.
        host: quadwords the host wrote (root, context and, in scalable mode, PASID tables).
        disjoint: second-stage tables are not in guest pages (off: to show that it is needed).
    """
    import z3

    memory = GuestMemory()
    carrier = TracingCarrier(memory)
    outcome = evaluate(carrier, registers, request)
    facts = [memory.array[address] == value for address, value in host.items()]
    facts.append(memory.table(top >> 12, registers.levels[-1]))
    facts += [z3.Not(memory.owned(z3.BitVecVal(address >> 12, 64))) for address in host]
    facts += memory.named.values()
    facts += memory.second_stage_facts(registers, carrier.reads)
    if disjoint:
        facts += memory.disjoint(carrier.reads)
    landed = word_z3(outcome.fault) == 0
    page = z3.LShR(word_z3(outcome.hpa), 12)
    writes = cond_z3(request.write)
    if request.kind is Kind.TRANSLATION:  # the device is told an address and rights, maybe none
        writes = cond_z3(outcome.writable)
        landed = z3.And(landed, z3.Or(cond_z3(outcome.readable), writes))
    claims = [z3.Implies(landed, memory.owned(page)),
              z3.Implies(z3.And(landed, writes), memory.writable(page))]
    steps = []
    for read in carrier.reads:
        frame = z3.LShR(word_z3(read.address), 12)
        if read.fault in (f.SFS_1, f.X_PT_ACCESS):
            steps.append(z3.Implies(read.runs, memory.owned(frame)))
            claims.append(steps[-1])
        elif read.stage == SECOND:
            steps.append(z3.Implies(read.runs, memory.table(frame, read.level)))
    for runs, address, _ in carrier.updates:
        frame = z3.LShR(word_z3(address), 12)
        tables = [memory.table(frame, level) for level in range(1, 6)]
        claims.append(z3.Implies(cond_z3(runs), z3.Or(memory.owned(frame), *tables)))
    content = z3.Lambda(
        [index := z3.BitVec("index", 64)],
        z3.If(memory.owned(z3.LShR(index, 12)), memory.guest[index], memory.array[index]),
    )
    words: dict[str, Word] = {"address": request.address, "write": request.write,
                              "privileged": request.privileged}
    touched = [outcome.hpa, *(r.address for r in carrier.reads)]
    touched += [address for _, address, _ in carrier.updates]
    return Obligation(
        "confinement", facts, z3.And(claims), content, words, carrier.reads,
        [z3.LShR(word_z3(address), 12) for address in touched],
        {"owned": memory.owned, "writable": memory.writable}, [*steps, *claims],
    )
