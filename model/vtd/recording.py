"""Primary fault logging: records, overflow, compression (VT-d 7.2.1, 11.4.7.6). Concrete only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dmaproof.model.rules import rule
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome

_AT = {Kind.UNTRANSLATED: 0, Kind.TRANSLATION: 1, Kind.TRANSLATED: 2, Kind.PAGE: 0}


@rule("vtd.recording.format", "VT-d 11.4.7.6", "Layout of a fault recording register.")
def record_of(outcome: Outcome, request: Request) -> tuple[int, int]:
    """Return the two quadwords of the fault record of a blocked concrete request.

    PASID, privilege and execute fields are set only for a request-with-PASID.
    """
    condition = outcome.condition
    if condition is None:
        raise ValueError("nothing to record: the request was not blocked")
    read = not request.write
    t1 = int((read or request.atomic) and request.kind is not Kind.PAGE)
    t2 = int(request.atomic or request.kind is Kind.PAGE)
    high = request.sid | t2 << 28 | condition.code << 32 | _AT[request.kind] << 60 | t1 << 62
    if request.with_pasid:
        high |= int(request.privileged) << 29 | int(request.execute) << 30 | 1 << 31
        high |= request.pasid << 40
    return request.address & ~0xFFF, high | 1 << 63


@dataclass
class FaultLog:
    """The fault recording registers of one unit.

    Attributes:
        registers: number of records (CAP.NFR + 1).
        compress: faults of a requester that has a pending record are dropped.
        records: quadword pairs; bit 127 (F) marks a pending one.
        overflow: FSTS.PFO.
        first: FSTS.FRI, index of the oldest pending record.
        index: where the next record goes.

    """

    registers: int = 1
    compress: bool = False
    records: list[tuple[int, int]] = field(default_factory=list)
    overflow: bool = False
    first: int = 0
    index: int = 0

    def __post_init__(self) -> None:
        self.records = self.records or [(0, 0)] * self.registers

    @property
    def pending(self) -> bool:
        """FSTS.PPF: some record has F=1."""
        return any(high >> 63 for _, high in self.records)

    @rule(
        "vtd.recording.log", "VT-d 7.2.1",
        "PFO=1 loses the fault; a pending record of the same requester may absorb it; a pending "
        "record at the index sets PFO; otherwise it is recorded and the index advances.",
    )
    def log(self, outcome: Outcome, request: Request) -> bool:
        """Take the fault of a blocked concrete request; return whether it was recorded."""
        if not outcome.recorded or self.overflow:
            return False
        if self.compress and any(
            high >> 63 and high & 0xFFFF == request.sid for _, high in self.records
        ):
            return False
        if self.records[self.index][1] >> 63:
            self.overflow = True
            return False
        if not self.pending:
            self.first = self.index
        self.records[self.index] = record_of(outcome, request)
        self.index = (self.index + 1) % self.registers
        return True

    def clear(self, index: int) -> None:
        """Software clears F of one record."""
        low, high = self.records[index]
        self.records[index] = (low, high & ~(1 << 63))

    def clear_overflow(self) -> None:
        """Software clears FSTS.PFO."""
        self.overflow = False

    def reset_index(self) -> None:
        """Hardware resets the index when TES and IES are both 0."""
        self.index = 0


def split(request: Request, size: int) -> Iterator[tuple[Request, int]]:
    """Yield (request, bytes) for each page that a concrete access of *size* bytes touches.

    A device sends one packet a page at most, and each is translated on its own.

    Raises:
        ValueError: *size* is not positive.

    """
    if size <= 0:
        raise ValueError(f"access of {size} bytes")
    address, end = request.address, request.address + size
    while address < end:
        part = min(end, (address | 0xFFF) + 1) - address
        piece = Request(**{name: getattr(request, name) for name in request.__slots__})
        piece.address, piece.dword = address, part == 4
        yield piece, part
        address += part
