"""PASID directory and 512-bit PASID-table entry of scalable mode (VT-d 9.5, 9.6)."""

from __future__ import annotations

from typing import Final, NamedTuple

from dmaproof.model.algebra import Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import ats, first_stage, interrupt_range, nested, pass_through, second_stage
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.first_stage import First
from dmaproof.model.vtd.legacy import Landing
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import PAGE_REQUEST, TRANSLATION, Request
from dmaproof.model.vtd.second_stage import Stage

FIRST: Final = 1
SECOND: Final = 2
NESTED: Final = 3
PASS: Final = 4


class Entry(NamedTuple):
    """Quadwords 0 to 2 of a checked PASID-table entry (the others are reserved)."""

    q0: Word
    q1: Word
    q2: Word


@rule(
    "vtd.pasid.directory-entry", "VT-d 9.5",
    "Directory entry: 8 bytes by PASID[19:6], host-physical; P, FPD, SMPTBLPTR.",
)
def directory_entry(c: Carrier, r: Registers, context_low: Word, pasid: Word) -> Word:
    """Return the address of the PASID table."""
    entry = c.read((context_low & r.address) + ((pasid >> 6) << 3), f.SPD_1)
    c.suppress((entry & 2) != 0)
    c.fail((entry & 1) == 0, f.SPD_2)
    c.fail((entry & r.directory_reserved) != 0, f.SPD_3)
    return entry & r.address


@rule(
    "vtd.pasid.table-entry", "VT-d 9.6",
    "PASID-table entry: 64 bytes by PASID[5:0]; which fields are reserved depends on capabilities, "
    "which are ignored on PGTT.",
)
def table_entry(c: Carrier, r: Registers, context_low: Word, pasid: Word) -> Entry:
    """Return the PASID-table entry, checked as far as it does not depend on the request."""
    where = directory_entry(c, r, context_low, pasid) | (pasid & 63) << 6
    words = c.words(where, 8, f.SPT_1)
    q0, q1, q2 = words[:3]
    upper = words[3] | words[4] | words[5] | words[6] | words[7]
    c.suppress((q0 & 2) != 0)
    c.fail((q0 & 1) == 0, f.SPT_2)
    reserved = r.pasid_reserved
    c.fail(((q0 & reserved[0]) | (q1 & reserved[1]) | (q2 & reserved[2]) | upper) != 0, f.SPT_3)
    check_programming(c, r, q0, q2)
    return Entry(q0, q1, q2)


@rule(
    "vtd.pasid.programming", "VT-d 9.6, table 30 SPT.3, SPT.4",
    "PGTT needs its capability; AW must be supported for 2 and 3, FSPM for 1 and 3; pointers in "
    "use must not exceed HAW; nested, FSPTPTR must not exceed min(MGAW, AW).",
)
def check_programming(c: Carrier, r: Registers, q0: Word, q2: Word) -> None:
    """Block an entry whose fields contradict the capabilities or each other."""
    pgtt = (q0 >> 6) & 7
    is_first, is_second, is_nested = pgtt == FIRST, pgtt == SECOND, pgtt == NESTED
    uses_second, uses_first = is_second | is_nested, is_first | is_nested
    c.fail(uses_second & ((q0 & r.beyond_haw) != 0), f.SPT_3)
    c.fail(uses_first & ((q2 & r.beyond_haw) != 0), f.SPT_3)
    supported: Cond = False
    for code in r.pgtts:
        supported = supported | (pgtt == code)
    c.fail(supported ^ True, f.SPT_4_2)
    aw = (q0 >> 2) & 7
    good: Cond = False
    for levels in r.sagaw:
        good = good | (aw == levels - 2)
    c.fail(uses_second & (good ^ True), f.SPT_4_1)
    if r.fsts:
        fspm = (q2 >> 2) & 3
        c.fail(uses_first & (fspm > (1 if r.fs5lp else 0)), f.SPT_4_3)
    if r.nest:
        limit = second_stage.limit_bits(c, r, aw + 2)
        c.fail(is_nested & (((q2 & r.address) >> limit) != 0), f.SPT_4_4)


@rule(
    "vtd.pasid.privilege", "VT-d 9.6, table 30 SPT.5, SPT.6",
    "Execute requests need ECAP.ERS, supervisor requests SRE.",
)
def check_privilege(
    c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry
) -> None:
    """Block an execute or supervisor request that is not enabled."""
    if not r.ers:
        c.fail(q.with_pasid & q.execute, f.SPT_5)
    if privileged is not False:
        c.fail(privileged & ((entry.q2 & 1) == 0), f.SPT_6)


def translate(c: Carrier, r: Registers, q: Request, low: Word, high: Word) -> Landing:
    """Process a request from the context entry (*low*, *high*) on."""
    number = q.pasid if q.with_pasid is True else 0
    if r.rps or not isinstance(q.with_pasid, bool):
        number = c.select(q.with_pasid, q.pasid, high & 0xFFFFF if r.rps else 0)
    privileged = q.with_pasid & q.privileged
    if r.rprivs:
        own = (q.with_pasid ^ True) & ((high >> 20) & 1 != 0)
        privileged = privileged | own
    if c.caching:
        entry = c.pasid_entry(table_entry, r, low, q.sid, number)
    else:
        entry = table_entry(c, r, low, number)
    if q.kind is PAGE_REQUEST:
        return q.address, True, True, 12, False  # queued, not translated
    check_privilege(c, r, q, privileged, entry)
    if q.kind is not TRANSLATION:
        return _by_type(c, r, q, privileged, entry)
    special, answer = ats.message(r, q)
    return c.when(special ^ True, _by_type, r, q, privileged, entry, otherwise=answer)


def _by_type(c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry) -> Landing:
    """Dispatch on PGTT; exactly one of the steps runs for a request."""
    pgtt = (entry.q0 >> 6) & 7
    landing: Landing = (q.address, True, True, 12, False)
    if r.fsts:
        landing = c.when(pgtt == FIRST, _first, r, q, privileged, entry, otherwise=landing)
    if r.ssts:
        landing = c.when(pgtt == SECOND, _second, r, q, privileged, entry, otherwise=landing)
    if r.nest:
        landing = c.when(pgtt == NESTED, _nested, r, q, privileged, entry, otherwise=landing)
    if r.pt:
        landing = c.when(pgtt == PASS, _pass, r, q, privileged, entry, otherwise=landing)
    mapped = landing[1] | landing[2]
    if q.kind is TRANSLATION:
        # A pass-through answer in the range is covered by the special conditions and the width.
        mapped = mapped & (pgtt != PASS)
    interrupt_range.check_output(c, q, landing[0], landing[3], mapped, f.SGN_8)
    return landing


def second_of(r: Registers, entry: Entry) -> Stage:
    """Return the second stage a PASID entry describes."""
    flags = (entry.q0 & 1 << 9) != 0 if r.ssads else False
    return Stage(entry.q0 & r.address, ((entry.q0 >> 2) & 7) + 2, flags, snoop_of(r, entry))


def snoop_of(r: Registers, entry: Entry) -> Cond:
    """Return whether page walks of this entry are snooped (SMPWC and PWSNP)."""
    return (entry.q1 & 1 << 23) != 0 if r.smpwc else False


def first_of(r: Registers, entry: Entry, privileged: Cond, write: Cond) -> First:
    """Return the first stage a PASID entry describes."""
    q2 = entry.q2
    levels = ((q2 >> 2) & 3) + 4 if r.fs5lp else 4
    eafe = (q2 & 1 << 7) != 0 if r.eafs else False
    wpe = (q2 & 1 << 4) != 0
    return First(q2 & r.address, levels, privileged, wpe, eafe, snoop_of(r, entry), write, True)


def _first(c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry) -> Landing:
    first = first_of(r, entry, privileged, first_stage.sets_dirty(r, q))
    first_stage.check_canonical(c, r, first.levels, q.address)
    target, may_write, _, bits = first_stage.walk(c, r, first, q.address)
    first_stage.check_rights(c, q, may_write)
    return target, True, _granted(r, q, may_write), bits, False


def _second(c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry) -> Landing:
    codes = second_stage.SCALABLE
    stage = second_of(r, entry)
    second_stage.check_width(c, r, codes, stage.levels, q.address)
    dirty = first_stage.sets_dirty(r, q)
    target, may_read, may_write, bits = second_stage.walk(c, r, codes, stage, q.address, dirty)
    second_stage.check_rights(c, r, codes, q, may_read, may_write)
    return target, may_read, _granted(r, q, may_write), bits, False


def _nested(c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry) -> Landing:
    dirty = first_stage.sets_dirty(r, q)
    first, stage = first_of(r, entry, privileged, dirty), second_of(r, entry)
    first_stage.check_canonical(c, r, first.levels, q.address)
    codes = second_stage.SCALABLE
    target, may_read, may_write, _, bits = nested.walk(
        c, r, codes, first, stage, q.address, dirty
    )
    second_stage.check_rights(c, r, codes, q, may_read, may_write)
    return target, may_read, _granted(r, q, may_write), bits, False


def _pass(c: Carrier, r: Registers, q: Request, privileged: Cond, entry: Entry) -> Landing:
    pass_through.check_width(c, r, q.address, f.SGN_4_2)
    return q.address, True, _granted(r, q, True), 12, False


@rule(
    "vtd.scalable.rights", "VT-d 3.6.1, 3.7.1, 3.8.1, table 30 SGN.6, SGN.7",
    "A request that lacks a right is blocked (write told before read); a translation request with "
    "NW=1 is granted no write.",
)
def _granted(r: Registers, q: Request, may_write: Cond) -> Cond:
    """Return the write right an answer carries."""
    return may_write & ats.asks_write(r, q) if q.kind is TRANSLATION else may_write
