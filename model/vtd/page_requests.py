"""The page request queue: recoverable faults of ATS devices (VT-d 7.4 to 7.8). Concrete.

Scalable mode only. A request is queued, or answered by hardware itself; software answers the last
request of a group by a page group response (`queue`, type 9).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dmaproof.model.rules import rule
from dmaproof.model.vtd.caches import CachingCarrier, Hardware
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.pasid import FIRST, NESTED
from dmaproof.model.vtd.recording import FaultLog
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import evaluate

SUCCESS: Final = 0
INVALID: Final = 1
FAILURE: Final = 0xF
_SIZE: Final = 32


@dataclass(frozen=True)
class PageRequest:
    """One page request message.

    Attributes:
        sid: requester id.
        address: byte address; the page counts.
        pasid: PASID; None: without PASID.
        read, write: access wanted; neither marks the end of a stream (a stop marker).
        group: page request group index, 9 bits.
        last: last request of its group.
        execute, privileged: further access wanted; only with PASID.

    """

    sid: int
    address: int
    pasid: int | None = None
    read: bool = True
    write: bool = False
    group: int = 0
    last: bool = True
    execute: bool = False
    privileged: bool = False


@rule("vtd.page-requests.descriptor", "VT-d 7.4.1.1", "Layout of a page request descriptor.")
def descriptor(q: PageRequest) -> tuple[int, int, int, int]:
    """Return the four quadwords that hardware writes to the page request queue."""
    low = 1 | q.sid << 16
    if q.pasid is not None:
        low |= 1 << 8 | q.pasid << 32 | int(q.execute) << 52 | int(q.privileged) << 53
    high = int(q.read) | int(q.write) << 1 | int(q.last) << 2 | q.group << 3
    return low, high | q.address & ~0xFFF, 0, 0


@rule(
    "vtd.page-requests.implicit-invalidation", "VT-d 6.5.3.1, table 27",
    "A page request drops what the caches hold of its page, so that a retry walks anew: first "
    "stage the page in the PASID, second stage and pass-through the page in the domain, nested "
    "the whole domain.",
)
def implied(did: int, pasid: int, pgtt: int, address: int) -> Command:
    """Return the invalidation that a page request implies."""
    if pgtt == NESTED:
        return Command(Op.IOTLB_DOMAIN, did=did)
    page = address & ~0xFFF
    if pgtt == FIRST:
        return Command(Op.PASID_IOTLB_PAGE, did=did, pasid=pasid, address=page)
    return Command(Op.IOTLB_PAGE, did=did, address=page)


@dataclass
class PageRequestQueue:
    """The page request queue of one unit; descriptors lie in the memory of *hardware*.

    Attributes:
        hardware: the unit.
        pqa: base 63:12, size code 2:0 (2^n pages).
        log: where faults of requests are recorded.
        head, tail: byte offsets.
        pending: PRS.PPR.
        overflow: PRS.PRO; until software clears it no request is queued.
        answers: page group responses that hardware sent by itself, in order.

    """

    hardware: Hardware
    pqa: int
    log: FaultLog = field(default_factory=FaultLog)
    head: int = 0
    tail: int = 0
    pending: bool = False
    overflow: bool = False
    answers: list[Command] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Size of the queue in bytes."""
        return 4096 << (self.pqa & 7)

    @rule(
        "vtd.page-requests.receive", "VT-d 7.4.1, table 31",
        "A request that meets a fault is answered invalid; while PRO is set, or when the queue is "
        "full (which sets it), it is answered with success; only the last of a group is answered. "
        "Any other request implies an invalidation and is queued.",
    )
    def receive(self, q: PageRequest) -> bool:
        """Take a page request from a device; return whether it was queued."""
        request = Request(
            q.sid, q.address, q.write, q.pasid or 0, q.pasid is not None, Kind.PAGE,
            execute=q.execute, privileged=q.privileged,
        )
        carrier = CachingCarrier(self.hardware, ())
        outcome = evaluate(carrier, self.hardware.registers, request)
        if outcome.fault:
            self.log.log(outcome, request)
            self._answer(q, INVALID)
            return False
        after = (self.tail + _SIZE) % self.size
        if self.overflow or after == self.head:
            self.overflow = True
            self._answer(q, SUCCESS)
            return False
        self.hardware.invalidate(implied(carrier.did, carrier.number, carrier.pgtt, q.address))
        base = (self.pqa & ~0xFFF) + self.tail
        for n, word in enumerate(descriptor(q)):
            self.hardware.image[base + 8 * n] = word
        self.tail, self.pending = after, True
        return True

    def _answer(self, q: PageRequest, code: int) -> None:
        """Answer the last request of a group; a stop marker wants no answer."""
        if q.last and (q.read or q.write):
            self.answers.append(Command(
                Op.PAGE_RESPONSE, sid=q.sid, pasid=q.pasid or 0, tagged=q.pasid is not None,
                group=q.group, code=code,
            ))

    def take(self) -> tuple[int, int, int, int] | None:
        """Software takes the oldest descriptor, or None."""
        if self.head == self.tail:
            return None
        base = (self.pqa & ~0xFFF) + self.head
        self.head = (self.head + _SIZE) % self.size
        first, second, third, fourth = (self.hardware.image[base + 8 * n] for n in range(4))
        return first, second, third, fourth

    def clear(self) -> None:
        """Software clears PPR and PRO."""
        self.pending = self.overflow = False


@rule("vtd.page-requests.respond", "VT-d 7.6.1", "A response repeats requester, PASID and group.")
def response(words: tuple[int, ...], code: int = SUCCESS) -> Command | None:
    """Return what software answers a descriptor: nothing, unless it is the last of its group."""
    low, high = words[0], words[1]
    if not high & 1 << 2 or not high & 3:
        return None
    tagged = bool(low & 1 << 8)
    return Command(
        Op.PAGE_RESPONSE, sid=low >> 16 & 0xFFFF, pasid=low >> 32 & 0xFFFFF if tagged else 0,
        tagged=tagged, group=high >> 3 & 0x1FF, code=code,
    )
