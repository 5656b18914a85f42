"""Invalidation commands and what each must drop (VT-d 6.5, table 17).

The predicates are written with the operators all carriers share, so they decide concrete entries
and state proof obligations about arbitrary ones. They say what *must* be dropped: hardware may drop
more (finer entries, whole caches), never less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from dmaproof.model.algebra import MASK64, Carrier, Cond, Value, Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd.registers import Mode
from dmaproof.model.vtd.requests import Request

LEGACY_PGTT: Final = 0  # tag of entries made by legacy tables


class Op(Enum):
    """Kind and granularity of an invalidation. It is structure, never symbolic."""

    CONTEXT_GLOBAL = "context cache, global"
    CONTEXT_DOMAIN = "context cache, domain"
    CONTEXT_DEVICE = "context cache, device"
    PASID_CACHE_GLOBAL = "PASID cache, global"
    PASID_CACHE_DOMAIN = "PASID cache, all PASIDs of a domain"
    PASID_CACHE_PASID = "PASID cache, PASID in domain"
    IOTLB_GLOBAL = "IOTLB, global"
    IOTLB_DOMAIN = "IOTLB, domain"
    IOTLB_PAGE = "IOTLB, page in domain"
    PASID_IOTLB_PASID = "IOTLB, PASID in domain"
    PASID_IOTLB_PAGE = "IOTLB, page in PASID"
    DEVICE_TLB = "device TLB"
    PASID_DEVICE_TLB = "device TLB, PASID"
    INTERRUPT_ENTRY = "interrupt entry cache"
    PAGE_RESPONSE = "page group response"
    WAIT = "wait"


@dataclass(frozen=True)
class Command:
    """One invalidation command (words may be symbolic).

    Attributes:
        op: what is flushed.
        did, pasid, sid: tags; those that *op* does not use are ignored (a page group response
            goes to *sid*, under *pasid* if *tagged*).
        address: page address (device TLB: with the size coded into it if *sized*).
        am: log2 of the number of pages.
        ih: only leaf entries were changed (invalidation hint).
        fm: function mask of a device-selective context flush.
        sized: S bit of a device-TLB flush.
        whole: G bit of a PASID device-TLB flush: every PASID.
        status_address, status_data, fence: wait descriptor (SW with address, FN).
        index: interrupt entry, of 2^*am* that go; None: all.
        tagged, group, code: of a page group response: PASID present, PRGI, response code.

    """

    op: Op
    did: Word = 0
    pasid: Word = 0
    sid: Word = 0
    address: Word = 0
    am: Word = 0
    ih: Cond = False
    fm: Word = 0
    sized: Cond = False
    whole: Cond = False
    status_address: int | None = None
    status_data: int = 0
    fence: bool = False
    index: int | None = None
    tagged: bool = False
    group: int = 0
    code: int = 0


class ContextTag(NamedTuple):
    """Tags of a context-cache entry; *did* counts in legacy mode only."""

    sid: Word
    did: Word


class PasidTag(NamedTuple):
    """Tags of a PASID-cache entry; *did* is the one in the entry."""

    sid: Word
    pasid: Word
    did: Word


class IotlbTag(NamedTuple):
    """Tags of an IOTLB entry that maps the page at *page*.

    Requests-without-PASID leave *pasid* = RID_PASID and *tagged* false.
    """

    sid: Word
    tagged: Cond
    pasid: Word
    did: Word
    pgtt: Word
    page: Word


class PagingTag(NamedTuple):
    """Tags of a paging-structure-cache entry: covers 2^(3 + 9 *level*) bytes at *page*.

    *first* marks first-stage and combined (nested) entries.
    """

    first: Cond
    did: Word
    pasid: Word
    level: int
    page: Word


class DeviceTag(NamedTuple):
    """Tags of a device-TLB entry."""

    sid: Word
    tagged: Cond
    pasid: Word
    page: Word


def context_tag(mode: Mode, sid: Word, words: Value) -> ContextTag:
    """Return the tag of a context entry; in scalable mode it has no DID."""
    return ContextTag(sid, 0 if mode is Mode.SCALABLE else words[1] >> 8 & 0xFFFF)


def pasid_tag(sid: Word, pasid: Word, words: Value) -> PasidTag:
    """Return the tag of a scalable-mode PASID entry."""
    return PasidTag(sid, pasid, words[1] & 0xFFFF)


def serves_context(tag: ContextTag, sid: Word) -> Cond:
    """Return whether a lookup for a requester may use the context-cache entry (VT-d 6.2.2)."""
    return tag.sid == sid


def serves_pasid(tag: PasidTag, sid: Word, pasid: Word) -> Cond:
    """Return whether a lookup may use the PASID-cache entry (VT-d 6.2.3)."""
    return (tag.sid == sid) & (tag.pasid == pasid)


def serves_iotlb(tag: IotlbTag, q: Request) -> Cond:
    """Return whether a request may use the IOTLB entry, privilege apart (VT-d 6.2.4)."""
    return serves_device(DeviceTag(tag.sid, tag.tagged, tag.pasid, tag.page), q)


def serves_device(tag: DeviceTag, q: Request) -> Cond:
    """Return whether a device may use the entry of its TLB for an access (VT-d 4.2)."""
    page = tag.page == q.address & ~0xFFF
    same = (tag.sid == q.sid) & (tag.tagged == q.with_pasid) & page
    return same & ((tag.tagged ^ True) | (tag.pasid == q.pasid))


def serves_paging(tag: PagingTag, did: Word, pasid: Word, address: Word) -> Cond:
    """Return whether a walk may use the paging-structure entry of its stage (VT-d 6.2.5)."""
    bits = 3 + 9 * tag.level
    same = (tag.did == did) & (tag.pasid == pasid)
    return same & (tag.page >> bits == address >> bits)


_CONTEXT_OPS: Final = frozenset({Op.CONTEXT_GLOBAL, Op.CONTEXT_DOMAIN, Op.CONTEXT_DEVICE})
_PASID_OPS: Final = frozenset({
    Op.PASID_CACHE_GLOBAL, Op.PASID_CACHE_DOMAIN, Op.PASID_CACHE_PASID,
})
_IOTLB_OPS: Final = frozenset({Op.IOTLB_GLOBAL, Op.IOTLB_DOMAIN, Op.IOTLB_PAGE})
_PASID_IOTLB_OPS: Final = frozenset({Op.PASID_IOTLB_PASID, Op.PASID_IOTLB_PAGE})
_TO_DEVICE: Final = frozenset({Op.DEVICE_TLB, Op.PASID_DEVICE_TLB, Op.PAGE_RESPONSE})
_AFTER: Final[dict[Op, frozenset[Op]]] = {
    **dict.fromkeys(_PASID_OPS, _CONTEXT_OPS),
    **dict.fromkeys(_IOTLB_OPS | _PASID_IOTLB_OPS, _CONTEXT_OPS | _PASID_OPS),
    Op.DEVICE_TLB: _IOTLB_OPS | {Op.INTERRUPT_ENTRY} | _TO_DEVICE,
    Op.PASID_DEVICE_TLB: _IOTLB_OPS | _PASID_IOTLB_OPS | {Op.INTERRUPT_ENTRY} | _TO_DEVICE,
    Op.PAGE_RESPONSE: _TO_DEVICE,
}


@rule(
    "vtd.invalidation.order", "VT-d 6.5.2.12, 7.8",
    "Without a wait between them, a command starts after those ahead of it in the queue that are "
    "of an outer cache: context, PASID, IOTLB, device; device-TLB flushes and page group responses "
    "keep their order.",
)
def waits_for(later: Command, earlier: Command) -> bool:
    """Return whether *later* starts only when *earlier*, ahead of it in the queue, is complete."""
    return earlier.op in _AFTER.get(later.op, ())


@rule(
    "vtd.invalidation.range", "VT-d 6.5.2.3",
    "A page command names 2^AM naturally aligned pages.",
)
def in_range(command: Command, page: Word, size_bits: Word = 12) -> Cond:
    """Return whether the command's range overlaps the 2^*size_bits* bytes at *page*."""
    wide = command.am + 12
    if isinstance(size_bits, int) and size_bits == 12:
        return (page >> wide) == (command.address >> wide)
    return ((page >> wide) == (command.address >> wide)) | (
        (page >> size_bits) == (command.address >> size_bits)
    )


@rule(
    "vtd.invalidation.context", "VT-d 6.5.2.1, table 17",
    "Context flush: all; by DID (legacy only); by SID under the function mask (and DID in legacy "
    "mode).",
)
def drops_context(c: Carrier, command: Command, tag: ContextTag, *, legacy: bool) -> Cond:
    """Return whether *command* must drop the context-cache entry."""
    if command.op is Op.CONTEXT_GLOBAL:
        return True
    if command.op is Op.CONTEXT_DOMAIN:
        return (tag.did == command.did) if legacy else False
    if command.op is not Op.CONTEXT_DEVICE:
        return False
    # FM 0..3 masks none, bit 2, bits 2:1, bits 2:0 of the function number.
    masked = c.lookup((0, 4, 6, 7), command.fm)
    same = ((tag.sid ^ command.sid) & (masked ^ 0xFFFF)) == 0
    return same & (tag.did == command.did) if legacy else same


@rule(
    "vtd.invalidation.pasid-cache", "VT-d 6.5.2.2, table 17",
    "PASID-cache flush: all; by DID; by DID and PASID.",
)
def drops_pasid(command: Command, tag: PasidTag) -> Cond:
    """Return whether *command* must drop the PASID-cache entry."""
    if command.op is Op.PASID_CACHE_GLOBAL:
        return True
    if command.op is Op.PASID_CACHE_DOMAIN:
        return tag.did == command.did
    if command.op is Op.PASID_CACHE_PASID:
        return (tag.did == command.did) & (tag.pasid == command.pasid)
    return False


@rule(
    "vtd.invalidation.iotlb", "VT-d 6.5.2.3, 6.5.2.4, table 17",
    "IOTLB flush: all; by DID; by DID and page (entries with a first stage: the whole DID); "
    "PASID-IOTLB flush: by DID and PASID; by DID, PASID and page (entries with a first stage).",
)
def drops_iotlb(command: Command, tag: IotlbTag) -> Cond:
    """Return whether *command* must drop the IOTLB entry."""
    op = command.op
    if op is Op.IOTLB_GLOBAL:
        return True
    domain = tag.did == command.did
    first = (tag.pgtt == 1) | (tag.pgtt == 3)
    if op is Op.IOTLB_DOMAIN:
        return domain
    if op is Op.IOTLB_PAGE:
        return domain & (first | in_range(command, tag.page))
    same_pasid = domain & (tag.pgtt != LEGACY_PGTT) & (tag.pasid == command.pasid)
    if op is Op.PASID_IOTLB_PASID:
        return same_pasid
    if op is Op.PASID_IOTLB_PAGE:
        return same_pasid & first & in_range(command, tag.page)
    return False


@rule(
    "vtd.invalidation.paging", "VT-d 6.5.2.3, 6.5.2.4, table 17",
    "IOTLB flushes drop paging-structure entries: all; by DID; page: first-stage entries of the "
    "DID, second-stage entries in range if IH=0. PASID-IOTLB flushes drop first-stage entries of "
    "DID and PASID; page: in range if IH=0.",
)
def drops_paging(command: Command, tag: PagingTag) -> Cond:
    """Return whether *command* must drop the paging-structure-cache entry."""
    op = command.op
    if op is Op.IOTLB_GLOBAL:
        return True
    domain = tag.did == command.did
    if op is Op.IOTLB_DOMAIN:
        return domain
    reached = in_range(command, tag.page, 3 + 9 * tag.level) & (command.ih ^ True)
    if op is Op.IOTLB_PAGE:
        return domain & (tag.first | reached)
    same_pasid = domain & tag.first & (tag.pasid == command.pasid)
    if op is Op.PASID_IOTLB_PASID:
        return same_pasid
    if op is Op.PASID_IOTLB_PAGE:
        return same_pasid & reached
    return False


@rule(
    "vtd.invalidation.device-tlb", "VT-d 6.5.2.5, 6.5.2.6; PCIe 10.3",
    "A device-TLB flush reaches one function, its entries without PASID, or with the PASID (G: "
    "any), in the range whose size the low one bits of the address code if S=1.",
)
def drops_device(c: Carrier, command: Command, tag: DeviceTag) -> Cond:
    """Return whether *command* must drop the device-TLB entry."""
    function = tag.sid == command.sid
    # S=1: the lowest zero bit from bit 12 on ends a run of ones; it and all below are "any".
    ones = command.address | 0xFFF
    any_bits = c.select(command.sized, (ones ^ ((ones + 1) & MASK64)) | 0xFFF, 0xFFF)
    reached = ((tag.page ^ command.address) & (any_bits ^ MASK64)) == 0
    if command.op is Op.DEVICE_TLB:
        return function & reached & (tag.tagged ^ True)
    if command.op is Op.PASID_DEVICE_TLB:
        same = command.whole | (tag.pasid == command.pasid)
        return function & reached & tag.tagged & same
    return False
