"""Test vectors 89 to 103: the set of legal outcomes after writes and invalidations."""

from __future__ import annotations

import pytest

from dmaproof.model.vtd import entries
from dmaproof.model.vtd.caches import GLOBAL, Hardware, Legal
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind, Request

from .vocabulary import (
    CAP_BASE,
    DT,
    FULL,
    PAGE_AT,
    PT,
    SCALABLE,
    SID,
    A,
    V,
    legacy,
    nested,
    path,
    process,
    read,
    remap,
    scalable,
    tagged,
    write,
)

NEW = 0x9000000
OLD = Legal(PAGE_AT)
CM = 1 << 7


def unit(builder, *watched, mode=0, cap=CAP_BASE, ecap=PT):
    registers = Registers(cap, ecap, builder.root | mode << 10, haw=48)
    return Hardware(builder.image, registers, watched)


def fault(name):
    return Legal(None, name)


def page(address, did=1, am=0, ih=False):
    return Command(Op.IOTLB_PAGE, did=did, address=address, am=am, ih=ih)


def domain(did=1):
    return Command(Op.IOTLB_DOMAIN, did=did)


CONTEXT = Command(Op.CONTEXT_DEVICE, sid=SID, did=1)


def test_89_used_then_cleared():
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    assert hardware.outcomes(write(A)) == {OLD}
    hardware.write(leaf, 0)
    assert hardware.outcomes(write(A)) == {OLD, fault("LGN.2")}


@pytest.mark.parametrize("command", [page(A, did=2), page(A + 0x1000), domain(2)])
def test_90_wrong_domain_or_address(command):
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    hardware.write(leaf, 0)
    hardware.invalidate(command)
    assert hardware.outcomes(write(A)) == {OLD, fault("LGN.2")}


def test_91_range_covers_the_neighbour():
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    hardware.write(leaf, 0)
    hardware.invalidate(page(A + 0x1000, am=1))
    assert hardware.outcomes(write(A)) == {fault("LGN.2")}


@pytest.mark.parametrize("command", [domain(), Command(Op.IOTLB_GLOBAL)])
def test_92_domain_and_global(command):
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    hardware.write(leaf, 0)
    hardware.invalidate(command)
    assert hardware.outcomes(write(A)) == {fault("LGN.2")}


def test_93_context_flush_alone():
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    hardware.write(leaf, 0)
    hardware.invalidate(Command(Op.CONTEXT_GLOBAL))
    assert hardware.outcomes(write(A)) == {OLD, fault("LGN.2")}


def test_94_widened_right():
    builder, leaf, _ = legacy(rights=1)
    hardware = unit(builder, read(A), write(A))
    hardware.write(leaf, PAGE_AT | 3)
    assert hardware.outcomes(write(A)) == {OLD, fault("LGN.2")}
    hardware.invalidate(page(A))
    assert hardware.outcomes(write(A)) == {OLD}
    builder, _, _, leaf, _ = scalable(rights=1)
    hardware = unit(builder, read(A), write(A), mode=1, ecap=SCALABLE)
    hardware.write(leaf, PAGE_AT | 3)
    assert hardware.outcomes(write(A)) == {OLD, fault("SGN.6")}


@pytest.mark.parametrize("caching_mode", [0, CM])
def test_95_absent_to_present(caching_mode):
    builder, leaf, _ = legacy(rights=0)
    hardware = unit(builder, write(A), cap=CAP_BASE | caching_mode)
    hardware.write(leaf, PAGE_AT | 3)
    want = {OLD, fault("LGN.2")} if caching_mode else {OLD}
    assert hardware.outcomes(write(A)) == want
    hardware.invalidate(page(A))
    assert hardware.outcomes(write(A)) == {OLD}


def test_95_context_absent_to_present_with_caching_mode():
    """With CM=1 a context entry that was not present is held under DID 0."""
    builder, _, top = legacy(present=0)
    hardware = unit(builder, write(A), cap=CAP_BASE | CM)
    context = builder.image[builder.root] & ~0xFFF | SID << 4
    hardware.write(context, *entries.legacy_context(top, 2, 1))
    hardware.write(context, entries.legacy_context(top, 2, 1)[0])
    assert fault("LCT.2") in hardware.outcomes(write(A))
    hardware.invalidate(CONTEXT)
    assert fault("LCT.2") in hardware.outcomes(write(A)), "DID 1 does not reach it"
    hardware.invalidate(Command(Op.CONTEXT_DEVICE, sid=SID, did=0))
    assert hardware.outcomes(write(A)) == {OLD}


def two_tables():
    builder, *_ = legacy()
    other = builder.frame()
    builder.second_stage(other, 4, A, NEW)
    context = builder.image[builder.root] & ~0xFFF | SID << 4
    return builder, context, entries.legacy_context(other, 2, 1)


def test_96_context_points_elsewhere():
    builder, context, words = two_tables()
    hardware = unit(builder, write(A))
    hardware.write_pair(context, *words)
    both = {OLD, Legal(NEW)}
    assert hardware.outcomes(write(A)) == both
    hardware.invalidate(CONTEXT)
    assert hardware.outcomes(write(A)) == both, "the IOTLB still holds the old page"
    hardware.invalidate(domain())
    assert hardware.outcomes(write(A)) == {Legal(NEW)}


def test_97_wrong_order():
    builder, context, words = two_tables()
    hardware = unit(builder, write(A))
    hardware.write_pair(context, *words)
    hardware.invalidate(domain())
    hardware.invalidate(CONTEXT)
    assert hardware.outcomes(write(A)) == {OLD, Legal(NEW)}
    hardware.invalidate(domain())
    assert hardware.outcomes(write(A)) == {Legal(NEW)}


def test_97_no_wait_between():
    """Without a wait, the queue's own order is enough (VT-d 6.5.2.12), and the wrong one is not."""
    for commands, stale in (([CONTEXT, domain()], set()), ([domain(), CONTEXT], {OLD})):
        builder, context, words = two_tables()
        hardware = unit(builder, write(A))
        hardware.write_pair(context, *words)
        hardware.invalidate_unordered(commands)
        assert hardware.outcomes(write(A)) == {Legal(NEW)} | stale


def test_98_another_requester():
    builder, context, words = two_tables()
    hardware = unit(builder, write(A))
    hardware.write_pair(context, *words)
    hardware.invalidate(Command(Op.CONTEXT_DEVICE, sid=SID + 1, did=1))
    hardware.invalidate(domain())
    assert hardware.outcomes(write(A)) == {OLD, Legal(NEW)}
    hardware.invalidate(Command(Op.CONTEXT_DEVICE, sid=SID + 4, did=1, fm=1))
    hardware.invalidate(domain())
    assert hardware.outcomes(write(A)) == {Legal(NEW)}, "the function mask covers bit 2"


def test_99_old_domain_must_be_flushed():
    builder, context, words = two_tables()
    hardware = unit(builder, write(A))
    hardware.write_pair(context, words[0], words[1] & 0xFF | 9 << 8)
    hardware.invalidate(CONTEXT)
    hardware.invalidate(domain(9))
    assert hardware.outcomes(write(A)) == {OLD, Legal(NEW)}
    hardware.invalidate(domain(1))
    assert hardware.outcomes(write(A)) == {Legal(NEW)}


def changed_pasid_entry():
    builder, _, entry, *_ = scalable()
    other = builder.frame()
    builder.second_stage(other, 4, A, NEW)
    hardware = unit(builder, write(A), mode=1, ecap=SCALABLE)
    words = entries.pasid(2, 1, second=other, aw=2)
    hardware.write_pair(entry, words[0], words[1])
    return hardware


def test_100_pasid_entry_changed():
    assert changed_pasid_entry().outcomes(write(A)) == {OLD, Legal(NEW)}


def test_101_pasid_cache_flush_alone():
    hardware = changed_pasid_entry()
    hardware.invalidate(Command(Op.PASID_CACHE_PASID, did=1, pasid=0))
    assert hardware.outcomes(write(A)) == {OLD, Legal(NEW)}
    hardware.invalidate(domain())
    assert hardware.outcomes(write(A)) == {Legal(NEW)}


def test_102_large_page():
    base = 0x40000000
    builder, leaf, _ = legacy(iova=base, hpa=0x80000000, size_level=2)
    inside, other = write(base + 0x5000), write(base + 0x9000)
    hardware = unit(builder, inside, other)
    hardware.write(leaf, 0)
    hardware.invalidate(page(base + 0x5000))
    assert hardware.outcomes(inside) == {fault("LGN.2")}
    assert hardware.outcomes(other) == {Legal(0x80009000), fault("LGN.2")}
    hardware.invalidate(page(base, am=9))
    assert hardware.outcomes(other) == {fault("LGN.2")}


@pytest.mark.parametrize("hint", [True, False])
def test_103_non_leaf_cleared(hint):
    builder, _, top = legacy()
    builder.second_stage(top, 4, A + 0x1000, NEW)
    hardware = unit(builder, write(A), write(A + 0x1000))
    hardware.write(path(builder, top, A)[2], 0)
    hardware.invalidate(page(A, ih=hint))
    hardware.invalidate(page(A + 0x1000, ih=hint))
    stale = {Legal(NEW)} if hint else set()
    assert hardware.outcomes(write(A + 0x1000)) == {fault("LGN.2")} | stale


def test_first_stage_page_flush_needs_pasid_iotlb():
    builder, _, _, leaf, _ = process()
    request = tagged(5, V, write=True)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    hardware.write(leaf, 0)
    both = {OLD, fault("SFS.2")}
    assert hardware.outcomes(request) == both
    hardware.invalidate(Command(Op.PASID_IOTLB_PAGE, did=1, pasid=6, address=V))
    assert hardware.outcomes(request) == both
    hardware.invalidate(Command(Op.PASID_IOTLB_PAGE, did=1, pasid=5, address=V))
    assert hardware.outcomes(request) == {fault("SFS.2")}


def test_nested_second_stage_change_needs_domain_reach():
    """A page flush of the guest-physical page drops first-stage entries of the whole domain."""
    builder, _, _, second = nested()
    request = tagged(5, V, write=True)
    leaf = remap(builder, second, PAGE_AT, 3)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    hardware.write(leaf, 0)
    assert hardware.outcomes(request) == {OLD, fault("SSS.2")}
    hardware.invalidate(Command(Op.PASID_IOTLB_PAGE, did=1, pasid=5, address=V + 0x1000))
    assert hardware.outcomes(request) == {OLD, fault("SSS.2")}
    hardware.invalidate(Command(Op.IOTLB_PAGE, did=1, address=0))
    assert hardware.outcomes(request) == {fault("SSS.2")}


def test_device_tlb_outlives_iotlb_flush():
    builder, leaf, _ = legacy(tt=1)
    ats = read(A, kind=Kind.TRANSLATION)
    hardware = unit(builder, ats, ecap=PT | DT)
    hardware.write(leaf, 0)
    for command in GLOBAL:
        hardware.invalidate(command)
    assert hardware.device_outcomes(read(A)) == {OLD}
    hardware.invalidate(Command(Op.DEVICE_TLB, sid=SID + 1, address=A))
    assert hardware.device_outcomes(read(A)) == {OLD}
    hardware.invalidate(Command(Op.DEVICE_TLB, sid=SID, address=(A & ~0xFFFF) | 0x7000, sized=True))
    assert hardware.device_outcomes(read(A)) == set()


def test_stale_iotlb_refills_the_device_tlb():
    """Device TLB flushed before the IOTLB: the device asks again and gets the old answer."""
    builder, leaf, _ = legacy(tt=1)
    ats = read(A, kind=Kind.TRANSLATION)
    device = Command(Op.DEVICE_TLB, sid=SID, address=A)
    hardware = unit(builder, read(A), ats, ecap=PT | DT)
    hardware.write(leaf, 0)
    hardware.invalidate(device)
    assert hardware.device_outcomes(read(A)) == {OLD}
    hardware.invalidate(domain())
    assert hardware.device_outcomes(read(A)) == {OLD}, "the device TLB itself is inside"
    hardware.invalidate(device)
    assert hardware.device_outcomes(read(A)) == set()


def test_torn_pasid_entry():
    """A present entry changed in two 16-byte writes: a mixture is a legal outcome."""
    builder, _, entry, _, _ = process()
    other = builder.frame()
    builder.first_stage(other, 4, V, NEW)
    request = tagged(5, V)
    words = entries.pasid(1, 2, first=other, pwsnp=1, sre=1)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    hardware.write_pair(entry, words[0], words[1])
    assert any(h.tag.did == 2 and h.value[0] == PAGE_AT for h in hardware.caches.iotlb), (
        "the old space is cached under the new domain id"
    )
    hardware.write_pair(entry + 16, words[2], words[3])
    hardware.invalidate(Command(Op.PASID_CACHE_PASID, did=1, pasid=5))
    hardware.invalidate(Command(Op.PASID_IOTLB_PASID, did=1, pasid=5))
    assert OLD in hardware.outcomes(request), "flushing the old domain id alone is not enough"


def test_set_root_keeps_caches_without_esrtps():
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    hardware.write(leaf, 0)
    old = hardware.registers
    hardware.set_root(old)
    assert OLD in hardware.outcomes(write(A))
    hardware.set_root(Registers(old.cap | 1 << 63, old.ecap, old.rtaddr, haw=48))
    assert OLD not in hardware.outcomes(write(A))


def test_interrupt_range_is_never_cached():
    builder, *_ = legacy(iova=0xFEE00000)
    request = Request(SID, 0xFEE00000, write=True)
    hardware = unit(builder, request)
    assert hardware.outcomes(request) == {Legal(0xFEE00000, "interrupt")}
    assert not hardware.caches.iotlb
