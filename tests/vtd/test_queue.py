"""The invalidation queue: layouts, order, waits, errors."""

from __future__ import annotations

import pytest

from dmaproof.model.algebra import Image
from dmaproof.model.vtd.caches import Hardware, Legal
from dmaproof.model.vtd.invalidation import Command, Op, waits_for
from dmaproof.model.vtd.queue import Queue, decode, encode
from dmaproof.model.vtd.registers import Registers

from .test_caches import NEW, OLD, two_tables
from .vocabulary import CAP_BASE, DT, EXTENDED, FULL, PRS, PT, SID, A, legacy, write

MAMV = 18 << 48
LEGACY = Registers(CAP_BASE | MAMV, PT, 0, haw=48)
SCALABLE = Registers(CAP_BASE | MAMV, FULL, 1 << 10, haw=48)
WAIT = Command(Op.WAIT, status_address=0x7000, status_data=2)

LAYOUTS = [
    (Command(Op.CONTEXT_GLOBAL), (0x11, 0)),
    (Command(Op.CONTEXT_DEVICE, did=9, sid=0x18, fm=1), (0x0001_0018_0009_0031, 0)),
    (Command(Op.IOTLB_DOMAIN, did=7), (0x0007_0022, 0)),
    (Command(Op.IOTLB_PAGE, did=7, address=0x5000, am=2, ih=True), (0x0007_0032, 0x5042)),
    (Command(Op.DEVICE_TLB, sid=0x18, address=0x5000, sized=True), (0x18_0000_0003, 0x5001)),
    (Command(Op.WAIT, status_address=0x7004, status_data=0xAB, fence=True),
     (0xAB_0000_0065, 0x7004)),
    (Command(Op.PASID_IOTLB_PAGE, did=7, pasid=0x12345, address=0x5000, am=1),
     (0x1_2345_0007_0036, 0x5001)),
    (Command(Op.PASID_CACHE_DOMAIN, did=7), (0x0007_0007, 0)),
    (Command(Op.PASID_CACHE_PASID, did=7, pasid=5), (0x5_0007_0017, 0)),
    (Command(Op.PASID_CACHE_GLOBAL), (0x37, 0)),
    (Command(Op.PASID_DEVICE_TLB, sid=0x18, pasid=5, address=0x5000, sized=True, whole=True),
     (0x5_0018_0008, 0x5801)),
    (Command(Op.INTERRUPT_ENTRY), (0x4, 0)),
    (Command(Op.INTERRUPT_ENTRY, index=0x123, am=3), (0x123_1800_0014, 0)),
    (Command(Op.PAGE_RESPONSE, sid=0x18, pasid=5, tagged=True, group=0x1FF, code=1),
     (0x5_0018_1019, 0xFF8)),
    (Command(Op.PAGE_RESPONSE, sid=0x18, code=0xF), (0x18_F009, 0)),
]


@pytest.mark.parametrize(("command", "words"), LAYOUTS, ids=lambda v: str(getattr(v, "op", ""))[3:])
def test_layout_and_back(command, words):
    assert encode(command) == words
    assert decode((*words, 0, 0), SCALABLE) == command


@pytest.mark.parametrize("words", [
    (0, 0, 0, 0), (0x0F, 0, 0, 0), (0x201, 0, 0, 0), (0x01, 0, 0, 0), (0x11, 1, 0, 0),
    (0x11, 0, 1, 0), (0x11 | 1 << 63, 0, 0, 0), (0x32, 19, 0, 0), (0x06, 0, 0, 0),
    (0x21, 0, 0, 0), (0x27, 0, 0, 0), (0x37, 0), (0x24, 0, 0, 0), (0x49, 0, 0, 0),
    (0x09, 1, 0, 0), (0x85, 0, 0, 0),
])
def test_bad_descriptor(words):
    assert decode(words, SCALABLE) is None


@pytest.mark.parametrize(("words", "registers"), [
    ((0x3, 0), LEGACY), ((0x37, 0, 0, 0), LEGACY), ((0x12, 0), SCALABLE),
    ((0x8, 0, 0, 0), Registers(CAP_BASE, FULL & ~DT, 1 << 10, haw=48)),
    ((0x9, 0, 0, 0), Registers(CAP_BASE, FULL & ~PRS, 1 << 10, haw=48)),
    ((0x32, 0x5000), Registers(CAP_BASE & ~(1 << 39), PT, 0, haw=48)),
    ((0x12, 0), Registers(CAP_BASE, FULL, 2 << 10, haw=48)),
], ids=["no device TLBs", "PASID type in legacy mode", "narrow in scalable mode",
        "no PASID device TLBs", "no page requests", "no page flushes", "reserved mode"])
def test_descriptor_this_unit_does_not_take(words, registers):
    assert decode(words, registers) is None


def test_what_hardware_ignores():
    beyond = 0xFF07 << 16  # CAP.ND gives 8 bits of domain id
    assert decode((0x22 | beyond, 0x5013), LEGACY) == Command(Op.IOTLB_DOMAIN, did=7)
    assert decode((0x9, 1 << 2, 0, 0), SCALABLE) == Command(Op.PAGE_RESPONSE)


def test_mamv_does_not_bound_flushes_of_a_pasid():
    command = Command(Op.PASID_IOTLB_PAGE, did=1, pasid=5, am=27)
    assert decode((*encode(command), 0, 0), SCALABLE) == command


def test_throttling_needs_its_capability():
    """PFSID is reserved unless the unit throttles by physical function (ECAP.DIT)."""
    throttles = Registers(CAP_BASE, FULL | 1 << 41, 1 << 10, haw=48)
    assert decode((0x0010_0018_0000_8003, 0x5000, 0, 0), SCALABLE) is None
    assert decode((0x0010_0018_0000_8003, 0x5000, 0, 0), throttles) is not None
    assert decode((0x18_0000_0003, 0x5000, 0, 0), SCALABLE) is not None


def test_drain_needs_its_capability():
    drains = Registers(CAP_BASE, FULL | 1 << 42, 1 << 10, haw=48)
    assert decode((0x85, 0, 0, 0), drains) == Command(Op.WAIT)


ORDERED = {
    (Op.CONTEXT_GLOBAL, Op.PASID_CACHE_GLOBAL), (Op.CONTEXT_GLOBAL, Op.IOTLB_GLOBAL),
    (Op.CONTEXT_GLOBAL, Op.PASID_IOTLB_PASID), (Op.PASID_CACHE_GLOBAL, Op.IOTLB_GLOBAL),
    (Op.PASID_CACHE_GLOBAL, Op.PASID_IOTLB_PASID), (Op.IOTLB_GLOBAL, Op.DEVICE_TLB),
    (Op.IOTLB_GLOBAL, Op.PASID_DEVICE_TLB), (Op.PASID_IOTLB_PASID, Op.PASID_DEVICE_TLB),
    (Op.INTERRUPT_ENTRY, Op.DEVICE_TLB), (Op.INTERRUPT_ENTRY, Op.PASID_DEVICE_TLB),
}


def test_what_waits_for_what():
    """The pairs of VT-d 6.5.2.12; nothing waits for what comes after it in the chain."""
    inner = [Op.CONTEXT_GLOBAL, Op.PASID_CACHE_GLOBAL, Op.IOTLB_GLOBAL, Op.PASID_IOTLB_PASID,
             Op.INTERRUPT_ENTRY, Op.DEVICE_TLB, Op.PASID_DEVICE_TLB]
    to_device = {Op.DEVICE_TLB, Op.PASID_DEVICE_TLB}
    found = {
        (a, b) for a in inner for b in inner if waits_for(Command(b), Command(a))
    }
    assert found == ORDERED | {(a, b) for a in to_device for b in to_device}


def test_page_group_responses_are_sent_in_order():
    hardware = Hardware(Image(), SCALABLE, [])
    queue = Queue(hardware, 0x600800)
    answers = [Command(Op.PAGE_RESPONSE, sid=SID, pasid=5, tagged=True, group=n) for n in (3, 1, 2)]
    queue.submit(answers[0], Command(Op.PASID_IOTLB_PASID, did=1, pasid=5), *answers[1:])
    assert queue.responses == [], "not certain before a wait"
    queue.submit(WAIT)
    assert queue.responses == answers and not queue.error


def test_pasid_descriptors_are_narrow_in_rev_2():
    words = (0x5_0007_0017, 0)
    extended = Registers(CAP_BASE | MAMV, EXTENDED, 2 << 10, haw=48)
    assert decode(words, extended) == Command(Op.PASID_CACHE_PASID, did=7, pasid=5)
    assert decode(words, LEGACY) is None


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("inwards", [True, False], ids=["outer first", "inner first"])
def test_order_and_report(waits, inwards):
    """Context before IOTLB keeps its order without a wait; the other way round both may be late."""
    builder, context, words = two_tables()
    image = builder.image.copy()
    hardware = Hardware(image, Registers(CAP_BASE | MAMV, PT, builder.root, haw=48), [write(A)])
    hardware.write_pair(context, *words)
    queue = Queue(hardware, 0x600000)
    commands = [Command(Op.CONTEXT_DEVICE, sid=SID, did=1), Command(Op.IOTLB_DOMAIN, did=1)]
    first, second = commands if inwards else commands[::-1]
    queue.submit(*((first, WAIT, second, WAIT) if waits else (first, second, WAIT)))
    assert image[0x7000] == 2 and queue.head == queue.tail and not queue.error
    assert hardware.outcomes(write(A)) == {Legal(NEW)} | (set() if inwards else {OLD})


def test_without_wait_nothing_is_certain():
    builder, leaf, _ = legacy()
    hardware = Hardware(builder.image, Registers(CAP_BASE | MAMV, PT, builder.root, haw=48),
                        [write(A)])
    hardware.write(leaf, 0)
    queue = Queue(hardware, 0x600000)
    queue.submit(Command(Op.IOTLB_GLOBAL))
    assert OLD in hardware.outcomes(write(A))
    queue.submit(WAIT)
    assert OLD not in hardware.outcomes(write(A))


def test_error_stops_the_queue():
    hardware = Hardware(Image(), LEGACY, [])
    queue = Queue(hardware, 0x600000)
    hardware.image[0x600000] = 0xF
    queue.ring(16)
    assert queue.error and queue.head == 0
    queue = Queue(hardware, 0x600000)
    queue.ring(8)
    assert queue.error, "the tail is not aligned"


def test_scalable_mode_refuses_a_narrow_queue():
    queue = Queue(Hardware(Image(), SCALABLE, []), 0x600000)
    queue.submit(Command(Op.IOTLB_GLOBAL))
    assert queue.error
    wide = Queue(Hardware(Image(), SCALABLE, []), 0x600800)
    wide.submit(Command(Op.IOTLB_GLOBAL), WAIT)
    assert not wide.error and wide.head == 64


def test_full_queue():
    queue = Queue(Hardware(Image(), LEGACY, []), 0x600000)
    with pytest.raises(ValueError, match="full"):
        queue.submit(*[Command(Op.IOTLB_GLOBAL)] * 256)
