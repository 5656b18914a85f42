"""Caches, entry by entry: what the rule layer says of them, the bits do (z3).

* `teardown_drops`: what a teardown must make unreachable, its flush commands drop;
* `flushes`: what each flush of a design's rules removes, the driver's commands drop;
* `writes`: of the writes of a bind and of an unbind one changes what the tables give, the others
  nothing, and none changes what they give to others;
* `structures`: a walk that begins below a held paging-structure entry stays in its own tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from dmaproof.model.algebra import Cond, SymbolicMemory, Term, Truth, Word, cond_z3, word_z3
from dmaproof.model.logic.reading import Interpreter
from dmaproof.model.logic.system import Action, Actor, Update
from dmaproof.model.logic.terms import Fn, Rel
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import invalidation as inv
from dmaproof.model.vtd.any_caches import AnyCaches, Source
from dmaproof.model.vtd.invalidation import (
    Command,
    ContextTag,
    DeviceTag,
    IotlbTag,
    Op,
    PagingTag,
    PasidTag,
    drops_context,
    drops_device,
    drops_iotlb,
    drops_paging,
    drops_pasid,
)
from dmaproof.model.vtd.joint import NO_PASID, BitReading, const, named
from dmaproof.model.vtd.obligations import Obligation
from dmaproof.model.vtd.programs import Flush, Write, clear_domain, clear_pasid, set_pasid
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import evaluate
from dmaproof.model.vtd.walks import OTHER


def teardown_drops(pgtt: int) -> list[Obligation]:
    """Claim that the driver's teardown of a PASID drops what it must make unreachable.

    For arbitrary entries: every entry of the PASID cache, the IOTLB, the first-stage
    paging-structure caches and the device TLB that was made for this requester and PASID while the
    PASID entry held this domain id and type. That is what the rule layer removes for (requester,
    PASID).

    Args:
        pgtt: type of the PASID entry, 1 to 4.
    """
    import z3

    def word(name: str) -> Term:
        return Term(z3.BitVec(name, 64))

    did, pasid, sid, page = word("did"), word("pasid"), word("sid"), word("page")
    steps = clear_pasid(0, (pgtt << 6 | 1, 0, 0, 0, 0, 0, 0, 0), 0, 0, ats=True)
    commands = [
        replace(c, did=did, pasid=pasid, sid=sid)
        for s in steps if isinstance(s, Flush) for c in s.commands
    ]
    carrier = SymbolicMemory().carrier()
    bounds = [cond_z3(page < 1 << 57), cond_z3((page & 0xFFF) == 0)]
    entries = {
        "PASID cache": [drops_pasid(c, PasidTag(sid, pasid, did)) for c in commands],
        "IOTLB": [
            drops_iotlb(c, IotlbTag(sid, True, pasid, did, pgtt, page)) for c in commands
        ],
        "device TLB": [
            drops_device(carrier, c, DeviceTag(sid, True, pasid, page)) for c in commands
        ],
    }
    if pgtt in (1, 3):
        for level in (2, 3, 4, 5):
            tag = PagingTag(True, did, pasid, level, page)
            entries[f"paging level {level}"] = [drops_paging(c, tag) for c in commands]
    return [
        Obligation(
            name, bounds, z3.Or([cond_z3(drop) for drop in drops]), SymbolicMemory().array,
            {"did": did, "pasid": pasid, "sid": sid, "page": page},
        )
        for name, drops in entries.items()
    ]


# ------------------------------------------------------------------------- flushes of the rules


_STEP: Final = {
    v.PASID_CACHE: (Op.CONTEXT_DEVICE, Op.PASID_CACHE_PASID),
    v.IOTLB: (Op.PASID_IOTLB_PASID, Op.IOTLB_DOMAIN),
    v.DEVICE_TLB: (Op.PASID_DEVICE_TLB, Op.DEVICE_TLB),
}
"""Commands of the driver that a flush of the rules stands for."""


def flushes(model: Model, pgtt: int) -> list[Obligation]:
    """Claim that what a flush of an unbind removes in the rules, the driver's commands drop.

    The driver tears each member down on its own (`programs.clear_pasid`); the entry is one of a
    member, made while its PASID entry had this type. For a design of one IOVA map (*pgtt* 0), it
    takes the domain away (`programs.clear_domain`), or flushes the domain.
    """
    found = []
    for act in model.system.actions:
        for update in act.updates:
            if act.actor is Actor.KERNEL and update.rel in _STEP and ".flush-" in act.name:
                found.append(_flush(model, act, update, pgtt))
    return found


def _flush(model: Model, act: Action, update: Update, pgtt: int) -> Obligation:
    import z3

    words = {x: const(x.name) for x in (*act.params, v.R1, v.P1, v.S1)}
    args = (v.R1, v.P1, v.S1)
    word = z3.BitVecSort(64)
    container = z3.Function("container.of", word, word)
    atoms: dict[Rel, Callable[..., Any]] = {
        update.rel: lambda *_: z3.BoolVal(True), v.IN: lambda g, c: c == container(g),
    }
    functions: dict[Fn, Callable[..., Any]] = {
        v.RGROUP: z3.Function("rgroup", word, word), v.RID_OF: lambda function: function,
        v.NO_PASID.fn: lambda: z3.BitVecVal(NO_PASID, 64),
    }
    reading = Interpreter(BitReading(atoms, functions, {}))
    removed = z3.Not(reading.formula(update.after(args), words))
    r, p = Term(words[v.R1]), Term(words[v.P1])
    did, page = Term(const("did")), Term(const("page"))
    tagged = pgtt != inv.LEGACY_PGTT
    flush = [
        replace(c, did=did, pasid=p, sid=r) for c in _commands(pgtt) if c.op in _STEP[update.rel]
    ]
    carrier = SymbolicMemory().carrier()
    drops: dict[Rel, Callable[[Command], Cond]] = {
        v.PASID_CACHE: lambda c: drops_pasid(c, PasidTag(r, p, did)) if tagged
        else drops_context(carrier, c, ContextTag(r, did), legacy=True),
        v.IOTLB: lambda c: drops_iotlb(c, IotlbTag(r, tagged, p, did, pgtt, page)),
        v.DEVICE_TLB: lambda c: drops_device(carrier, c, DeviceTag(r, tagged, p, page)),
    }
    facts = [cond_z3(page < 1 << 57), cond_z3((page & 0xFFF) == 0), removed]
    claim = z3.Or([cond_z3(drops[update.rel](c)) for c in flush])
    return Obligation(
        f"{model.design.name}: {act.name}", facts, claim, SymbolicMemory().array,
        {"r": r, "p": p, "did": did, "page": page},
    )


def _commands(pgtt: int) -> list[Command]:
    if pgtt == inv.LEGACY_PGTT:
        steps = clear_domain(0, 0, 0, ats=True)
    else:
        steps = clear_pasid(0, (pgtt << 6 | 1, 0, 0, 0, 0, 0, 0, 0), 0, 0, ats=True)
    return [c for s in steps if isinstance(s, Flush) for c in s.commands]


# --------------------------------------------------------------------------- writes of the driver


def writes(registers: Registers, *, bind: bool) -> list[Obligation]:
    """Claim of each write of a bind (or unbind) of a PASID what it changes in the tables.

    The bind's last write gives its requester and PASID the space, and the unbind's first takes it
    away: these are the rules' ``bind.visit`` and ``unbind.clear``. All other writes are stutters,
    and no write is to anything that a walk for another requester or PASID reads.
    """
    import z3

    memory = SymbolicMemory()
    asked = _Asked(memory, registers, "r", "p")
    where = asked.place
    new = tuple(Term(const(f"new.{n}")) for n in range(8))
    old = tuple(memory.word(where + 8 * n) for n in range(8))
    steps = set_pasid(where, new) if bind else clear_pasid(where, (1, *[0] * 7), 0, 0)
    if not bind:  # the driver clears P of what is there
        steps[0] = Write(where, (old[0] & ~1,))
    facts = [asked.reached, cond_z3((new[0] & 1) == 1), *asked.labels()]
    facts.append(cond_z3((old[0] & 1) == (0 if bind else 1)))
    facts += [word_z3(w) == 0 for w in new[3:]]
    written: list[Word] = []
    found = []
    stores = [s for s in steps if isinstance(s, Write)]
    for number, step in enumerate(stores):
        for n, word in enumerate(step.words):
            memory = memory.store(step.address + 8 * n, word)
            written.append(step.address + 8 * n)
        last = bind and number == len(stores) - 1
        now = _Asked(memory, registers, "r", "p")
        claim = z3.Implies(now.found, now.space == named(new)) if last else z3.Not(now.found)
        label = "bind" if bind else "unbind"
        found.append(Obligation(
            f"write {number + 1} of {len(stores)} of {label}", facts, claim, memory.array,
            {"r": asked.request.sid, "p": asked.request.pasid, "entry": where},
            [*asked.carrier.reads, *now.carrier.reads],
        ))
    return [*found, *_elsewhere(asked, registers, written, facts)]


class _Asked:
    """What the tables give to one requester id under one PASID.

    Attributes:
        found: z3 condition: a present, valid PASID entry.
        space: what it names.
        place: address of the entry; *reached* says whether there is one.
    """

    def __init__(self, memory: SymbolicMemory, registers: Registers, r: str, p: str) -> None:
        self.request = Request(
            Term(const(r) & 0xFFFF), Term(const("address")), False, Term(const(p) & 0xFFFFF), True
        )
        self.carrier = AnyCaches(
            memory, registers, context=Source.MEMORY, entry=Source.MEMORY
        )
        evaluate(self.carrier, registers, self.request)
        (entry,) = self.carrier.entries
        self.found, self.space = entry.runs, named(entry.words)
        self.reads = [x for x in self.carrier.reads if x.stage == OTHER]
        first = next(x for x in self.reads if x.fault == f.SPT_1)
        self.place, self.reached = first.address, first.runs

    def labels(self) -> list[Any]:
        """Return the tree invariant: each frame is of one kind of table.

        And a frame of a PASID table belongs to one requester id and block of 64 PASIDs.
        """
        import z3

        word, facts = z3.BitVecSort(64), []
        kind, rid, block = (z3.Function(f"label.{n}", word, word) for n in ("kind", "rid", "block"))
        for read in self.reads:
            frame = z3.LShR(word_z3(read.address), 12)
            same = [kind(frame) == read.fault]
            if read.fault == f.SPT_1:
                same += [rid(frame) == word_z3(self.request.sid),
                         block(frame) == word_z3(self.request.pasid >> 6)]
            facts.append(z3.Implies(read.runs, z3.And(same)))
        return facts


def _elsewhere(
    asked: _Asked, registers: Registers, written: list[Word], facts: list[Any]
) -> Iterator[Obligation]:
    """Claim that no walk for another requester or PASID reads what was written."""
    import z3

    other = _Asked(SymbolicMemory(), registers, "r2", "p2")
    apart = z3.Or(
        word_z3(asked.request.sid) != word_z3(other.request.sid),
        word_z3(asked.request.pasid) != word_z3(other.request.pasid),
    )
    for read in other.reads:
        claim = z3.Implies(
            read.runs, z3.And([word_z3(read.address) != word_z3(x) for x in written[:8]])
        )
        yield Obligation(
            "what others read is not written", [*facts, *other.labels(), apart], claim,
            SymbolicMemory().array, {"r": asked.request.sid, "r2": other.request.sid},
            [*asked.carrier.reads, *other.carrier.reads],
        )


# ------------------------------------------------------------------------------ paging structures


def structures(
    registers: Registers, *, first: bool, level: int, consistent: bool = True
) -> Obligation:
    """Claim that a walk which begins below a held entry is still one of its own tables.

    Args:
        registers: state of the unit (scalable mode).
        first: a first-stage or combined entry; else a second-stage one.
        level: level of the held entry.
        consistent: software keeps entries with the same tags on the same tables (VT-d 6.2.3.1);
            off: to show that it must.
    """
    import z3

    carrier = AnyCaches(
        SymbolicMemory(), registers, context=Source.MEMORY, entry=Source.MEMORY,
        paging=(first, level),
    )
    request = Request(
        Term(const("r") & 0xFFFF), Term(const("address")), Truth(z3.Bool("write")),
        Term(const("p") & 0xFFFFF), True,
    )
    outcome = evaluate(carrier, registers, request)
    (entry,), tag = carrier.entries, carrier.held_paging
    word = z3.BitVecSort(64)
    top_of = z3.Function("top.of", word, word, word)
    own = word_z3(entry.words[2 if first else 0] & registers.address)
    held = z3.BitVec("paging.top", 64)  # the tables from which the entry was made
    facts = [word_z3(outcome.fault) == 0, carrier.used_paging]
    if consistent:
        number = carrier.number if first else 0
        facts += [top_of(word_z3(tag.did), word_z3(tag.pasid)) == held,
                  top_of(word_z3(carrier.did), word_z3(number)) == own]
    return Obligation(
        f"paging structures, {'first' if first else 'second'} stage, level {level}", facts,
        own == held, SymbolicMemory().array, {"r": request.sid, "p": request.pasid},
        carrier.reads,
    )
