"""The invalidation queue: descriptors, waits, errors (VT-d 6.5.2). Concrete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from dmaproof.model.rules import rule
from dmaproof.model.vtd.caches import Hardware
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.registers import Mode, Registers

MASK64: Final = (1 << 64) - 1
_PAGES: Final = MASK64 & ~0xFFF
_CONTEXT: Final = {1: Op.CONTEXT_GLOBAL, 2: Op.CONTEXT_DOMAIN, 3: Op.CONTEXT_DEVICE}
_IOTLB: Final = {1: Op.IOTLB_GLOBAL, 2: Op.IOTLB_DOMAIN, 3: Op.IOTLB_PAGE}
_PASID_IOTLB: Final = {2: Op.PASID_IOTLB_PASID, 3: Op.PASID_IOTLB_PAGE}
_PASID_CACHE: Final = {
    0: Op.PASID_CACHE_DOMAIN, 1: Op.PASID_CACHE_PASID, 3: Op.PASID_CACHE_GLOBAL,
}
# Types of descriptor and the bits of the lower quadword that each may use.
_USED: Final = {
    1: 0x0003_FFFF_FFFF_003F, 2: 0xFFFF_00FF, 3: 0xFFF0_FFFF_001F_F00F,
    4: 0x0000_FFFF_F800_001F, 5: 0xFFFF_FFFF_0000_00FF,
    6: 0x000F_FFFF_FFFF_003F, 7: 0x000F_FFFF_FFFF_003F, 8: 0xFFFF_FFFF_FFFF_FFFF,
    9: 0x000F_FFFF_FFFF_F01F,
}
_USED_HIGH: Final = {
    1: 0, 2: _PAGES | 0x7F, 3: _PAGES | 1, 4: 0, 5: MASK64 & ~3, 6: _PAGES | 0x7F, 7: 0,
    8: _PAGES | 0x801, 9: 0xFFC,
}
_PFSID: Final = 0xFFF << 52 | 0xF << 12  # reserved unless ECAP.DIT
_DRAIN: Final = 1 << 7  # PD of a wait, reserved unless ECAP.PDS


def _granularity(op: Op) -> tuple[int, int]:
    for kind, table in ((1, _CONTEXT), (2, _IOTLB), (6, _PASID_IOTLB), (7, _PASID_CACHE)):
        for value, known in table.items():
            if known is op:
                return kind, value
    return {
        Op.DEVICE_TLB: 3, Op.INTERRUPT_ENTRY: 4, Op.WAIT: 5, Op.PASID_DEVICE_TLB: 8,
        Op.PAGE_RESPONSE: 9,
    }[op], 0


@rule("vtd.queue.encode", "VT-d 6.5.2", "Layouts of the invalidation descriptors.")
def encode(command: Command) -> tuple[int, int]:
    """Return the lower two quadwords of the descriptor (the others are 0)."""
    kind, granularity = _granularity(command.op)
    low, high = kind | granularity << 4, 0
    if kind in (1, 2, 6, 7):
        low |= command.did << 16
    if kind == 1:
        low |= command.sid << 32 | command.fm << 48
    if kind in (6, 7):
        low |= command.pasid << 32
    if kind in (2, 6) and granularity == 3:
        high = command.address & _PAGES | int(command.ih) << 6 | command.am
    if kind == 3:
        low |= command.sid << 32
        high = command.address & _PAGES | int(command.sized)
    if kind == 8:
        low |= command.sid << 16 | command.pasid << 32
        high = command.address & _PAGES | int(command.sized) << 11 | int(command.whole)
    if kind == 4 and command.index is not None:
        low |= 1 << 4 | command.am << 27 | command.index << 32
    if kind == 9:
        low |= int(command.tagged) << 4 | command.code << 12
        low |= command.sid << 16 | command.pasid << 32
        high = command.group << 3
    if kind == 5:
        low |= int(command.status_address is not None) << 5 | int(command.fence) << 6
        low |= command.status_data << 32
        high = command.status_address or 0
    return low, high


@rule(
    "vtd.queue.types", "VT-d 6.5.2.11 table 26, 6.5.2.5, 7.6.1",
    "Legacy mode knows types 1 to 5; scalable and abort mode all, but only as 256-bit descriptors; "
    "device-TLB flushes need ECAP.DT, page group responses ECAP.PRS. In rev 2.x all are narrow.",
)
def accepts(registers: Registers, kind: int, *, wide: bool) -> bool:
    """Return whether a unit takes descriptors of this type and width."""
    if (kind in (3, 8) and not registers.dt) or (kind == 9 and not registers.prs):
        return False
    known = {
        Mode.LEGACY: range(1, 6), Mode.EXTENDED: range(1, 9),
        Mode.SCALABLE: range(1, 10) if wide else (), Mode.ABORT: range(1, 10) if wide else (),
    }
    return kind in known.get(registers.mode, ())


@rule(
    "vtd.queue.decode", "VT-d 6.5.2, 6.5.2.11",
    "A type the unit does not take, a reserved bit, or a granularity or address mask out of range "
    "is an error; DID bits beyond CAP.ND are ignored.",
)
def decode(words: tuple[int, ...], registers: Registers) -> Command | None:
    """Return the command in a descriptor of 2 or 4 quadwords, or None if it is not valid."""
    low, high = words[0], words[1]
    kind = low & 0xF | (low >> 9 & 7) << 4
    if not accepts(registers, kind, wide=len(words) == 4) or any(words[2:]):
        return None
    used = _USED[kind]
    if kind == 5 and not registers.pds:
        used &= ~_DRAIN
    if kind in (3, 8) and not registers.dit:
        used &= ~_PFSID
    if low & ~used or high & ~_USED_HIGH[kind]:
        return None
    command = _fields(kind, low, high, registers)
    if command is None:
        return None
    # MAMV and PSI bound flushes of the second stage; those of a PASID are always there (11.4.2).
    if command.op is Op.IOTLB_PAGE and not (registers.psi and command.am <= registers.mamv):
        return None
    if command.op is Op.CONTEXT_DOMAIN and registers.mode is Mode.SCALABLE:
        return None
    return command


def _fields(kind: int, low: int, high: int, registers: Registers) -> Command | None:
    did, pasid, granularity = low >> 16 & registers.domain_mask, low >> 32 & 0xFFFFF, low >> 4 & 3
    if kind == 1 and granularity in _CONTEXT:
        return Command(_CONTEXT[granularity], did=did, sid=low >> 32 & 0xFFFF, fm=low >> 48 & 3)
    if kind in (2, 6):
        table = _IOTLB if kind == 2 else _PASID_IOTLB
        if granularity in table:
            page = high if granularity == 3 else 0  # what other granularities ignore
            return Command(
                table[granularity], did=did, pasid=pasid if kind == 6 else 0,
                address=page & _PAGES, am=page & 0x3F, ih=bool(page & 0x40),
            )
    if kind == 3:
        return Command(
            Op.DEVICE_TLB, sid=low >> 32 & 0xFFFF, address=high & _PAGES, sized=bool(high & 1)
        )
    if kind == 4:
        whole = not low & 1 << 4
        return Command(
            Op.INTERRUPT_ENTRY, index=None if whole else low >> 32 & 0xFFFF,
            am=0 if whole else low >> 27 & 0x1F,
        )
    if kind == 9:
        tagged = bool(low & 1 << 4)
        return Command(
            Op.PAGE_RESPONSE, sid=low >> 16 & 0xFFFF, pasid=pasid if tagged else 0, tagged=tagged,
            code=low >> 12 & 0xF, group=high >> 3 & 0x1FF,
        )
    if kind == 5:
        return Command(
            Op.WAIT, status_address=high if low & 0x20 else None, status_data=low >> 32,
            fence=bool(low & 0x40),
        )
    if kind == 7 and granularity in _PASID_CACHE:
        return Command(_PASID_CACHE[granularity], did=did, pasid=pasid)
    if kind == 8:
        return Command(
            Op.PASID_DEVICE_TLB, sid=low >> 16 & 0xFFFF, pasid=pasid, address=high & _PAGES,
            sized=bool(high & 0x800), whole=bool(high & 1),
        )
    return None


@dataclass
class Queue:
    """The queue of one unit; descriptors lie in the memory of *hardware*.

    Attributes:
        hardware: the unit.
        iqa: base 63:12, DW 11 (256-bit descriptors), QS 2:0.
        head, tail: byte offsets.
        error: FSTS.IQE; processing stops until software clears it.
        pending: commands taken since the last wait or fence; they may complete in any order that
            `invalidation.waits_for` allows.
        responses: page group responses sent to devices, in order.

    """

    hardware: Hardware
    iqa: int
    head: int = 0
    tail: int = 0
    error: bool = False
    pending: list[Command] = field(default_factory=list)
    responses: list[Command] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Size of the queue in bytes."""
        return 4096 << (self.iqa & 7)

    @property
    def step(self) -> int:
        """Size of a descriptor in bytes."""
        return 32 if self.iqa >> 11 & 1 else 16

    def submit(self, *commands: Command) -> None:
        """Write descriptors at the tail and ring the doorbell.

        Raises:
            ValueError: the queue is full.

        """
        tail = self.tail
        for command in commands:
            base = (self.iqa & _PAGES) + tail
            words = (*encode(command), *(0,) * (self.step // 8 - 2))
            for offset, word in enumerate(words):
                self.hardware.image[base + 8 * offset] = word
            tail = (tail + self.step) % self.size
            if tail == self.head:
                raise ValueError("the invalidation queue is full")
        self.ring(tail)

    @rule(
        "vtd.queue.process", "VT-d 6.5.2.9, 6.5.2.11, 6.5.2.12",
        "Descriptors are fetched in order; a wait completes when all before it have, and with FN=1 "
        "nothing after it starts earlier; an error stops the queue with IQE.",
    )
    def ring(self, tail: int) -> None:
        """Take a new tail offset; process up to it, or up to an error."""
        self.tail = tail
        if tail % self.step or not 0 <= tail < self.size:
            self.error = True
        while not self.error and self.head != self.tail:
            base = (self.iqa & _PAGES) + self.head
            words = tuple(self.hardware.image[base + 8 * n] for n in range(self.step // 8))
            command = decode(words, self.hardware.registers)
            if command is None:
                self.error = True
                return
            self._take(command)
            self.head = (self.head + self.step) % self.size

    def _take(self, command: Command) -> None:
        if command.op is not Op.WAIT:
            self.pending.append(command)
            return
        caches = [c for c in self.pending if c.op not in (Op.PAGE_RESPONSE, Op.INTERRUPT_ENTRY)]
        self.responses += [c for c in self.pending if c.op is Op.PAGE_RESPONSE]
        self.hardware.invalidate_unordered(caches)
        self.pending = []
        if command.status_address is not None:
            where = command.status_address & ~7
            shift = 32 if command.status_address & 4 else 0
            old = self.hardware.image[where] & ~(0xFFFFFFFF << shift)
            self.hardware.image[where] = old | command.status_data << shift
