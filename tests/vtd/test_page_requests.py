"""Page requests: what is queued, what hardware answers itself, what a request drops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmaproof.model.vtd.caches import Hardware, Legal
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.page_requests import (
    FAILURE,
    INVALID,
    SUCCESS,
    PageRequest,
    PageRequestQueue,
    descriptor,
    implied,
    response,
)
from dmaproof.model.vtd.queue import Queue, decode, encode
from dmaproof.model.vtd.registers import Registers

from .vocabulary import CAP_BASE, FULL, PAGE_AT, SID, A, V, legacy, process, read, scalable, tagged

QUEUE_AT = 0x700000


def unit(builder, *watched, mode=1):
    registers = Registers(CAP_BASE, FULL, builder.root | mode << 10, haw=48)
    return Hardware(builder.image, registers, watched)


def device(pre=1, **fields):
    """A first-stage PASID of a device that may send page requests."""
    builder, _, entry, leaf, _ = process(ctx={"pre": pre, "dte": 1}, **fields)
    return builder, entry, leaf


def test_a_request_is_queued_and_answered():
    builder, *_ = device()
    pages = PageRequestQueue(unit(builder), QUEUE_AT)
    q = PageRequest(SID, V + 0x123, 5, write=True, group=7)
    assert pages.receive(q)
    assert pages.pending and pages.tail == 32 and pages.answers == []
    words = pages.take()
    assert words == (0x5_0018_0101, V | 7 << 3 | 7, 0, 0) and pages.take() is None
    answer = response(words, SUCCESS)
    queue = Queue(pages.hardware, 0x600800)
    queue.submit(answer, Command(Op.WAIT))
    assert queue.responses == [
        Command(Op.PAGE_RESPONSE, sid=SID, pasid=5, tagged=True, group=7, code=SUCCESS)]


@given(st.builds(
    PageRequest, st.integers(0, 0xFFFF), st.integers(0, (1 << 64) - 1),
    st.none() | st.integers(0, 0xFFFFF), st.booleans(), st.booleans(), st.integers(0, 511),
    st.booleans(), st.booleans(), st.booleans(),
), st.sampled_from([SUCCESS, INVALID, FAILURE]))
def test_a_response_goes_where_the_request_came_from(q, code):
    words = descriptor(q)
    answer = response(words, code)
    assert (answer is None) == (not q.last or not (q.read or q.write))
    assert words[1] & ~0xFFF == q.address & ~0xFFF
    if answer is not None:
        assert (answer.sid, answer.group, answer.code) == (q.sid, q.group, code)
        assert (answer.pasid if answer.tagged else None) == q.pasid
        scalable_unit = Registers(CAP_BASE, FULL, 1 << 10, haw=48)
        assert decode((*encode(answer), 0, 0), scalable_unit) == answer


@pytest.mark.parametrize(("last", "read", "answered"), [
    (True, True, True), (False, True, False), (True, False, False),
], ids=["last of its group", "not the last", "stop marker"])
def test_who_is_answered_when_a_request_faults(last, read, answered):
    builder, *_ = device(pre=0)
    pages = PageRequestQueue(unit(builder), QUEUE_AT)
    q = PageRequest(SID, V, 5, read=read, last=last, group=9)
    assert not pages.receive(q)
    assert pages.tail == 0 and not pages.pending
    assert pages.log.records[0][1] >> 32 & 0xFF == 0x47, "SCT.8: PRE=0"
    wanted = Command(Op.PAGE_RESPONSE, sid=SID, pasid=5, tagged=True, group=9, code=INVALID)
    assert pages.answers == ([wanted] if answered else [])


def test_legacy_mode_knows_no_page_requests():
    builder, *_ = legacy()
    pages = PageRequestQueue(unit(builder, mode=0), QUEUE_AT)
    assert not pages.receive(PageRequest(SID, A))
    assert pages.log.records[0][1] >> 32 & 0xFF == 0x32
    assert pages.log.records[0][1] >> 28 & 1 and not pages.log.records[0][1] >> 62 & 1


def test_a_full_queue_overflows_until_software_clears_it():
    builder, *_ = device()
    pages = PageRequestQueue(unit(builder), QUEUE_AT)
    q = PageRequest(SID, V, 5)
    assert all(pages.receive(q) for _ in range(127)), "one entry stays free"
    assert not pages.receive(q) and pages.overflow
    assert pages.take() is not None
    assert not pages.receive(q), "there is room, but PRO is set"
    assert [a.code for a in pages.answers] == [SUCCESS, SUCCESS]
    assert not pages.receive(PageRequest(SID, V, 5, last=False)) and len(pages.answers) == 2
    pages.clear()
    assert pages.receive(q)


@pytest.mark.parametrize(("pgtt", "op"), [
    (1, Op.PASID_IOTLB_PAGE), (2, Op.IOTLB_PAGE), (3, Op.IOTLB_DOMAIN), (4, Op.IOTLB_PAGE),
])
def test_what_a_request_implies(pgtt, op):
    command = implied(9, 5, pgtt, V + 0x123)
    assert command.op is op and command.did == 9 and not command.ih and command.am == 0
    if op is not Op.IOTLB_DOMAIN:
        assert command.address == V
    assert command.pasid == (5 if pgtt == 1 else 0)


def test_a_retry_walks_anew():
    """A right that was widened without a flush: the page request drops the cached one."""
    builder, _, leaf = device(rights=5)
    write = tagged(5, V, write=True)
    hardware = unit(builder, tagged(5, V))
    hardware.write(leaf, builder.image[leaf] | 2)
    assert hardware.outcomes(write) == {Legal(None, "SGN.6"), Legal(PAGE_AT)}
    hardware.watched = []
    assert PageRequestQueue(hardware, QUEUE_AT).receive(PageRequest(SID, V, 5, write=True))
    assert hardware.outcomes(write) == {Legal(PAGE_AT)}


def test_a_request_without_pasid_uses_that_of_the_requester():
    builder, _, _, leaf, _ = scalable()
    context = builder.image[builder.root] & ~0xFFF
    builder.image[context + 32 * SID] |= 1 << 4 | 1 << 2  # PRE, DTE
    hardware = unit(builder, read(A))
    builder.image[leaf] = 0
    hardware.watched = []
    assert Legal(PAGE_AT) in hardware.outcomes(read(A))
    assert PageRequestQueue(hardware, QUEUE_AT).receive(PageRequest(SID, A))
    assert hardware.outcomes(read(A)) == {Legal(None, "SSS.2")}
