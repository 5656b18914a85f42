"""The driver's programs: what a device can reach after, and between, their steps."""

from __future__ import annotations

import pytest

from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd.caches import Hardware, Legal
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Flush, Write, perform, run
from dmaproof.model.vtd.registers import Registers
from dmaproof.model.vtd.requests import Kind

from .vocabulary import (
    CAP_BASE,
    EXTENDED,
    FULL,
    PAGE_AT,
    PT,
    SID,
    A,
    G,
    V,
    extended_nested,
    legacy,
    new,
    process,
    tagged,
    write,
)

LANDS = Legal(PAGE_AT)
HOST_PAGE = 0x3000000


def unit(builder, *watched, mode=0, ecap=PT):
    return Hardware(
        builder.image, Registers(CAP_BASE, ecap, builder.root | mode << 10, haw=48), watched
    )


def test_domain_set_and_cleared():
    builder, _, top = legacy(present=0)
    context = builder.image[builder.root] & ~0xFFF | SID << 4
    builder.put(context, 0, 0)
    hardware = unit(builder, write(A))
    for _ in run(hardware, programs.set_domain(context, top, 2, 1)):
        assert hardware.outcomes(write(A)) <= {LANDS, Legal(None, "LCT.2")}, "no torn entry"
    assert hardware.outcomes(write(A)) == {LANDS}
    perform(hardware, programs.clear_domain(context, SID, 1))
    assert hardware.outcomes(write(A)) == {Legal(None, "LCT.2")}


def present_pasid(ctx=None):
    builder, _, entry, _, top = process(ctx=ctx)
    words = tuple(builder.image[entry + 8 * n] for n in range(8))
    return builder, entry, words, top


def test_pasid_set_never_torn():
    builder, entry, words, _ = present_pasid()
    builder.put(entry, *(0,) * 8)
    request = tagged(5, V)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    for _ in run(hardware, programs.set_pasid(entry, words)):
        assert hardware.outcomes(request) <= {LANDS, Legal(None, "SPT.2")}
    assert hardware.outcomes(request) == {LANDS}


def test_pasid_set_with_p_first_is_torn():
    """The order matters: P before the pointer lets a device see half an entry."""
    builder, entry, words, _ = present_pasid()
    builder.put(entry, *(0,) * 8)
    request = tagged(5, V)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    seen = set()
    for n in range(8):
        hardware.write(entry + 8 * n, words[n])
        seen |= hardware.outcomes(request)
    assert seen - {LANDS, Legal(None, "SPT.2")}


@pytest.mark.parametrize("ats", [False, True])
def test_pasid_cleared(ats):
    builder, entry, words, _ = present_pasid(ctx={"dte": 1})
    request = tagged(5, V)
    watched = (request, tagged(5, V, kind=Kind.TRANSLATION))
    hardware = unit(builder, *watched, mode=1, ecap=FULL)
    perform(hardware, programs.clear_pasid(entry, words, SID, 5, ats=ats))
    assert hardware.outcomes(request) == {Legal(None, "SPT.2")}
    assert bool(hardware.device_outcomes(request)) is not ats


@pytest.mark.parametrize("dropped", [Op.PASID_CACHE_PASID, Op.PASID_IOTLB_PASID])
def test_pasid_cleared_without_one_flush_is_stale(dropped):
    builder, entry, words, _ = present_pasid()
    request = tagged(5, V)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    steps = programs.clear_pasid(entry, words, SID, 5)
    perform(hardware, [s for s in steps
                       if not (isinstance(s, Flush) and s.commands[0].op is dropped)])
    assert LANDS in hardware.outcomes(request)


def test_pasid_flush_before_clear_is_stale():
    builder, entry, words, _ = present_pasid()
    request = tagged(5, V)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    steps = programs.clear_pasid(entry, words, SID, 5)
    flushes = [s for s in steps if isinstance(s, Flush)]
    perform(hardware, [*flushes, *(s for s in steps if s not in flushes)])
    assert LANDS in hardware.outcomes(request)


def test_bind_guest_table():
    builder, _, second, table = extended_nested()
    context = builder.extended(SID, second, 2, t=0)
    request = tagged(5, V)
    hardware = unit(builder, request, mode=2, ecap=EXTENDED)
    assert hardware.outcomes(request) == {Legal(None, "X.PASIDE")}
    low = builder.image[context]
    steps = programs.bind_guest_table(context, low, SID, 1, table + G, 0)
    old_pointer = Legal(None, "X.PT.4")  # no table at guest-physical 0
    for _ in run(hardware, steps):
        assert hardware.outcomes(request) <= {LANDS, Legal(None, "X.PASIDE"), old_pointer}
    assert hardware.outcomes(request) == {LANDS}


def test_bind_guest_table_is_torn():
    """NESTE comes before the pointer: for a while the host's pointer is a guest-physical one.

    What the guest has at that address counts as its PASID table then.
    """
    builder, context, table, low = host_table()
    host, second = builder.image[context + 16], builder.image[context] & ~0xFFF
    forged = builder.frame()
    builder.put(forged + 8 * 5, builder.image[table + 8 * 5])
    builder.second_stage(second, 4, host, forged)
    hardware = unit(builder, mode=2, ecap=EXTENDED)
    first, pointer, *_ = programs.bind_guest_table(context, low, SID, 1, table + G, 0)
    builder.put(table + 8 * 5, 0)  # not in the table that is bound
    perform(hardware, [first])
    assert hardware.outcomes(tagged(5, V)) == {LANDS}
    perform(hardware, [pointer])
    assert hardware.outcomes(tagged(5, V)) == {Legal(None, "X.PT.2")}


@pytest.mark.parametrize("bound", [True, False])
def test_unbind_guest_table(bound):
    builder, _, second, table = extended_nested()
    context = builder.extended(SID, second, 2, t=0)
    builder.second_stage(second, 4, A, PAGE_AT)
    plain = [builder.image[context + 8 * n] for n in range(4)]
    requests = tagged(5, V), write(A)
    hardware = unit(builder, *requests, mode=2, ecap=EXTENDED)
    if bound:
        steps = programs.bind_guest_table(context, plain[0], SID, 1, table + G, 0)
        perform(hardware, steps)
        assert [hardware.outcomes(q) for q in requests] == [{LANDS}, {LANDS}]
    perform(hardware, programs.unbind_guest_table(context, SID, 1, second, 2))
    assert [builder.image[context + 8 * n] for n in range(4)] == plain
    assert [hardware.outcomes(q) for q in requests] == [{Legal(None, "X.PASIDE")}, {LANDS}]


def host_table():
    """Extended mode with the host's own PASID table, in use under PASID 5, and a guest's table."""
    builder, _, second, table = extended_nested()
    host, first = builder.frame(), builder.frame()
    builder.first_stage(first, 4, V, HOST_PAGE, 7)
    builder.put(host + 8 * 5, first | 1 << 11 | 1)
    context = builder.extended(SID, second, 2, t=0, paside=1, pasid_table=host)
    return builder, context, table, entries.extended_context(second, 2, 1)[0]


def test_bind_guest_table_leaves_cached_host_entries():
    """R1: the bind of 2018 flushes no PASID cache; a host PASID in use stays cached."""
    builder, context, table, low = host_table()
    request = tagged(5, V)
    hardware = unit(builder, request, mode=2, ecap=EXTENDED)
    assert hardware.outcomes(request) == {Legal(HOST_PAGE)}
    perform(hardware, programs.bind_guest_table(context, low, SID, 1, table + G, 0))
    stale = Legal(None, "SFS.6")  # the host's pointer, now read as a guest-physical one
    assert hardware.outcomes(request) == {LANDS, stale}
    hardware.invalidate(Command(Op.PASID_CACHE_PASID, did=1, pasid=6))
    hardware.invalidate(Command(Op.PASID_CACHE_PASID, did=2, pasid=5))
    assert hardware.outcomes(request) == {LANDS, stale}, "another PASID, another domain"
    hardware.invalidate(Command(Op.PASID_CACHE_PASID, did=1, pasid=5))
    hardware.invalidate(Command(Op.PASID_IOTLB_PASID, did=1, pasid=5))
    assert hardware.outcomes(request) == {LANDS}


def test_extended_iotlb_entries_carry_their_pasid():
    builder, *_ = extended_nested()
    hardware = unit(builder, tagged(5, V), mode=2, ecap=EXTENDED)
    (held,) = hardware.caches.iotlb
    assert (held.tag.tagged, held.tag.pasid, held.tag.pgtt) == (True, 5, 3)
    hardware.watched = []
    builder.image.words.clear()
    hardware.caches.context.clear()
    assert hardware.outcomes(tagged(5, V)) == {LANDS, Legal(None, "LRT.2")}
    assert hardware.outcomes(tagged(6, V)) == {Legal(None, "LRT.2")}


def test_unmap():
    builder, leaf, _ = legacy()
    hardware = unit(builder, write(A))
    steps = programs.unmap_page(leaf, 1, A)
    assert [type(s) for s in steps] == [Write, Barrier, Flush]
    perform(hardware, steps)
    assert hardware.outcomes(write(A)) == {Legal(None, "LGN.2")}


def test_nested_pasid_reaches_only_its_second_stage():
    builder = new()
    second, first = builder.frame(), builder.frame()
    leaf = builder.first_stage(first, 4, V, PAGE_AT + G, offset=G)
    for frame in (first, *(w & ~0xFFF for w in builder.image.words if w > first)):
        builder.second_stage(second, 4, frame + G, frame)
    builder.second_stage(second, 4, PAGE_AT + G, PAGE_AT)
    entry = builder.pasid(builder.scalable(SID, paside=1), 5, 1)
    builder.put(entry, *(0,) * 8)
    words = entries.pasid(3, 7, second=second, aw=2, first=first + G, pwsnp=1)
    request = tagged(5, V)
    hardware = unit(builder, request, mode=1, ecap=FULL)
    perform(hardware, programs.set_pasid(entry, words))
    assert hardware.outcomes(request) == {LANDS}
    hardware.write(leaf, 0x7777000 | 7)  # the guest points at a page nobody gave it
    assert hardware.outcomes(request) == {LANDS, Legal(None, "SSS.2")}
    perform(hardware, programs.clear_pasid(entry, words, SID, 5))
    assert hardware.outcomes(request) == {Legal(None, "SPT.2")}
