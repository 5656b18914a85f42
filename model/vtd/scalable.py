"""Scalable mode: root and context entries, and which requests they admit (VT-d 9.2, 9.4)."""

from __future__ import annotations

from typing import NamedTuple

from dmaproof.model.algebra import Carrier, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import faults as f
from dmaproof.model.vtd import interrupt_range, pasid, pass_through
from dmaproof.model.vtd.legacy import Landing
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import PAGE_REQUEST, TRANSLATED, TRANSLATION, Request


class Context(NamedTuple):
    """Quadwords 0 and 1 of a checked scalable-mode context entry."""

    low: Word
    high: Word


@rule(
    "vtd.scalable.root-entry", "VT-d 9.2",
    "Root entry: 16 bytes by bus; lower half for devfn 00h-7Fh, upper half for 80h-FFh; only the "
    "half in use counts.",
)
def root_entry(c: Carrier, r: Registers, sid: Word) -> Word:
    """Return the address of the context table of the requester's half."""
    where = (((sid >> 8) << 4) | ((sid >> 7) & 1) << 3) + r.root
    half = c.read(where, f.SRT_1)
    c.fail((half & 1) == 0, f.SRT_2)
    c.fail((half & r.root_reserved) != 0, f.SRT_3)
    return half & r.address


@rule(
    "vtd.scalable.context-entry", "VT-d 9.4",
    "Context entry: 32 bytes by devfn & 7Fh; fields of absent capabilities are reserved; DTE=0 "
    "with PRE=1, RID_PASID beyond PDTS are invalid.",
)
def context_entry(c: Carrier, r: Registers, sid: Word) -> Context:
    """Return the requester's context entry, checked."""
    where = root_entry(c, r, sid) | (sid & 0x7F) << 5
    low, high, upper, uppermost = c.words(where, 4, f.SCT_1)
    rest = upper | uppermost
    c.suppress((low & 2) != 0)
    c.fail((low & 1) == 0, f.SCT_2)
    reserved = r.scalable_context_reserved
    c.fail(((low & reserved[0]) | (high & reserved[1]) | rest) != 0, f.SCT_3)
    if r.prs:
        c.fail((low & 0x14) == 0x10, f.SCT_4_1)
    if r.rps:
        c.fail(_beyond_directory(low, high & 0xFFFFF), f.SCT_4_2)
    return Context(low, high)


def _beyond_directory(low: Word, number: Word) -> Word:
    """Return whether PASID *number* lies beyond the directory that PDTS describes."""
    # 2^(PDTS + 7) directory entries of 64 PASIDs each.
    return (number >> (((low >> 9) & 7) + 13)) != 0


@rule(
    "vtd.scalable.request-allowed", "VT-d 9.4, table 30 SCT.5-10, SGN.10",
    "EPTR=1 with PASIDE=0 is invalid. DTE admits ATS requests, PASIDE requests-with-PASID, PRE "
    "page requests, EPTR translated requests with PASID; the PASID must fit PDTS and PSS and "
    "differ from RID_PASID.",
)
def check_request(c: Carrier, r: Registers, q: Request, context: Context) -> None:
    """Block a request that the context entry does not admit."""
    low, high = context
    tagged = q.with_pasid
    if r.ptrs:  # untranslated and translation requests with PASID are told of PASIDE=0 instead
        told = q.kind in (TRANSLATED, PAGE_REQUEST) or tagged ^ True
        c.fail(((low & 0x48) == 0x40) & told, f.SCT_4_3)
    if q.kind in (TRANSLATION, TRANSLATED):
        c.fail((low & 4) == 0, f.SCT_5)
    if q.kind is TRANSLATED:
        c.fail(tagged & ((low & 0x40) == 0), f.SCT_10)
    elif tagged is not False:
        c.fail(tagged & ((low & 8) == 0), f.SCT_6)
    if q.kind is PAGE_REQUEST:
        c.fail((low & 0x10) == 0, f.SCT_8)
    if tagged is False:
        return
    if q.kind is not PAGE_REQUEST:
        c.fail(tagged & ((q.pasid >> (r.pss + 1)) != 0), f.SGN_10)
    c.fail(tagged & _beyond_directory(low, q.pasid), f.SCT_7)
    rid_pasid = high & 0xFFFFF if r.rps else 0
    c.fail(tagged & (q.pasid == rid_pasid), f.SCT_9)


def translate(c: Carrier, r: Registers, q: Request) -> Landing:
    """Process a request in scalable mode."""
    context = c.context(context_entry, r, q.sid) if c.caching else context_entry(c, r, q.sid)
    check_request(c, r, q, context)
    if q.kind is TRANSLATED:
        pass_through.check_translated(c, r, q.address, f.SGN_4_1)
        interrupt_range.check_output(c, q, q.address, 12, True, f.SGN_8)
        return q.address, True, True, 12, False
    return pasid.translate(c, r, q, context.low, context.high)
