"""Configuration space of one function: capability lists to `Device` and back.

Layouts are those of the PCI Local Bus 3.0 and PCI Express Base specifications. Lists are followed
with a visited set, so loops and pointers into nowhere end the walk; nothing here raises for the
bytes it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.device import NO_ID, Acs, Bdf, Device, Fact, PortKind, Sriov
from dmaproof.model.rules import rule

CAP_PCIE = 0x10
EXT_ACS, EXT_ATS, EXT_SRIOV, EXT_PRI, EXT_PASID = 0x0D, 0x0F, 0x10, 0x13, 0x1B
STATUS_CAP_LIST = 0x10
EXTENDED = 0x100
FULL = 0x1000

PCIE_TYPES: dict[int, PortKind] = {
    0x0: PortKind.ENDPOINT,
    0x1: PortKind.LEGACY_ENDPOINT,
    0x4: PortKind.ROOT_PORT,
    0x5: PortKind.UPSTREAM,
    0x6: PortKind.DOWNSTREAM,
    0x7: PortKind.PCIE_TO_PCI_BRIDGE,
    0x8: PortKind.PCI_TO_PCIE_BRIDGE,
    0x9: PortKind.RC_INTEGRATED_ENDPOINT,
    0xA: PortKind.RC_EVENT_COLLECTOR,
}
_TYPE_CODES = {kind: code for code, kind in PCIE_TYPES.items()} | {PortKind.RESERVED: 0xF}


@dataclass(frozen=True)
class ConfigSpace:
    """Bytes of one configuration space; what was not read counts as zero.

    Attributes:
        data: the bytes from offset 0.
        extended_read: the extended space (from 0x100) was read.

    """

    data: bytes
    extended_read: bool = True

    def byte(self, offset: int) -> int:
        """Return the byte at *offset*."""
        return self.data[offset] if 0 <= offset < len(self.data) else 0

    def word(self, offset: int) -> int:
        """Return the little-endian 16 bits at *offset*."""
        return int.from_bytes(self.data[offset : offset + 2], "little")

    def dword(self, offset: int) -> int:
        """Return the little-endian 32 bits at *offset*."""
        return int.from_bytes(self.data[offset : offset + 4], "little")

    @property
    def header_type(self) -> int:
        """Header layout, 7 bits."""
        return self.byte(0x0E) & 0x7F

    @rule(
        "pci.capability-list",
        "PCI Local Bus 3.0, 6.7",
        "a linked list of capabilities in 0x40..0xff starts at 0x34 (CardBus: 0x14)",
    )
    def capabilities(self) -> Iterator[tuple[int, int]]:
        """Yield (id, offset) of each capability of the first 256 bytes."""
        if not self.word(0x06) & STATUS_CAP_LIST:
            return
        pointer = self.byte(0x14 if self.header_type == 2 else 0x34) & ~3
        seen: set[int] = set()
        while pointer >= 0x40 and pointer not in seen:
            seen.add(pointer)
            if self.byte(pointer) == 0xFF:
                return
            yield self.byte(pointer), pointer
            pointer = self.byte(pointer + 1) & ~3

    @rule(
        "pcie.extended-capability-list",
        "PCIe Base 7.6.3",
        "extended capabilities are linked from 0x100: id, version and 12-bit pointer in a dword",
    )
    def extended_capabilities(self) -> Iterator[tuple[int, int]]:
        """Yield (id, offset) of each extended capability."""
        pointer = EXTENDED
        seen: set[int] = set()
        while EXTENDED <= pointer <= FULL - 4 and pointer not in seen:
            seen.add(pointer)
            header = self.dword(pointer)
            if header in {0, 0xFFFFFFFF}:
                return
            yield header & 0xFFFF, pointer
            pointer = header >> 20 & ~3

    @property
    def silent(self) -> bool:
        """Whether the function did not answer: ones or zeros all over; it is asleep or gone."""
        return self.byte(0x0E) == 0xFF or not any(self.data[:0x40])

    @property
    def unread(self) -> bool:
        """Whether capabilities are announced in bytes that were not read."""
        pointer = self.byte(0x14 if self.header_type == 2 else 0x34) & ~3
        announced = bool(self.word(0x06) & STATUS_CAP_LIST) and pointer >= 0x40
        return announced and len(self.data) <= pointer


def decode(bdf: Bdf, space: ConfigSpace) -> Device:
    """Return what the configuration space of *bdf* says.

    The multifunction bit is the header's own; `Machine` adds the kernel's rule for slots.
    """
    capabilities = dict(reversed(list(space.capabilities())))
    header = space.header_type if space.header_type in {0, 1, 2} else 0
    pcie = capabilities.get(CAP_PCIE)
    kind = _kind(space, pcie, header)
    device = Device(
        bdf=bdf,
        kind=kind,
        vendor=space.word(0),
        device=space.word(2),
        class_code=space.word(0x0A),
        subsystem=space.word(0x2C) << 16 | space.word(0x2E) if header == 0 else 0,
        header_type=header,
        multifunction=bool(space.byte(0x0E) & 0x80) and space.word(0) != NO_ID,
        port_number=space.dword(pcie + 0x0C) >> 24 if pcie is not None else 0,
        unknown=_unknown(space, kind),
        own_memory=header == 1 and _own_memory(space),
    )
    device = replace(device, aliases=quirks.quirk_aliases(device))
    if header and space.byte(0x19):
        device = replace(device, secondary=space.byte(0x19), subordinate=space.byte(0x1A))
    return _extended(device, space) if kind.is_pcie else device


@rule(
    "pci.bridge.own-memory",
    "PCI-to-PCI Bridge Architecture 1.2, 3.2.5; PCIe Base 7.5.1.3",
    "a bridge has two base address registers at 0x10 and a ROM register at 0x38 of its own",
)
def _own_memory(space: ConfigSpace) -> bool:
    bars = (space.dword(offset) for offset in (0x10, 0x14))
    # Bit 0 is set for I/O; the low bits of a ROM register are flags.
    return any(bar and not bar & 1 for bar in bars) or space.dword(0x38) >> 11 != 0


def _unknown(space: ConfigSpace, kind: PortKind) -> frozenset[Fact]:
    if space.silent:
        return frozenset({Fact.IDS, Fact.KIND, Fact.ACS, Fact.CAPABILITIES})
    ids = frozenset({Fact.IDS}) if space.word(0) == NO_ID else frozenset()
    if ids and space.header_type == 0:
        ids |= {Fact.PHYSFN}  # only virtual functions have no vendor id
    if space.unread:
        return ids | {Fact.KIND, Fact.ACS, Fact.CAPABILITIES}
    if kind.is_pcie and not (space.extended_read and space.dword(EXTENDED) != 0xFFFFFFFF):
        return ids | {Fact.ACS, Fact.CAPABILITIES}
    return ids


@rule(
    "pcie.port-type",
    "PCIe Base 7.5.3.2, Device/Port Type",
    "bits 7:4 of the PCI Express capabilities register say what a function is",
)
def _kind(space: ConfigSpace, pcie: int | None, header: int) -> PortKind:
    if pcie is None:
        return PortKind.CONVENTIONAL_BRIDGE if header else PortKind.CONVENTIONAL
    return PCIE_TYPES.get(space.word(pcie + 2) >> 4 & 0xF, PortKind.RESERVED)


def _extended(device: Device, space: ConfigSpace) -> Device:
    found = dict(reversed(list(space.extended_capabilities())))
    changes: dict[str, object] = {"ats": EXT_ATS in found, "pri": EXT_PRI in found}
    if EXT_ACS in found:
        changes["acs"] = _acs(device, space, found[EXT_ACS])
    if EXT_PASID in found:
        register = space.word(found[EXT_PASID] + 4)
        changes["pasid"] = min(register >> 8 & 0x1F, 20)
        changes["pasid_execute"] = bool(register & 2)
        changes["pasid_privileged"] = bool(register & 4)
    if EXT_SRIOV in found:
        changes["sriov"] = _sriov(space, found[EXT_SRIOV])
    return replace(device, **changes)  # type: ignore[arg-type]


@rule(
    "pcie.acs.registers",
    "PCIe Base 7.7.11",
    "ACS capability at 4, control at 6, egress control vector at 8, its size in bits 15:8",
)
def _acs(device: Device, space: ConfigSpace, offset: int) -> Acs:
    control = quirks.acs_control_offset(device.vendor, device.device, device.kind)
    capability = space.word(offset + 4)
    egress = 0
    if capability & quirks.EC and control == 6:
        bits = capability >> 8 or 256
        egress = int.from_bytes(space.data[offset + 8 : offset + 40], "little") & ((1 << bits) - 1)
    return Acs(capability, space.word(offset + control), egress)


def _sriov(space: ConfigSpace, offset: int) -> Sriov:
    return Sriov(
        enabled=bool(space.word(offset + 0x08) & 1),
        total=space.word(offset + 0x0E),
        number=space.word(offset + 0x10),
        offset=space.word(offset + 0x14),
        stride=space.word(offset + 0x16),
        device=space.word(offset + 0x1A),
    )


def encode(device: Device) -> bytes:
    """Return a configuration space that `decode` reads back as *device*.

    Label, what is unknown, physical function, real DMA device and multifunction by slot are no
    part of the bytes. PCIe functions get 4096 bytes, conventional ones 256.
    """
    data = bytearray(FULL if device.kind.is_pcie else 0x100)

    def word(offset: int, value: int) -> None:
        data[offset : offset + 2] = (value & 0xFFFF).to_bytes(2, "little")

    word(0x00, device.vendor)
    word(0x02, device.device)
    word(0x0A, device.class_code)
    data[0x0E] = device.header_type | (0x80 if device.multifunction else 0)
    if device.header_type == 0:
        word(0x2C, device.subsystem >> 16)
        word(0x2E, device.subsystem)
    if device.own_memory:
        word(0x10, 0x0008)
    if device.header_type and device.secondary is not None:
        data[0x18], data[0x19] = device.bdf.bus, device.secondary
        data[0x1A] = device.subordinate or 0
    if device.kind.is_pcie:
        word(0x06, STATUS_CAP_LIST)
        data[0x14 if device.header_type == 2 else 0x34] = 0x40
        data[0x40] = CAP_PCIE
        word(0x42, 2 | _TYPE_CODES[device.kind] << 4)
        data[0x4F] = device.port_number
        _encode_extended(device, data, word)
    return bytes(data)


def _encode_extended(device: Device, data: bytearray, word: Callable[[int, int], None]) -> None:
    blocks: list[tuple[int, list[int]]] = []
    if device.acs is not None:
        wide = quirks.acs_control_offset(device.vendor, device.device, device.kind) == 8
        control = [0, device.acs.control] if wide else [device.acs.control]
        vector = [device.acs.egress >> shift & 0xFFFF for shift in range(0, 256, 16)]
        blocks.append((EXT_ACS, [device.acs.capability, *control, *([] if wide else vector)]))
    if device.ats:
        blocks.append((EXT_ATS, [0, 0]))
    if device.sriov is not None:
        virtual = device.sriov
        registers = [0, 0, int(virtual.enabled), 0, virtual.total, virtual.total, virtual.number]
        place = [0, virtual.offset, virtual.stride, 0, virtual.device]
        blocks.append((EXT_SRIOV, [*registers, *place]))
    if device.pri:
        blocks.append((EXT_PRI, [0, 0]))
    if device.pasid is not None:
        features = device.pasid_execute << 1 | device.pasid_privileged << 2
        blocks.append((EXT_PASID, [features | device.pasid << 8, 0]))
    offset = EXTENDED
    for index, (identifier, words) in enumerate(blocks):
        following = offset + 0x40 if index + 1 < len(blocks) else 0
        header = identifier | 1 << 16 | following << 20
        word(offset, header)
        word(offset + 2, header >> 16)
        for position, value in enumerate(words):
            word(offset + 4 + 2 * position, value)
        offset += 0x40
