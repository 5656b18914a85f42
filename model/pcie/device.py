"""One PCI function: its address, its type and the registers that matter for isolation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from dmaproof.model.errors import InputError

BDF_PATTERN = re.compile(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")

NO_ID = 0xFFFF
"""What a virtual function, and one that does not answer, has for a vendor id."""

HOST_BRIDGE_CLASS = 0x0600
IOMMU_CLASS = 0x0806


@dataclass(frozen=True, order=True, slots=True)
class Bdf:
    """Address of a PCI function.

    Attributes:
        domain: PCI segment, 0 .. 2**32-1 (the kernel numbers VMD segments from 0x10000).
        bus: bus number, 0 .. 255.
        device: device number on the bus, 0 .. 31.
        function: function number in the device, 0 .. 7.

    """

    domain: int
    bus: int
    device: int
    function: int

    def __post_init__(self) -> None:
        if not (
            0 <= self.domain < 1 << 32
            and 0 <= self.bus < 256
            and 0 <= self.device < 32
            and 0 <= self.function < 8
        ):
            raise InputError(
                f"{self.domain:x}:{self.bus:x}:{self.device:x}.{self.function} is no PCI address",
                cause="bus above ff, device above 1f or function above 7",
                remedy="write dddd:bb:dd.f with hexadecimal digits, for example 0000:00:1c.0",
            )

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"

    @property
    def devfn(self) -> int:
        """Device and function number in 8 bits: device << 3 | function."""
        return self.device << 3 | self.function

    @property
    def rid(self) -> int:
        """Requester id in 16 bits: bus << 8 | devfn."""
        return self.bus << 8 | self.devfn

    @property
    def slot(self) -> tuple[int, int, int]:
        """What the functions of one device share: domain, bus and device number."""
        return self.domain, self.bus, self.device

    @property
    def segment_bus(self) -> tuple[int, int]:
        """Domain and bus number."""
        return self.domain, self.bus

    @classmethod
    def from_rid(cls, rid: int, domain: int = 0) -> Bdf:
        """Return the address whose requester id is *rid* (16 bits) in *domain*."""
        return cls(domain, rid >> 8 & 0xFF, rid >> 3 & 0x1F, rid & 7)

    @classmethod
    def parse(cls, text: str, where: str = "") -> Bdf:
        """Read ``dddd:bb:dd.f`` or ``bb:dd.f`` (domain 0), hexadecimal.

        Raises:
            InputError: *text* is no PCI address.

        """
        match = BDF_PATTERN.fullmatch(text.strip())
        if match is None:
            raise InputError(
                f"{text[:60]!r} is no PCI address",
                where,
                "a PCI address looks like 0000:00:1c.0 or 00:1c.0",
                "give domain:bus:device.function in hexadecimal",
            )
        domain, bus, device, function = match.groups(default="0")
        try:
            return cls(int(domain, 16), int(bus, 16), int(device, 16), int(function, 16))
        except InputError as error:
            error.where = where
            raise


class PortKind(StrEnum):
    """What a function is on the fabric: its PCIe device/port type, or conventional PCI."""

    ENDPOINT = "endpoint"
    LEGACY_ENDPOINT = "legacy-endpoint"
    ROOT_PORT = "root-port"
    UPSTREAM = "upstream-port"
    DOWNSTREAM = "downstream-port"
    PCIE_TO_PCI_BRIDGE = "pcie-to-pci-bridge"
    PCI_TO_PCIE_BRIDGE = "pci-to-pcie-bridge"
    RC_INTEGRATED_ENDPOINT = "rc-integrated-endpoint"
    RC_EVENT_COLLECTOR = "rc-event-collector"
    RESERVED = "reserved-pcie-type"
    CONVENTIONAL = "conventional"
    CONVENTIONAL_BRIDGE = "conventional-bridge"

    @property
    def is_pcie(self) -> bool:
        """Whether the function has a PCI Express capability."""
        return self not in {PortKind.CONVENTIONAL, PortKind.CONVENTIONAL_BRIDGE}

    @property
    def has_link_below(self) -> bool:
        """Whether a PCIe link hangs below, so that ACS egress rules act on what comes up it."""
        return self in {PortKind.ROOT_PORT, PortKind.DOWNSTREAM}


ACS_BITS: dict[str, int] = {
    "SV": 0x01,
    "TB": 0x02,
    "RR": 0x04,
    "CR": 0x08,
    "UF": 0x10,
    "EC": 0x20,
    "DT": 0x40,
}
"""Letters of the ACS bits, the same in the capability and in the control register."""


@dataclass(frozen=True, slots=True)
class Acs:
    """Access Control Services of one function.

    Attributes:
        capability: 16-bit capability register (what the hardware implements).
        control: 16-bit control register (what is switched on).
        egress: egress control vector; bit n belongs to port or function number n.

    """

    capability: int
    control: int
    egress: int = 0

    def letters(self, value: int) -> str:
        """Return the bits of *value* by their letters, for example ``SV|RR``; ``none`` for 0."""
        return "|".join(name for name, bit in ACS_BITS.items() if value & bit) or "none"

    def __str__(self) -> str:
        return f"can {self.letters(self.capability)}, does {self.letters(self.control)}"


@dataclass(frozen=True, slots=True)
class Sriov:
    """SR-IOV capability of a physical function.

    Attributes:
        enabled: VF Enable bit.
        total: TotalVFs.
        number: NumVFs.
        offset: First VF Offset, added to the physical function's requester id.
        stride: VF Stride.
        device: VF Device ID, the device id of the virtual functions; 0 where it is not known.

    """

    enabled: bool
    total: int
    number: int
    offset: int
    stride: int
    device: int = 0

    def rids(self, physical: int) -> Iterator[int]:
        """Yield the requester ids of the enabled virtual functions of *physical*."""
        if not self.enabled:
            return
        for index in range(self.number):
            rid = physical + self.offset + index * self.stride
            if rid > 0xFFFF:
                return
            yield rid


class Fact(StrEnum):
    """Something about a function that a dump can leave out.

    While it is unknown, the field that would hold it keeps its default, and that default means
    nothing. `undecided` says what follows.
    """

    IDS = "ids"
    """Vendor and device id, so quirks may or may not apply: the dump has names only, or bytes
    that a virtual function, or one that does not answer, reads as."""
    KIND = "kind"
    """PCIe type or conventional: the capability list was not shown."""
    ACS = "acs"
    """Whether there is an ACS capability, or what its registers hold."""
    CAPABILITIES = "capabilities"
    """PASID, ATS, page requests, SR-IOV."""
    PORT_ABOVE = "port-above"
    """The port above: the dump does not list it."""
    PHYSFN = "physical-function"
    """Whether it is a virtual function, or whose: the dump does not list the physical function,
    or not the values of its SR-IOV capability."""
    ALIASES = "aliases"
    """Requester ids beside its own, which the kernel reads from the function's memory."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One PCI function, port or bridge.

    Attributes:
        bdf: its address.
        kind: PCIe type or conventional.
        vendor: vendor id, 16 bits.
        device: device id, 16 bits.
        class_code: class and subclass, 16 bits (0x0604 is a PCI bridge).
        subsystem: subsystem vendor id << 16 | subsystem id.
        header_type: 0 function, 1 PCI bridge, 2 CardBus bridge (bit 7 left out).
        multifunction: as the kernel sees it; `Machine` sets it for slots with several functions.
        acs: ACS registers, None when there is no ACS capability.
        pasid: PASID width in bits, None when there is no PASID capability.
        pasid_execute: execute permission supported with PASID.
        pasid_privileged: privileged mode supported with PASID.
        ats: has an ATS capability.
        pri: has a page request capability.
        sriov: SR-IOV capability of a physical function.
        secondary: bus behind a bridge, None for others and for a bridge nobody configured.
        subordinate: highest bus behind a bridge.
        port_number: port number of the link capability, index into egress control vectors.
        label: short name in built-in machines ("A"), else "".
        unknown: what the dump does not say; the fields concerned hold defaults.
        aliases: further requester ids the device uses for DMA by a quirk (same bus).
        physfn: the physical function a virtual function belongs to; `Machine` sets it.
        own_memory: a bridge has a memory BAR or an expansion ROM of its own.
        real_dma: the device whose requester id the IOMMU sees instead (Intel VMD: everything in
            its segment sends as the VMD endpoint), None for most.

    """

    bdf: Bdf
    kind: PortKind = PortKind.ENDPOINT
    vendor: int = 0
    device: int = 0
    class_code: int = 0
    subsystem: int = 0
    header_type: int = 0
    multifunction: bool = False
    acs: Acs | None = None
    pasid: int | None = None
    pasid_execute: bool = False
    pasid_privileged: bool = False
    ats: bool = False
    pri: bool = False
    sriov: Sriov | None = None
    secondary: int | None = None
    subordinate: int | None = None
    port_number: int = 0
    label: str = ""
    unknown: frozenset[Fact] = frozenset()
    aliases: frozenset[Bdf] = frozenset()
    physfn: Bdf | None = None
    real_dma: Bdf | None = None
    own_memory: bool = False

    @property
    def hidden(self) -> bool:
        """Whether capabilities may exist that could not be read: absence means nothing."""
        return Fact.ACS in self.unknown or Fact.CAPABILITIES in self.unknown

    @property
    def kind_name(self) -> str:
        """What it is on the fabric, in words; "type unknown" where the dump does not say."""
        return "type unknown" if Fact.KIND in self.unknown else str(self.kind)

    @property
    def is_bridge(self) -> bool:
        """Whether it is a port or bridge (header type 1 or 2)."""
        return self.header_type in {1, 2}

    @property
    def is_virtual(self) -> bool:
        """Whether it is an SR-IOV virtual function."""
        return self.physfn is not None

    @property
    def is_requester(self) -> bool:
        """Whether it starts DMA that an IOMMU judges: no port, bridge, host bridge or IOMMU."""
        return not self.is_bridge and self.class_code not in {HOST_BRIDGE_CLASS, IOMMU_CLASS}

    def __str__(self) -> str:
        return f"{self.label} ({self.bdf})" if self.label else str(self.bdf)
