"""Binding a guest's PASID table in extended mode, write by write and flush by flush (z3).

* `writes`: what each write of the bind and the unbind of 2018 changes in the extended context entry
  that a requester finds, in arbitrary memory, and that no other requester reads what is written;
* `flushes`: which entries the flushes of either drop, for arbitrary entries of the caches. Those of
  the PASID cache and of the device TLB are not dropped (docs/regressions.md R1): the claim about
  them is there to be refuted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dmaproof.model.algebra import SymbolicMemory, Term, Word, cond_z3, word_z3
from dmaproof.model.vtd import extended
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.invalidation import (
    Command,
    ContextTag,
    DeviceTag,
    IotlbTag,
    PagingTag,
    PasidTag,
    drops_context,
    drops_device,
    drops_iotlb,
    drops_paging,
    drops_pasid,
)
from dmaproof.model.vtd.joint import const
from dmaproof.model.vtd.obligations import NamedMemory, Obligation, Read, trace
from dmaproof.model.vtd.programs import (
    Flush,
    Step,
    Write,
    bind_guest_table,
    unbind_guest_table,
)
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request

_PRESENT: Final = 1
_GUEST: Final = extended.PASIDE | extended.NESTE


class _Asked:
    """What a request with PASID, of any requester, meets in the root and context tables.

    Attributes:
        request: the request.
        fault: z3 word, the condition that blocks it.
        reads: table reads; *entry*: those of the context entry.
    """

    def __init__(self, memory: SymbolicMemory, registers: Registers, name: str) -> None:
        self.request = Request(
            Term(const(f"{name}.sid") & 0xFFFF), Term(const(f"{name}.address")), False,
            Term(const(f"{name}.pasid") & 0xFFFFF), True,
        )
        outcome, reads = trace(memory, registers, self.request)
        self.fault = word_z3(outcome.fault)
        self.reads = [r for r in reads if r.fault in (f.LRT_1, f.LCT_1)]
        self.entry = [r for r in reads if r.fault == f.LCT_1]

    def labels(self) -> list[Any]:
        """Return that each frame is one kind of table, and a context table of one half bus."""
        import z3

        word, facts = z3.BitVecSort(64), []
        kind, half = (z3.Function(f"label.{n}", word, word) for n in ("kind", "half"))
        for read in self.reads:
            frame = z3.LShR(word_z3(read.address), 12)
            same = [kind(frame) == read.fault]
            if read.fault == f.LCT_1:
                same.append(half(frame) == word_z3(self.request.sid >> 7))
            facts.append(z3.Implies(read.runs, z3.And(same)))
        return facts


def _steps(where: Word, old: Word, table: Word, pts: Word, *, bind: bool) -> list[Step]:
    if bind:
        return bind_guest_table(where, old, 0, 0, table, pts)
    return unbind_guest_table(where, 0, 0, table, 2)


def writes(registers: Registers, *, bind: bool) -> list[Obligation]:
    """Claim what each write changes, and of every read of others that it is not written.

    A bind turns on PASIDE and NESTE while the entry still has its old pointer, which its second
    write replaces. After the first write of an unbind the requester is blocked, and with its last
    write requests with PASID still are.

    Args:
        registers: state of the unit (extended mode).
        bind: the bind; else the unbind.
    """
    memory = NamedMemory()
    asked = _Asked(memory, registers, "r")
    where = asked.entry[0].address
    q0, q2 = (asked.entry[n].value for n in (0, 2))
    table, pts = Term(const("table") & registers.address), Term(const("pts") & 0xF)
    present = (q0 & _PRESENT) != 0
    before = (q0 & _GUEST) == (0 if bind else _GUEST)
    facts = [asked.entry[3].runs, cond_z3(present), cond_z3(before), *asked.labels()]
    stores = [s for s in _steps(where, q0, table, pts, bind=bind) if isinstance(s, Write)]
    found, written = [], []
    for number, step in enumerate(stores):
        for n, word in enumerate(step.words):
            memory = memory.store(step.address + 8 * n, word)
            written.append(step.address + 8 * n)
        now = _Asked(memory, registers, "r")
        if bind:
            claim = _guest(now.entry, (q2, table | pts)[number])
        else:
            blocked = f.X_PASIDE if number == len(stores) - 1 else f.LCT_2
            claim = now.fault == blocked
        found.append(Obligation(
            f"write {number + 1} of {len(stores)} of {'bind' if bind else 'unbind'}",
            [*facts, *memory.named.values()], claim, memory.array,
            {"sid": asked.request.sid, "entry": where},
            [*asked.reads, *now.reads],
        ))
    facts += memory.named.values()
    return [*found, *_elsewhere(asked, registers, written, facts)]


def _guest(entry: list[Read], pointer: Word) -> Any:  # noqa: ANN401
    """Return that a context entry is one of a guest's table with this pointer quadword."""
    import z3

    on = (entry[0].value & (_GUEST | _PRESENT)) == (_GUEST | _PRESENT)
    return z3.And(cond_z3(on), word_z3(entry[2].value) == word_z3(pointer))


def _elsewhere(
    asked: _Asked, registers: Registers, written: list[Word], facts: list[Any]
) -> Iterator[Obligation]:
    import z3

    memory = NamedMemory()
    other = _Asked(memory, registers, "other")
    facts = [*facts, *memory.named.values()]
    apart = word_z3(asked.request.sid) != word_z3(other.request.sid)
    for read in other.reads:
        claim = z3.Implies(
            read.runs, z3.And([word_z3(read.address) != word_z3(x) for x in written])
        )
        yield Obligation(
            "what others read is not written", [*facts, *other.labels(), apart], claim,
            SymbolicMemory().array, {"r": asked.request.sid, "other": other.request.sid},
            [*asked.reads, *other.reads],
        )


def flushes(*, bind: bool) -> dict[str, Obligation]:
    """Claim, cache by cache, that an entry of the requester is dropped; the tags are arbitrary."""
    import z3

    def word(name: str) -> Term:
        return Term(const(name))

    sid, did, pasid, page = word("sid"), word("did"), word("pasid"), word("page")
    commands = [
        Command(c.op, did=did, sid=sid) for s in _steps(0, 0, 0, 0, bind=bind)
        if isinstance(s, Flush) for c in s.commands
    ]
    carrier = SymbolicMemory().carrier()
    drops = {
        "context cache": [
            drops_context(carrier, c, ContextTag(sid, did), legacy=True) for c in commands],
        "PASID cache": [drops_pasid(c, PasidTag(sid, pasid, did)) for c in commands],
        "IOTLB": [drops_iotlb(c, IotlbTag(sid, True, pasid, did, 1, page)) for c in commands],
        "device TLB": [drops_device(carrier, c, DeviceTag(sid, True, pasid, page))
                       for c in commands],
    }
    for level in (2, 3, 4):
        tag = PagingTag(True, did, pasid, level, page)
        drops[f"paging level {level}"] = [drops_paging(c, tag) for c in commands]
    return {
        name: Obligation(
            f"{name}, {'bind' if bind else 'unbind'}", [], z3.Or([cond_z3(x) for x in dropped]),
            SymbolicMemory().array, {"sid": sid, "did": did, "pasid": pasid, "page": page},
        )
        for name, dropped in drops.items()
    }
