"""What a write to one paging entry changes, by comparing evaluations before and after it (z3).

From any memory whose tables form a tree, writing any value to the slot that an input address
reaches at some level changes only translations of the addresses which that slot covers, and a leaf
that lands maps exactly its page. "Tree" is used in the form of labels: every table frame has one
label (stage, level, input-address prefix), which is what "referenced from one slot only, and not
mapped as a page" gives; the labels are assumed at the frames that the walks read before the write.
Both requests belong to one requester and PASID.

`obligations_mapping` asks the same of every format, nested ones too, with one evaluation instead of
two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dmaproof.model.algebra import SymbolicMemory, Term, Word, cond_z3, word_z3
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.obligations import (
    NamedMemory,
    Obligation,
    Read,
    symbolic_request,
    trace,
)
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.translate import Outcome
from dmaproof.model.vtd.walks import FIRST, OTHER

_SLOTS = 4096  # upper bound of a label's level part


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
            read.covered >> (12 + 9 * read.level) if read.stage != OTHER else 0
        )
        label = read.stage * _SLOTS + read.level
        facts.append(z3.Implies(
            read.runs, z3.And(level_of(frame) == label, prefix_of(frame) == prefix)
        ))
    return facts


def same_outcome(before: Outcome, after: Outcome) -> Any:  # noqa: ANN401
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


def _in_step(slot: Word, before: list[Read], after: list[Read]) -> list[Any]:
    """Return, read by read, that it is not of the slot, and what it is after the write."""
    import z3

    steps = []
    for old, new in zip(before, after, strict=True):
        where = word_z3(old.address)
        same = z3.And(word_z3(new.address) == where, word_z3(new.value) == word_z3(old.value))
        steps += [z3.Implies(old.runs, where != word_z3(slot)), new.runs == old.runs,
                  z3.Implies(old.runs, same)]
    return steps


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

    memory = NamedMemory()
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
    hypotheses += memory.named.values()
    if labels:
        hypotheses += tree_labels([*reads, *other_reads])
    words = {"mapped": mapped.address, "other": other.address, "write": other.write,
             "slot": slot.address, "value": value}
    return Obligation(
        f"frame: stage {stage} level {level}", hypotheses, same_outcome(before, after),
        memory.array, words, [*reads, *other_reads, *after_reads],
        steps=_in_step(slot.address, other_reads, after_reads),
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

    memory = NamedMemory()
    mapped = symbolic_request("mapped", sid, pasid)
    _, reads = trace(memory, registers, mapped)
    slot = slot_of(reads, stage, level)
    frame, bits = Term(z3.BitVec("frame", 64)), 3 + 9 * level
    rights = 7 if stage == FIRST else 3
    large = 0 if level == 1 else 1 << 7
    leaf = (frame & (registers.address & ~((1 << bits) - 1))) | (rights | large)
    after, after_reads = trace(memory.store(slot.address, leaf), registers, mapped)
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
        [slot.runs, *premises(reads), *tree_labels(reads), *memory.named.values()], claim,
        memory.array,
        {"mapped": mapped.address, "write": mapped.write, "slot": slot.address, "value": leaf},
        reads, steps=_in_step(slot.address, reads, after_reads),
    )


def pasid_type(pgtt: int) -> Callable[[list[Read]], list[Any]]:
    """Return the premise that the PASID entry that is read has this PGTT."""
    def facts(reads: list[Read]) -> list[Any]:
        entry = next(r for r in reads if r.fault == f.SPT_1)
        return [cond_z3(((entry.value >> 6) & 7) == pgtt)]

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
