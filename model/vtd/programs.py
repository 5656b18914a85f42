"""What the Linux driver writes, in order, with barriers and flushes.

A program is a list of steps; `run` executes them on a `Hardware` with caches, so that what a device
can do between any two steps is explored. Orders follow drivers/iommu/intel (pasid.c, iommu.c) and
VT-d 6.5.3.3, table 28; the extended-mode bind follows patch v4 04/22 of 2018. Concrete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dmaproof.model.algebra import Word
from dmaproof.model.rules import rule
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.caches import Hardware
from dmaproof.model.vtd.invalidation import Command, Op

_ALL_PAGES = (1 << 63) - 1 & ~0xFFF  # device TLB, S=1: every address


@dataclass(frozen=True)
class Write:
    """Store one or two quadwords at once (8 or 16 bytes are atomic, more are not)."""

    address: Word
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Barrier:
    """Stores before it are visible to hardware before stores after it."""


@dataclass(frozen=True)
class Flush:
    """Invalidation commands followed by one wait: they may complete in any order."""

    commands: tuple[Command, ...]


Step = Write | Barrier | Flush


def run(hardware: Hardware, steps: Iterable[Step]) -> Iterator[Step]:
    """Execute *steps*, yielding each after it took effect; hardware may act at every yield."""
    for step in steps:
        if isinstance(step, Write):
            if len(step.words) == 2:
                hardware.write_pair(step.address, *step.words)
            else:
                hardware.write(step.address, *step.words)
        elif isinstance(step, Flush):
            hardware.invalidate_unordered(step.commands)
        yield step


def perform(hardware: Hardware, steps: Iterable[Step]) -> None:
    """Execute *steps* to the end."""
    for _ in run(hardware, steps):
        pass


def _flush(*commands: Command) -> list[Step]:
    """One wait after each command, as the driver's qi_submit_sync does."""
    return [Flush((command,)) for command in commands]


@rule(
    "linux.vtd.context-map", "drivers/iommu/intel/iommu.c domain_context_mapping_one",
    "High quadword, then low quadword with P; no flush if nothing was present (CM=0).",
)
def set_domain(context: int, table: int, aw: int, did: int, *, tt: int = 0) -> list[Step]:
    """Legacy mode: let a requester use the second stage at *table*."""
    low, high = entries.legacy_context(table, aw, did, tt)
    return [Write(context + 8, (high,)), Barrier(), Write(context, (low,)), Barrier()]


@rule(
    "linux.vtd.context-clear", "drivers/iommu/intel/iommu.c domain_context_clear_one",
    "Clear the entry, then flush context (device), IOTLB (domain) and device TLB, in that order.",
)
def clear_domain(context: int, sid: int, did: int, *, ats: bool = False) -> list[Step]:
    """Legacy mode: take the domain away again."""
    steps: list[Step] = [Write(context, (0,)), Write(context + 8, (0,)), Barrier()]
    steps += _flush(
        Command(Op.CONTEXT_DEVICE, did=did, sid=sid), Command(Op.IOTLB_DOMAIN, did=did)
    )
    if ats:
        steps += _flush(Command(Op.DEVICE_TLB, sid=sid, address=_ALL_PAGES, sized=True))
    return steps


@rule(
    "linux.vtd.pasid-setup", "drivers/iommu/intel/pasid.c intel_pasid_setup_*; VT-d 6.5.3.3",
    "All fields but P, barrier, P last.",
)
def set_pasid(entry: Word, words: tuple[Word, ...]) -> list[Step]:
    """Scalable mode: write *words* (`entries.pasid`) to a table entry that is not present."""
    steps: list[Step] = [
        Write(entry + 8 * n, (words[n],)) for n in range(7, 0, -1)
    ]
    low = words[0]
    return [*steps, Write(entry, (low & ~1,)), Barrier(), Write(entry, (low,)), Barrier()]


@rule(
    "linux.vtd.pasid-teardown", "drivers/iommu/intel/pasid.c intel_pasid_tear_down_entry",
    "Clear P, barrier, flush PASID cache (PASID), IOTLB (by PASID for PGTT 1 and 4, else domain) "
    "and device TLB, then zero the entry.",
)
def clear_pasid(
    entry: Word, words: tuple[int, ...], sid: int, pasid: int, *, ats: bool = False
) -> list[Step]:
    """Scalable mode: tear down a present PASID-table entry that holds *words*."""
    did, pgtt = words[1] & 0xFFFF, words[0] >> 6 & 7
    iotlb = Command(Op.PASID_IOTLB_PASID, did=did, pasid=pasid)
    if pgtt in (2, 3):
        iotlb = Command(Op.IOTLB_DOMAIN, did=did)
    steps: list[Step] = [Write(entry, (words[0] & ~1,)), Barrier()]
    steps += _flush(Command(Op.PASID_CACHE_PASID, did=did, pasid=pasid), iotlb)
    if ats:
        steps += _flush(
            Command(Op.PASID_DEVICE_TLB, sid=sid, pasid=pasid, address=_ALL_PAGES, sized=True)
        )
    return [*steps, *(Write(entry + 8 * n, (0,)) for n in range(8)), Barrier()]


@rule(
    "linux.vtd.bind-guest-table", "patch v4 04/22 (2018) intel_iommu_bind_pasid_table",
    "The entry stays present: T=1, PRE, NESTE and PASIDE in the low quadword, then PASIDPTR and "
    "PTS, barrier, context flush (device), IOTLB flush (domain). PASID cache and device TLB are "
    "left alone.",
)
def bind_guest_table(
    context: Word, low: Word, sid: int, did: int, pasid_table: Word, pts: int
) -> list[Step]:
    """Let the guest's PASID table at *pasid_table* translate (extended mode).

    Args:
        context: address of the extended context entry.
        low: its quadword 0 before the call.
        sid: requester id.
        did: domain id in the entry.
        pasid_table: page-aligned guest-physical address of the guest's table.
        pts: size code: 2^(pts + 5) entries.

    """
    new = low & ~(7 << 2) | (1 << 11 | 1 << 10 | 1 << 9 | 1 << 2)
    return [
        Write(context, (new,)), Write(context + 16, (pasid_table | pts,)), Barrier(),
        *_flush(
            Command(Op.CONTEXT_DEVICE, did=did, sid=sid), Command(Op.IOTLB_DOMAIN, did=did)
        ),
    ]


@rule(
    "linux.vtd.unbind-guest-table", "patch v4 04/22 (2018) intel_iommu_unbind_pasid_table",
    "The context entry is cleared, with context flush (device) and IOTLB flush (domain); then a "
    "plain one is written, P with the last quadword. PASID cache and device TLB are left alone.",
)
def unbind_guest_table(
    context: Word, sid: int, did: int, table: Word, aw: int
) -> list[Step]:
    """Take the guest's PASID table away (extended mode); the second level stays in use.

    Args:
        context: address of the extended context entry.
        sid: requester id.
        did: domain id in the entry.
        table: top table of the second level.
        aw: its width code.

    """
    words = entries.extended_context(table, aw, did)
    return [
        *(Write(context + 8 * n, (0,)) for n in range(4)), Barrier(),
        *_flush(
            Command(Op.CONTEXT_DEVICE, did=did, sid=sid), Command(Op.IOTLB_DOMAIN, did=did)
        ),
        Write(context + 8, (words[1],)), Write(context, (words[0],)), Barrier(),
    ]


@rule(
    "linux.vtd.unmap", "drivers/iommu/intel/iommu.c intel_iommu_tlb_sync",
    "Clear the leaf, then flush the page range in the domain.",
)
def unmap_page(leaf: int, did: int, iova: int, size_level: int = 1) -> list[Step]:
    """Second stage: remove one mapping (*size_level* 1, 2, 3 for 4 KiB, 2 MiB, 1 GiB)."""
    am = 9 * (size_level - 1)
    command = Command(Op.IOTLB_PAGE, did=did, address=iova, am=am, ih=True)
    return [Write(leaf, (0,)), Barrier(), *_flush(command)]
