"""Proof obligations about tables, guests and caches, over arbitrary memory (z3).

*Tables.* From any memory whose tables form a tree, writing any value to the slot that an input
address reaches at some level changes only translations of the addresses which that slot covers, and
a leaf that lands maps exactly its page. "Tree" is used in the form of labels: every table frame has
one label (stage, level, input-address prefix), which is what "referenced from one slot only, and
not mapped as a page" gives; the labels are assumed at the frames that the walks read before the
write. Both requests belong to one requester and PASID.

*Confinement.* Whatever a guest writes into pages its container owns, requests end, first-stage
tables are read and flags are written only in such pages.

*Caches.* What a teardown must make unreachable, its flush commands drop, for arbitrary entries.

An obligation is *valid* when the negation of its claim is unsatisfiable; otherwise a model gives a
concrete memory image and request, which the int carrier replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from dmaproof.model.algebra import (
    Carrier,
    Cond,
    Image,
    SymbolicMemory,
    Term,
    Truth,
    Value,
    Word,
    Z3Carrier,
    cond_z3,
    word_z3,
)
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import first_stage, second_stage
from dmaproof.model.vtd.invalidation import (
    DeviceTag,
    IotlbTag,
    PagingTag,
    PasidTag,
    drops_device,
    drops_iotlb,
    drops_paging,
    drops_pasid,
)
from dmaproof.model.vtd.programs import Flush, clear_pasid
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Request
from dmaproof.model.vtd.translate import Outcome, evaluate

_SECOND, _FIRST, _OTHER = 1, 2, 3
_SLOTS = 4096  # upper bound of a label's level part


@dataclass(frozen=True)
class Read:
    """One table read of a symbolic evaluation.

    Attributes:
        runs: z3 condition under which the read happens.
        address, value: words.
        fault: condition number that an inaccessible address gives; it names the kind of table.
        stage: `_SECOND`, `_FIRST`, or `_OTHER` for root, context, directory and PASID entries.
        level: level of the entry; for other tables the condition number.
        covered: input address that the walk translates (a number for other tables).
    """

    runs: Any
    address: Word
    value: Word
    fault: int
    stage: int
    level: int
    covered: Word


class TracingCarrier(Z3Carrier):
    """The symbolic carrier, noting every table read with the walk it belongs to."""

    def __init__(self, memory: SymbolicMemory) -> None:
        """Start an evaluation on *memory*."""
        super().__init__(memory)
        self.reads: list[Read] = []
        self._walk: tuple[int, int, Word] | None = None

    def read(self, address: Word, fault: int) -> Word:
        """Return the quadword at *address* and note the read."""
        value = super().read(address, fault)
        stage, level, covered = self._walk or (_OTHER, fault, 0)
        runs = cond_z3(self._open)
        self.reads.append(Read(runs, address, value, fault, stage, level, covered))
        return value

    def when(
        self, condition: Cond, step: Callable[..., tuple[Any, ...]], *values: Value,
        otherwise: tuple[Any, ...],
    ) -> tuple[Any, ...]:
        """Run *step*, remembering which walk its reads belong to."""
        outer = self._walk
        if step is second_stage.step:
            inner = (_SECOND, values[2], values[3])
        elif step is first_stage.step:
            inner = (_FIRST, values[4], values[6])
        else:
            return super().when(condition, step, *values, otherwise=otherwise)

        def tracked(c: Carrier, *arguments: Value) -> tuple[Any, ...]:
            before, self._walk = self._walk, inner
            try:
                return step(c, *arguments)
            finally:
                self._walk = before

        try:
            return super().when(condition, tracked, *values, otherwise=otherwise)
        finally:
            self._walk = outer


@dataclass
class Obligation:
    """One claim under hypotheses.

    Attributes:
        name: what is claimed.
        hypotheses: z3 Booleans that are assumed.
        claim: z3 Boolean that must follow.
        memory: z3 array before the event (for the replay of a counterexample).
        words: named words of the event, to be read from a model.
        reads: table reads, whose addresses make up the concrete image.
        frames: z3 page numbers whose predicates a counterexample tells.
        predicates: named predicates of a page number.
    """

    name: str
    hypotheses: list[Any]
    claim: Any
    memory: Any
    words: dict[str, Word] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    predicates: dict[str, Callable[[Any], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Counterexample:
    """A concrete memory and event that break a claim.

    Attributes:
        image: memory before the event.
        words: the event's words by name.
        pages: for each named predicate the page numbers that satisfy it, among those touched.
    """

    image: Image
    words: dict[str, int]
    pages: dict[str, set[int]]


def check(obligation: Obligation, timeout_ms: int = 60_000) -> Counterexample | None:
    """Return None if the obligation is valid, else a counterexample.

    Raises:
        TimeoutError: the solver gave up; nothing is known then.
    """
    import z3

    # A context of its own: otherwise the time depends on what was built before, up to thirtyfold.
    apart = z3.Context()
    solver = z3.SolverFor("QF_AUFBV", ctx=apart)
    solver.set("timeout", timeout_ms)
    solver.add(*(part.translate(apart) for part in obligation.hypotheses))
    solver.add(z3.Not(obligation.claim).translate(apart))
    answer = solver.check()
    if answer == z3.unsat:
        return None
    if answer != z3.sat:
        raise TimeoutError(f"{obligation.name}: {solver.reason_unknown()}")
    return _concrete(obligation, solver.model())


def satisfiable(obligation: Obligation) -> bool:
    """Return whether the hypotheses can hold at all (a guard against vacuous proofs)."""
    import z3

    apart = z3.Context()
    solver = z3.SolverFor("QF_AUFBV", ctx=apart)
    solver.add(*(part.translate(apart) for part in obligation.hypotheses))
    return bool(solver.check() == z3.sat)


def _concrete(obligation: Obligation, model: Any) -> Counterexample:  # noqa: ANN401
    import z3

    def number(term: Any) -> int:  # noqa: ANN401
        return int(model.eval(term.translate(model.ctx), model_completion=True).as_long())

    def holds_in(condition: Any) -> bool:  # noqa: ANN401
        return bool(model.eval(condition.translate(model.ctx), model_completion=True))

    image = Image()
    for read in obligation.reads:
        address = number(word_z3(read.address)) & ~7
        image.words[address] = number(z3.Select(obligation.memory, address))
    words = {}
    for name, value in obligation.words.items():
        if isinstance(value, bool | Truth):
            words[name] = int(holds_in(cond_z3(value)))
        else:
            words[name] = number(word_z3(value))
    pages: dict[str, set[int]] = {name: set() for name in obligation.predicates}
    for frame in obligation.frames:
        for name, holds in obligation.predicates.items():
            if holds_in(holds(frame)):
                pages[name].add(number(frame))
    return Counterexample(image, words, pages)


def symbolic_request(prefix: str, sid: int, pasid: int | None, **fields: Cond) -> Request:
    """Return a request at an arbitrary address that reads or writes, by one requester."""
    import z3

    return Request(
        sid, Term(z3.BitVec(f"{prefix}.address", 64)), Truth(z3.Bool(f"{prefix}.write")),
        pasid or 0, pasid is not None, **fields,
    )


def trace(memory: SymbolicMemory, registers: Registers, request: Request) -> (
    tuple[Outcome, list[Read]]
):
    """Translate symbolically and return the outcome with all table reads."""
    carrier = TracingCarrier(memory)
    outcome = evaluate(carrier, registers, request)
    return outcome, carrier.reads


# ------------------------------------------------------------------------------------------ tables


def tree_labels(reads: Iterable[Read]) -> list[Any]:
    """Return the tree invariant at the frames that a walk reads: one label per frame."""
    import z3

    word = z3.BitVecSort(64)
    level_of = z3.Function("label.level", word, word)
    prefix_of = z3.Function("label.prefix", word, word)
    facts = []
    for read in reads:
        frame = z3.LShR(word_z3(read.address), 12)
        prefix = word_z3(
            read.covered >> (12 + 9 * read.level) if read.stage != _OTHER else 0
        )
        label = read.stage * _SLOTS + read.level
        facts.append(z3.Implies(
            read.runs, z3.And(level_of(frame) == label, prefix_of(frame) == prefix)
        ))
    return facts


def _same(before: Outcome, after: Outcome) -> Any:  # noqa: ANN401
    """Return that fault and, if there is none, address, rights and page size agree."""
    import z3

    landed = word_z3(before.fault) == 0
    granted = [cond_z3(getattr(before, n)) == cond_z3(getattr(after, n))
               for n in ("readable", "writable", "interrupt")]
    places = [word_z3(before.hpa) == word_z3(after.hpa),
              word_z3(before.bits) == word_z3(after.bits)]
    return z3.And(
        word_z3(before.fault) == word_z3(after.fault), z3.Implies(landed, z3.And(granted + places))
    )


def slot_of(reads: Iterable[Read], stage: int, level: int) -> Read:
    """Return the read of the final walk at *level* of *stage* (1 second, 2 first).

    In nested translation the last second-stage walk is that of the final page.
    """
    return [r for r in reads if (r.stage, r.level) == (stage, level)][-1]


def frame_condition(
    registers: Registers, sid: int, pasid: int | None, stage: int, level: int, *,
    premises: Callable[[list[Read]], list[Any]] = lambda _: [], labels: bool = True,
) -> Obligation:
    """Claim that writing any value to one slot changes no address outside the slot.

    Args:
        registers: state and capabilities; they select the format.
        sid: requester id of both requests.
        pasid: PASID of both; None: without PASID.
        stage: 1 if the slot is in the second stage, 2 if in the first.
        level: level of the slot.
        premises: further facts, from the reads of the mapped address.
        labels: assume the tree invariant (off: to show that it is needed).
    """
    import z3

    memory = SymbolicMemory()
    mapped = symbolic_request("mapped", sid, pasid)
    other = symbolic_request("other", sid, pasid)
    _, reads = trace(memory, registers, mapped)
    before, other_reads = trace(memory, registers, other)
    slot = slot_of(reads, stage, level)
    value = Term(z3.BitVec("value", 64))
    after, after_reads = trace(memory.store(slot.address, value), registers, other)
    bits = 3 + 9 * level
    hypotheses = [slot.runs, *premises(reads), *premises(other_reads)]
    hypotheses.append(cond_z3((mapped.address >> bits) != (other.address >> bits)))
    if labels:
        hypotheses += tree_labels([*reads, *other_reads])
    words = {"mapped": mapped.address, "other": other.address, "write": other.write,
             "slot": slot.address, "value": value}
    return Obligation(
        f"frame: stage {stage} level {level}", hypotheses, _same(before, after), memory.array,
        words, [*reads, *other_reads, *after_reads],
    )


def leaf_lands(
    registers: Registers, sid: int, pasid: int | None, stage: int, level: int, *,
    premises: Callable[[list[Read]], list[Any]] = lambda _: [],
) -> Obligation:
    """Claim that a leaf written to the slot of an address maps its page, offset kept.

    Claimed of what lands: it lands in the new page, and its page size is that of the level or
    (nested) smaller.
    """
    import z3

    memory = SymbolicMemory()
    mapped = symbolic_request("mapped", sid, pasid)
    _, reads = trace(memory, registers, mapped)
    slot = slot_of(reads, stage, level)
    frame, bits = Term(z3.BitVec("frame", 64)), 3 + 9 * level
    rights = 7 if stage == _FIRST else 3
    large = 0 if level == 1 else 1 << 7
    leaf = (frame & (registers.address & ~((1 << bits) - 1))) | (rights | large)
    after, _ = trace(memory.store(slot.address, leaf), registers, mapped)
    want = (leaf & (registers.address & ~((1 << bits) - 1))) | (
        mapped.address & ((1 << bits) - 1)
    )
    lands = word_z3(after.fault) == 0
    interrupt = cond_z3(after.interrupt)
    claim = z3.Implies(
        z3.And(lands, z3.Not(interrupt)),
        z3.And(word_z3(after.hpa) == word_z3(want), word_z3(after.bits) == bits),
    )
    return Obligation(
        f"leaf: stage {stage} level {level}",
        [slot.runs, *premises(reads), *tree_labels(reads)], claim, memory.array,
        {"mapped": mapped.address, "write": mapped.write, "slot": slot.address, "value": leaf},
        reads,
    )


def pasid_type(pgtt: int) -> Callable[[list[Read]], list[Any]]:
    """Return the premise that the PASID entry that is read has this PGTT."""
    def facts(reads: list[Read]) -> list[Any]:
        entry = next(r for r in reads if r.fault == f.SPT_1)
        return [cond_z3(((entry.value >> 6) & 7) == pgtt)]

    return facts


def fixed_words(host: dict[int, int]) -> Callable[[list[Read]], list[Any]]:
    """Return the premise that memory holds these quadwords, for `frame_condition`."""
    memory = SymbolicMemory()

    def facts(_: list[Read]) -> list[Any]:
        return [cond_z3(memory.word(address) == value) for address, value in host.items()]

    return facts


def identity(registers: Registers, sid: int, pasid: int | None) -> Obligation:
    """Claim that pass-through maps every address to itself, in any memory."""
    import z3

    memory = SymbolicMemory()
    request = symbolic_request("mapped", sid, pasid)
    outcome, reads = trace(memory, registers, request)
    claim = z3.Implies(
        word_z3(outcome.fault) == 0, word_z3(outcome.hpa) == word_z3(request.address)
    )
    words = {"mapped": request.address, "write": request.write}
    premises = pasid_type(4)(reads)
    return Obligation("pass-through is the identity", premises, claim, memory.array, words, reads)


# ------------------------------------------------------------------------------------- confinement


class GuestMemory(SymbolicMemory):
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

    def word(self, address: Word) -> Term:
        """Return what hardware reads at *address* after the guest has written."""
        import z3

        where = word_z3(address)
        return Term(z3.If(self.owned(z3.LShR(where, 12)), self.guest[where], self.array[where]))

    def second_stage_facts(self, registers: Registers, reads: Iterable[Read]) -> list[Any]:
        """Return what the host guarantees, at the second-stage entries that are read.

        Tables point to tables of the next level or map owned pages, and grant write only on pages
        the guest may write.
        """
        import z3

        facts = []
        for read in reads:
            if read.stage != _SECOND:
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
            if read.stage == _SECOND:
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
    facts += memory.second_stage_facts(registers, carrier.reads)
    if disjoint:
        facts += memory.disjoint(carrier.reads)
    landed = word_z3(outcome.fault) == 0
    page = z3.LShR(word_z3(outcome.hpa), 12)
    claims = [z3.Implies(landed, memory.owned(page)),
              z3.Implies(z3.And(landed, cond_z3(request.write)), memory.writable(page))]
    for read in carrier.reads:
        if read.fault in (f.SFS_1, f.X_PT_ACCESS):
            frame = z3.LShR(word_z3(read.address), 12)
            claims.append(z3.Implies(read.runs, memory.owned(frame)))
    for runs, address, _ in carrier.updates:
        frame = z3.LShR(word_z3(address), 12)
        tables = [memory.table(frame, level) for level in range(1, 6)]
        claims.append(z3.Implies(cond_z3(runs), z3.Or(memory.owned(frame), *tables)))
    content = z3.Lambda(
        [index := z3.BitVec("index", 64)],
        z3.If(memory.owned(z3.LShR(index, 12)), memory.guest[index], memory.array[index]),
    )
    words: dict[str, Word] = {"address": request.address, "write": request.write}
    touched = [outcome.hpa, *(r.address for r in carrier.reads)]
    touched += [address for _, address, _ in carrier.updates]
    return Obligation(
        "confinement", facts, z3.And(claims), content, words, carrier.reads,
        [z3.LShR(word_z3(address), 12) for address in touched],
        {"owned": memory.owned, "writable": memory.writable},
    )


# ------------------------------------------------------------------------------------------ caches


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
