"""Mapping and unmapping one page, in every format and at every level (z3).

The driver maps a page with writes to single entries: pointers to empty tables, then a leaf; it
unmaps with one write. For the *slot* that the walk of an arbitrary address reaches at a level, in
any memory whose tables form a tree (`obligations_tables.tree_labels`):

* `undisturbed`: no address outside the slot's range reads it, nor does the walk above it;
* `leaf`: a leaf there maps the range of the address: the request lands exactly if the rights of the
  leaf and of the entries above allow it, at the page plus offset;
* `cleared`: without a right (or P) there, the request is blocked as not present;
* `table`: with a pointer to an empty table there, it is blocked just so.

Each is one evaluation on an arbitrary memory: the last three say what holds wherever the slot has
such a value. That they describe the memory after the write rests on `undisturbed` and on this: an
evaluation that reads no changed quadword is not changed (`obligations_locality`). For formats of
one stage `obligations_tables.frame_condition` proves that outright, with both evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from dmaproof.model.algebra import SymbolicMemory, Term, Truth, Word, cond_z3, word_z3
from dmaproof.model.vtd import entries, first_stage, interrupt_range, second_stage
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.obligations import Obligation, Read, trace
from dmaproof.model.vtd.obligations_tables import tree_labels
from dmaproof.model.vtd.registers import Mode, Registers
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.walks import FIRST, OTHER, SECOND

_FLAGS: Final = first_stage.ACCESSED | first_stage.DIRTY | first_stage.EXTENDED_ACCESSED

_TABLE: Final = entries.P | entries.RW | entries.US | _FLAGS


@dataclass(frozen=True)
class Format:
    """Tables of one kind and which of their entries is written.

    Attributes:
        name: as tests and messages call it.
        registers: state and capabilities of the unit.
        sid: requester id.
        pasid: PASID of the requests; None: without PASID.
        stage: `SECOND` or `FIRST`, where the slot is.
        facts: premises from the reads of a request, such as the type of the PASID entry.
        nested: the first stage is walked through the second.

    """

    name: str
    registers: Registers
    sid: int
    pasid: int | None
    stage: int
    facts: Callable[[list[Read]], list[Any]] = lambda _: []
    nested: bool = False

    @property
    def levels(self) -> range:
        """Levels of the stage, the lowest first."""
        r = self.registers
        top = (5 if r.fs5lp and self.tagged else 4) if self.stage == FIRST else r.levels[-1]
        return range(1, top + 1)

    @property
    def leaf_levels(self) -> list[int]:
        """Levels at which a leaf can be."""
        kind = first_stage if self.stage == FIRST else second_stage
        return [n for n in self.levels if n == 1 or kind.maps_large(self.registers, n)]

    @property
    def tagged(self) -> bool:
        """Whether the format is one of PASID-table entries."""
        return self.registers.mode is Mode.SCALABLE


class Walks:
    """The reads of one symbolic request, sorted.

    Attributes:
        request, outcome, reads: the evaluation.
        first: read by level of the first-stage walk.
        final: read by level of the second-stage walk of the final address.
        inner: second-stage reads that locate first-stage tables.

    """

    def __init__(
        self, form: Format, name: str, *, anyone: bool = False, kind: Kind = Kind.UNTRANSLATED
    ) -> None:
        """Evaluate a request of the format's requester and PASID, or of *anyone*."""
        import z3

        def word(part: str, bits: int) -> Word:
            return Term(z3.ZeroExt(64 - bits, z3.BitVec(f"{name}.{part}", bits)))

        tagged = form.pasid is not None
        self.memory = SymbolicMemory()
        self.request = Request(
            word("sid", 16) if anyone else form.sid, word("address", 64),
            kind is Kind.UNTRANSLATED and Truth(z3.Bool(f"{name}.write")),
            word("pasid", 20) if anyone and tagged else form.pasid or 0, tagged, kind,
            privileged=tagged and Truth(z3.Bool(f"{name}.privileged")),
        )
        self.outcome, self.reads = trace(self.memory, form.registers, self.request)
        seconds = [r for r in self.reads if r.stage == SECOND]
        count = form.registers.levels[-1]
        self.final = {r.level: r for r in seconds[-count:]}
        self.inner = seconds[:-count]
        # Extended mode evaluates the plain first stage and the nested one, in this order.
        firsts = [r for r in self.reads if r.stage == FIRST]
        half = len({r.level for r in firsts})
        self.first = {r.level: r for r in (firsts[-half:] if form.nested else firsts[:half])}

    def slot(self, form: Format, level: int) -> Read:
        """Return the read of the slot at *level*."""
        return (self.first if form.stage == FIRST else self.final)[level]

    def words(self) -> dict[str, Word]:
        """Return the words that make up the request."""
        q = self.request
        return {"address": q.address, "write": q.write, "privileged": q.privileged,
                "sid": q.sid, "pasid": q.pasid}


def _premises(form: Format, walks: Walks, slot: Read) -> list[Any]:
    return [slot.runs, *form.facts(walks.reads), *tree_labels(walks.reads)]


def indexed(form: Format, kind: Kind = Kind.UNTRANSLATED) -> Obligation:
    """Claim that every walk reads, at each level, the entry that its address selects there.

    The request is one of any requester under any PASID.
    """
    import z3

    walks = Walks(form, "other", anyone=True, kind=kind)
    claims = [_at_index(r) for r in walks.reads if r.stage != OTHER]
    return Obligation(
        f"{form.name}: indexed", form.facts(walks.reads), z3.And(claims), walks.memory.array,
        walks.words(), walks.reads,
    )


def _at_index(read: Read) -> Any:  # noqa: ANN401
    import z3

    index = (read.covered >> (3 + 9 * read.level)) & 511
    return z3.Implies(read.runs, cond_z3(((read.address >> 3) & 511) == index))


def undisturbed(form: Format, level: int, *, labels: bool = True) -> Obligation:
    """Claim that nothing but the walk of the slot's own range reads the slot, and it only once.

    Under a second stage, the range is one of guest-physical addresses, and "outside" means that
    neither the final address nor a first-stage table of the other request lies in it.

    Args:
        form: the format.
        level: level of the slot.
        labels: assume the tree invariant (off: to show that it is needed).
    """
    import z3

    mapped, other = Walks(form, "mapped"), Walks(form, "other")
    slot = mapped.slot(form, level)
    others = [*other.reads, *(r for r in mapped.reads if r is not slot)]
    facts = [*form.facts(mapped.reads), *form.facts(other.reads), slot.runs]
    facts += _outside(form, slot, others)
    if labels:
        facts += tree_labels([slot, *others])
    claim = z3.And([_apart(slot, r) for r in others])
    words = {"mapped": mapped.request.address, "other": other.request.address,
             "write": other.request.write, "slot": slot.address}
    words |= {f"{name}.privileged": walks.request.privileged
              for name, walks in (("mapped", mapped), ("other", other))}
    return Obligation(
        f"{form.name}: undisturbed, level {level}", facts, claim, mapped.memory.array, words,
        [*mapped.reads, *other.reads],
    )


def _apart(slot: Read, read: Read) -> Any:  # noqa: ANN401
    import z3

    return z3.Implies(read.runs, word_z3(read.address) != word_z3(slot.address))


def _outside(form: Format, slot: Read, others: list[Read]) -> list[Any]:
    """Return that no other read at the slot's level is for an address in the slot's range."""
    import z3

    bits = 3 + 9 * slot.level
    return [
        z3.Implies(r.runs, cond_z3((r.covered >> bits) != (slot.covered >> bits)))
        for r in others if (r.stage, r.level) == (slot.stage, slot.level)
    ]


def undisturbed_by_index(form: Format, level: int) -> list[Obligation]:
    """Claim `undisturbed` of reads of which nothing is known but what `indexed` claims.

    The other read may be of any requester: *owner* tells apart the trees of different tables. One
    obligation for each kind of table. If all are valid, and `indexed` is, then nothing disturbs the
    slot but walks of its own range in its own tree; a counterexample is none of the engine.
    """
    import z3

    walks = Walks(form, "other")
    word = z3.BitVecSort(64)
    owner_of = z3.Function("label.owner", word, word)
    owner = {name: z3.Const(f"{name}.owner", word) for name in ("slot", "read")}
    slot = _forgotten(walks.slot(form, level), "slot")
    kinds = {(r.stage, r.level): _forgotten(r, "read") for r in walks.reads}
    found = []
    for (stage, number), read in kinds.items():
        facts = [slot.runs, *(_at_index(r) for r in (slot, read) if r.stage != OTHER),
                 *tree_labels([slot, read])]
        facts += [
            z3.Implies(r.runs, owner_of(z3.LShR(word_z3(r.address), 12)) == owner[name])
            for name, r in (("slot", slot), ("read", read))
        ]
        same = owner["slot"] == owner["read"]
        facts += [z3.Implies(same, fact) for fact in _outside(form, slot, [read])]
        found.append(Obligation(
            f"{form.name}: undisturbed at level {level} by {stage, number}", facts,
            _apart(slot, read), SymbolicMemory().array,
            {"slot": slot.address, "covered": slot.covered, "read": read.address},
        ))
    return found


def _forgotten(read: Read, name: str) -> Read:
    import z3

    runs, word = z3.Bool(f"{name}.runs"), z3.BitVecSort(64)
    address, covered = Term(z3.Const(f"{name}.at", word)), Term(z3.Const(f"{name}.covered", word))
    return replace(
        read, runs=runs, address=address, covered=covered if read.stage != OTHER else 0
    )


def _rights_above(reads: dict[int, Read], level: int, bit: int) -> Any:  # noqa: ANN401
    """Return that *bit* is set in every entry of a walk above *level*."""
    import z3

    above = [r for n, r in reads.items() if n > level]
    return z3.And([z3.Implies(r.runs, cond_z3((r.value & bit) != 0)) for r in above])


def _frame(form: Format, bits: int) -> Word:
    """Return an arbitrary page address of 2^*bits* bytes that an entry can hold."""
    import z3

    return Term(z3.BitVec("frame", 64)) & (form.registers.address & ~((1 << bits) - 1))


def _first_write(form: Format, walks: Walks, level: int, own: Any) -> Any:  # noqa: ANN401
    """Return whether the first stage lets the request write, its entry at *level* having *own*."""
    import z3

    may = z3.And(own, _rights_above(walks.first, level, entries.RW))
    if form.tagged:
        q2 = [r for r in walks.reads if r.fault == f.SPT_1][2].value
        wpe = (q2 & 1 << 4) != 0
    else:
        wpe = ([r for r in walks.reads if r.fault == f.LCT_1][1].value & 1 << 5) != 0
    return z3.Or(may, z3.And(cond_z3(walks.request.privileged), z3.Not(cond_z3(wpe))))


def leaf(form: Format, level: int) -> Obligation:
    """Claim that a leaf in the slot maps its page with its rights, no more and no less.

    Rights of the leaf are arbitrary; accessed and dirty flags are set, as the driver sets them. In
    a nested first stage what is claimed is that the second stage is asked for the page: the rest
    is the claim about the leaf of the second stage.
    """
    import z3

    walks = Walks(form, "mapped")
    slot, bits = walks.slot(form, level), 3 + 9 * level
    frame = _frame(form, bits)
    rights: Word = Term(z3.BitVec("rights", 64))
    offset = (1 << bits) - 1
    if form.stage == SECOND:
        value = entries.second_stage(frame, rights & 3, large=level > 1)
        facts = [cond_z3((rights & 3) != 0)]
    else:
        granted = (rights & (entries.RW | entries.US)) | entries.P | _FLAGS
        value = entries.first_stage(frame, granted, large=level > 1)
        facts = []
    facts += [*_premises(form, walks, slot), cond_z3(slot.value == value)]
    want = frame | (slot.covered & offset)
    if form.stage == FIRST and form.nested:
        claim = _asked_for(walks, want, rights)
        facts.append(cond_z3((frame >> _limit(form, walks)) == 0))
    else:
        claim = _lands(form, walks, level, want, rights)
    words = walks.words() | {"slot": slot.address, "value": value, "want": want}
    return Obligation(
        f"{form.name}: leaf, level {level}", facts, claim, walks.memory.array, words, walks.reads
    )


def _limit(form: Format, walks: Walks) -> Word:
    """Return the width of guest-physical addresses that the second stage in use takes."""
    r, fault = form.registers, f.SPT_1 if form.tagged else f.LCT_1
    q0, q1 = [read.value for read in walks.reads if read.fault == fault][:2]
    aw = (q0 >> 2) & 7 if form.tagged else q1 & 7
    return second_stage.limit_bits(walks.memory.carrier(), r, aw + 2)


def _asked_for(walks: Walks, want: Word, rights: Term) -> Any:  # noqa: ANN401
    """Return that the final second-stage walk starts, for the page wanted, unless U/S forbids."""
    import z3

    top = walks.final[max(walks.final)]
    user = z3.Or(cond_z3(walks.request.privileged), cond_z3((rights & entries.US) != 0))
    starts = z3.Or([r.runs for r in walks.final.values()])
    return z3.If(
        user, z3.And(starts, word_z3(top.covered) == word_z3(want)),
        word_z3(walks.outcome.fault) == f.SGN_2,
    )


def _lands(form: Format, walks: Walks, level: int, want: Word, rights: Term) -> Any:  # noqa: ANN401
    import z3

    q, out = walks.request, walks.outcome
    if form.stage == SECOND:
        may_read = z3.And(cond_z3((rights & 1) != 0), _rights_above(walks.final, level, 1))
        may_write = z3.And(cond_z3((rights & 2) != 0), _rights_above(walks.final, level, 2))
        if form.nested:
            may_write = z3.And(may_write, _first_write(form, walks, 0, z3.BoolVal(True)))
        admitted = z3.BoolVal(True)
    else:
        may_read = z3.BoolVal(True)
        may_write = _first_write(form, walks, level, cond_z3((rights & entries.RW) != 0))
        admitted = z3.Or(cond_z3(q.privileged), cond_z3((rights & entries.US) != 0))
    wanted = z3.If(cond_z3(q.write), may_write, may_read)
    good = z3.And(admitted, wanted, z3.Not(cond_z3(interrupt_range.inside(want))))
    bits = 3 + 9 * level
    size = z3.ULE(word_z3(out.bits), bits) if form.nested else word_z3(out.bits) == bits
    landed = z3.And(
        word_z3(out.fault) == 0, word_z3(out.hpa) == word_z3(want), size,
        cond_z3(out.readable) == may_read, cond_z3(out.writable) == may_write,
        z3.Not(cond_z3(out.interrupt)),
    )
    return z3.If(good, landed, word_z3(out.fault) != 0)


def _blocked(form: Format, walks: Walks) -> Any:  # noqa: ANN401
    """Return that the request is blocked by an entry without right (or P)."""
    import z3

    fault = word_z3(walks.outcome.fault)
    if form.stage == FIRST:
        return fault == f.SFS_2
    if form.tagged:
        return fault == f.SSS_2
    return fault == z3.If(cond_z3(walks.request.write), z3.BitVecVal(f.LGN_2, 64),
                          z3.BitVecVal(f.LGN_3, 64))


def cleared(form: Format, level: int) -> Obligation:
    """Claim that an entry without right (P) blocks, whatever its other bits are."""
    walks = Walks(form, "mapped")
    slot = walks.slot(form, level)
    rights = 3 if form.stage == SECOND else entries.P
    facts = [*_premises(form, walks, slot), cond_z3((slot.value & rights) == 0)]
    words = walks.words() | {"slot": slot.address, "value": slot.value}
    return Obligation(
        f"{form.name}: cleared, level {level}", facts, _blocked(form, walks), walks.memory.array,
        words, walks.reads,
    )


def table(form: Format, level: int) -> Obligation:
    """Claim that a pointer to an empty table blocks as an empty entry does.

    A nested guest's table may also be missing in the second stage: then the request is blocked
    there.
    """
    import z3

    walks = Walks(form, "mapped")
    slot, below = walks.slot(form, level), walks.slot(form, level - 1)
    frame = _frame(form, 12)
    value = entries.second_stage(frame) if form.stage == SECOND else frame | _TABLE
    facts = [*_premises(form, walks, slot), cond_z3(slot.value == value),
             z3.Implies(below.runs, word_z3(below.value) == 0)]
    claim = _blocked(form, walks)
    if form.nested and form.stage == FIRST:
        claim = z3.Or(claim, z3.And(z3.Not(below.runs), word_z3(walks.outcome.fault) != 0))
    words = walks.words() | {"slot": slot.address, "value": value}
    return Obligation(
        f"{form.name}: empty table, level {level}", facts, claim, walks.memory.array, words,
        walks.reads,
    )
