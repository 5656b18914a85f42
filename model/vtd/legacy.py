"""Legacy mode: root and context entries, and what they do with a request (VT-d 9.1, 9.3)."""

from __future__ import annotations

from typing import Any, Final

from dmaproof.model.algebra import Carrier, Cond, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import ats, interrupt_range, pass_through, second_stage
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import TRANSLATED, TRANSLATION, UNTRANSLATED, Request
from dmaproof.model.vtd.second_stage import Stage

Landing = tuple[Any, ...]  # output address, R, W, page bits, is an interrupt request
TT_UNTRANSLATED: Final = 0
TT_ALL: Final = 1
TT_PASS_THROUGH: Final = 2


@rule("vtd.legacy.root-entry", "VT-d 9.1", "Root entry: 16 bytes by bus; P, reserved bits, CTP.")
def root_entry(c: Carrier, r: Registers, sid: Word) -> Word:
    """Return the address of the requester's context table."""
    where = ((sid >> 8) << 4) + r.root
    low = c.read(where, f.LRT_1)
    high = c.read(where + 8, f.LRT_1)
    c.fail((low & 1) == 0, f.LRT_2)
    c.fail(((low & r.root_reserved) | high) != 0, f.LRT_3)
    return low & r.address


@rule(
    "vtd.legacy.context-entry", "VT-d 9.3",
    "Context entry: 16 bytes by device and function; P, FPD, TT, AW, SSPTPTR, DID. AW must be "
    "supported whatever TT says; TT=01 needs ECAP.DT, TT=10 ECAP.PT, TT=11 is reserved.",
)
def context_entry(c: Carrier, r: Registers, sid: Word) -> tuple[Word, Word]:
    """Return both quadwords of the requester's context entry, checked."""
    where = root_entry(c, r, sid) | (sid & 0xFF) << 4
    low = c.read(where, f.LCT_1)
    high = c.read(where + 8, f.LCT_1)
    c.suppress((low & 2) != 0)
    c.fail((low & 1) == 0, f.LCT_2)
    reserved = r.context_reserved
    c.fail(((low & reserved[0]) | (high & reserved[1])) != 0, f.LCT_3)
    second_stage.check_address_width(c, r, high & 7, f.LCT_4_1)
    tt = (low >> 2) & 3
    supported = tt == TT_UNTRANSLATED
    if r.dt:
        supported = supported | (tt == TT_ALL)
    if r.pt:
        supported = supported | (tt == TT_PASS_THROUGH)
    c.fail(supported ^ True, f.LCT_4_2)
    return low, high


@rule(
    "vtd.legacy.ats-blocked", "VT-d 9.3, table 30 LCT.5",
    "Only TT=01 lets translation and translated requests through.",
)
def check_kind(c: Carrier, q: Request, tt: Word) -> None:
    """Block an ATS request that TT does not allow."""
    if q.kind is not UNTRANSLATED:
        c.fail(tt != TT_ALL, f.LCT_5)


def translate(c: Carrier, r: Registers, q: Request) -> Landing:
    """Process a request without PASID in legacy mode."""
    low, high = (
        c.context(context_entry, r, q.sid) if c.caching else context_entry(c, r, q.sid)
    )
    tt = (low >> 2) & 3
    check_kind(c, q, tt)
    if q.kind is TRANSLATED:
        pass_through.check_translated(c, r, q.address, f.LGN_1_2)
        interrupt_range.check_output(c, q, q.address, 12, True, f.LGN_4)
        return q.address, True, True, 12, False
    if q.kind is UNTRANSLATED:
        return _translated(c, r, q, low, high, tt)
    special, answer = ats.message(r, q)
    return c.when(special ^ True, _translated, r, q, low, high, tt, otherwise=answer)


def _translated(
    c: Carrier, r: Registers, q: Request, low: Word, high: Word, tt: Word
) -> Landing:
    landing = _by_type(c, r, q, low, high, tt)
    mapped = landing[1] | landing[2]
    interrupt_range.check_output(c, q, landing[0], landing[3], mapped, f.LGN_4)
    return landing


def _by_type(
    c: Carrier, r: Registers, q: Request, low: Word, high: Word, tt: Word
) -> Landing:
    identity: Landing = (q.address, True, True, 12, False)
    through: Cond = False
    if r.pt:
        through = tt == TT_PASS_THROUGH
        c.when(through, _pass, r, q.address, otherwise=())
    return c.when(
        through ^ True, _second, r, q, low & r.address, (high & 7) + 2, otherwise=identity
    )


def _pass(c: Carrier, r: Registers, address: Word) -> tuple[()]:
    pass_through.check_width(c, r, address, f.LGN_1_3)
    return ()


def _second(c: Carrier, r: Registers, q: Request, table: Word, levels: Word) -> Landing:
    codes = second_stage.LEGACY
    second_stage.check_width(c, r, codes, levels, q.address)
    stage = Stage(table, levels, False, True)
    target, may_read, may_write, bits = second_stage.walk(c, r, codes, stage, q.address, q.write)
    second_stage.check_rights(c, r, codes, q, may_read, may_write)
    if q.kind is TRANSLATION:
        may_write = may_write & ats.asks_write(r, q)
    return target, may_read, may_write, bits, False
