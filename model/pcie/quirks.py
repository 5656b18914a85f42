"""Device quirks that change ACS answers and requester ids, as far as Linux knows them.

Identifiers are facts from drivers/pci/quirks.c (Linux 7.0): `pci_dev_acs_enabled` and the functions
that it names, `pci_quirk_intel_pch_acs_ids`, `fixed_dma_alias_tbl` and the fixups that call
`pci_add_dma_alias`; of drivers/pci/controller/vmd.c `vmd_ids`. Compared entry by entry with the
sources of 6.18 and 7.0. Each table says what its devices do; the functions answer the kernel's
question about one device.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmaproof.model.pcie.device import ACS_BITS, Bdf, Device, PortKind
from dmaproof.model.rules import rule

INTEL, AMD, ATI = 0x8086, 0x1022, 0x1002

SV, TB, RR, CR = (ACS_BITS[name] for name in ("SV", "TB", "RR", "CR"))
UF, EC, DT = (ACS_BITS[name] for name in ("UF", "EC", "DT"))
ISOLATED = SV | RR | CR | UF
"""What the kernel asks for before it believes that a port isolates (0x1d)."""


def _span(first: int, last: int) -> frozenset[int]:
    return frozenset(range(first, last + 1))


QUIET_MULTIFUNCTION: dict[int, frozenset[int]] = {
    # Intel 82598, 82599, X520, X540
    INTEL: frozenset(
        {0x10C6, 0x10DB, 0x10DD, 0x10E1, 0x10F1, 0x1507, 0x1514, 0x151C, 0x1529, 0x152A}
        | {0x154D, 0x154F, 0x1551, 0x1558}
        | _span(0x10F7, 0x10FC)
        # 82580
        | {0x1509, 0x150E, 0x150F, 0x1510, 0x1511, 0x1516, 0x1527}
        # 82576
        | {0x10C9, 0x10E6, 0x10E7, 0x10E8, 0x150A, 0x150D, 0x1518, 0x1526}
        # 82575, I350, 82571, I219
        | {0x10A7, 0x10A9, 0x10D6}
        | _span(0x1521, 0x1524)
        | {0x105E, 0x105F, 0x1060, 0x10D9, 0x15B7, 0x15B8}
    ),
    0x1924: frozenset({0x0903, 0x0923, 0x0A03}),  # Solarflare
    0x19A2: frozenset({0x0710}),  # Emulex BE3-R
    0x10DF: frozenset({0x0720}),  # Emulex Skyhawk-R
    0x177D: frozenset({0xA026, 0xA059, 0xA060}),  # Cavium
    0x14E4: frozenset({0x16D7, 0x1750, 0x1751, 0x1752}) | _span(0x1760, 0x1763),  # Broadcom
    0x1D17: frozenset({0x3038, 0x3104, 0x9083}),  # Zhaoxin
}
"""Multifunction devices whose vendor vouches that functions do not talk to each other."""

WANGXUN = _span(0x0100, 0x010F) | {0x1001, 0x2001, 0x5010, 0x5025, 0x5040, 0x5110, 0x5125, 0x5140}

INTEL_PCH_ROOT_PORTS = (
    _span(0x3B42, 0x3B51)  # Ibex Peak
    | _span(0x1C10, 0x1C1F)  # Cougar Point
    | _span(0x1E10, 0x1E1F)  # Panther Point
    | _span(0x8C10, 0x8C1F)  # Lynx Point-H
    | _span(0x9C10, 0x9C1B)  # Lynx Point-LP
    | _span(0x9C90, 0x9C9B)  # Wildcat Point
    | frozenset(range(0x1D10, 0x1D1F, 2))  # Patsburg
    | _span(0x8D10, 0x8D1E)  # Wellsburg
    | frozenset(range(0x8C90, 0x8C9F, 2))  # Lynx Point, 9 series
)

WIDE_ACS_ROOT_PORTS = (
    _span(0xA110, 0xA11F)  # Sunrise Point-H
    | _span(0xA167, 0xA16A)
    | _span(0xA290, 0xA29F)  # Union Point
    | _span(0xA2E7, 0xA2EE)
    | _span(0x9D10, 0x9D1B)  # 7th and 8th generation mobile
)
"""Intel root ports whose ACS registers are dwords, so that control is 8 bytes in."""

VOUCHED_PORTS: dict[int, frozenset[int]] = {
    0x17CB: frozenset({0x0400, 0x0401, 0x0115, 0x0111, 0x0120}),  # Qualcomm
    0x1DBF: frozenset({0x0401}),  # HXT
    0x10E8: frozenset({0xE004}),  # APM X-Gene
    0x1DEF: _span(0xE005, 0xE00C),  # Ampere
    0x14E4: frozenset({0xD714}),  # Broadcom iProc
    0x0014: frozenset(
        {0x3C09, 0x3C19, 0x3C29, 0x7A09, 0x7A19, 0x7A29, 0x7A39, 0x7A49, 0x7A59, 0x7A69}
    ),  # Loongson
    0x1957: frozenset(
        base + step
        for base in (0x8D80, 0x8D88)
        for step in (0, 1, 2, 3, 16, 17, 18, 19, 32, 33, 48, 49)
    ),  # NXP LX2xx0, LX2xx2
}
"""Ports without ACS capability that behave as if SV, RR, CR and UF were on."""

VOUCHED_ROOT_PORTS: dict[int, frozenset[int]] = {
    0x177D: _span(0xA000, 0xA7FF) | {0xAF84, 0xB884},  # Cavium ThunderX
    0x1C36: frozenset({0x0031}),  # Amazon Annapurna Labs
}

ZHAOXIN_PORTS = _span(0x0710, 0x071E) | {0x0721} | _span(0x0723, 0x0752)

AMD_SOUTHBRIDGE: dict[int, frozenset[int]] = {
    ATI: frozenset({0x4385, 0x439C, 0x4383, 0x439D, 0x4384, 0x4399}),
    AMD: frozenset({0x780F, 0x7809}),
}

FUNCTION_0_DMA: dict[int, frozenset[int]] = {
    0x1180: frozenset({0xE832, 0xE476}),  # Ricoh
    0x6766: frozenset({0x3D40, 0x3D41}),  # Glenfly
}
"""Devices that use function 0 of their slot as requester id."""

FUNCTION_1_DMA: dict[int, frozenset[int]] = {
    0x1B4B: frozenset(
        {0x9120, 0x9123, 0x9125, 0x9128, 0x9130, 0x9170, 0x9172, 0x917A, 0x9182, 0x9183}
        | {0x91A0, 0x9215, 0x9220, 0x9230, 0x9235}
    ),  # Marvell 88SE91xx, 88SE92xx
    0x1103: frozenset({0x0642, 0x0645}),  # HighPoint
    0x197B: frozenset({0x2392}),  # JMicron JMB388
    0x1C28: frozenset({0x0122}),  # Lite-On
}
"""Devices that use function 1 of their slot as requester id, present or not."""

HIDDEN_PCIE_BRIDGES: dict[int, frozenset[int]] = {
    0x1B21: frozenset({0x1080}),  # ASMedia
    0x10E3: frozenset({0x8113}),  # Tundra
    0x1283: frozenset({0x8892, 0x8893}),  # ITE
    INTEL: frozenset({0x244E}),
}
"""PCIe-to-PCI bridges that do not show a PCI Express capability."""

TRANSPARENT_BRIDGES: dict[int, frozenset[int]] = {0x1A03: frozenset({0x1150})}
"""Bridges that pass requester ids through unchanged (ASPEED AST1150)."""

TRANSLATION_ROOTS: dict[int, frozenset[int]] = {0x14E4: frozenset({0x9000, 0x9084})}
"""Bridges above which there is no IOMMU, so that aliases end there."""


VMD: dict[int, frozenset[int]] = {
    INTEL: frozenset({0x201D, 0x28C0, 0x467F, 0x4C3D, 0x7D0B, 0x9A0B, 0xA77F, 0xAD0B})
    | {0xB06F, 0xB07F, 0xB60B},
}
"""Volume Management Devices: endpoints with a PCI segment of their own behind them."""

NTB_PROXIES: dict[int, frozenset[int]] = {0x10B5: frozenset({0x87B0, 0x87B1})}  # PLX
"""Non-transparent bridges that send as any device and function of their bus."""

_SWITCHTEC_4_5 = frozenset(
    generation << 12 | family << 8 | lanes
    for generation, families in ((4, (0, 1, 2)), (5, (0, 1, 2, 3, 4, 5)))
    for family in families
    for lanes in (0x00, 0x84, 0x68, 0x52, 0x36, 0x28)
)
SWITCHTEC: dict[int, frozenset[int]] = {
    0x11F8: frozenset(
        0x8500 | family << 4 | size for family in (3, 4, 5, 6, 7) for size in range(1, 7)
    )
    | _SWITCHTEC_4_5
    | {family << 8 | lanes for family in (0x43, 0x44, 0x45) for lanes in (0x52, 0x36, 0x28)},
    0x1055: _span(0x1001, 0x1006),
}
"""Microsemi and Microchip switches; their non-transparent bridges keep a table of requester ids."""

OTHER_BRIDGE_CLASS = 0x0680

FIRST_VMD_SEGMENT = 0x10000
"""Segments from here on are made by the VMD driver (`vmd_find_free_domain`)."""


@dataclass(frozen=True)
class AcsQuirk:
    """What a quirk says about a device.

    Attributes:
        provides: ACS bits the device provides without (or beside) its capability.
        ignores: asked bits that do not apply to it.
        reason: why, in words.

    """

    provides: int
    reason: str
    ignores: int = 0

    def satisfied(self, flags: int) -> bool:
        """Whether every asked bit is provided or does not apply."""
        return not flags & ~self.ignores & ~self.provides


def listed(table: dict[int, frozenset[int]], device: Device) -> bool:
    """Whether *device* is in a table of vendor and device ids."""
    return device.device in table.get(device.vendor, frozenset())


@rule(
    "pcie.acs.quirks",
    "drivers/pci/quirks.c pci_dev_specific_acs_enabled",
    "known devices provide ACS without saying so; the first quirk that applies decides",
)
def acs_quirk(device: Device, *, on_root: bool, amd_iommu: bool) -> AcsQuirk | None:
    """Return the ACS quirk that applies to *device*, None when its registers decide.

    Args:
        device: the function asked about.
        on_root: it sits on a root bus.
        amd_iommu: the machine has an AMD IOMMU.

    """
    if listed(AMD_SOUTHBRIDGE, device) and device.multifunction and on_root and amd_iommu:
        return AcsQuirk(RR | CR, "AMD south bridge without peer-to-peer", ~(RR | CR | EC | DT))
    if listed(QUIET_MULTIFUNCTION, device):
        provides = SV | TB | RR | CR | UF | DT
        return AcsQuirk(provides, "its vendor vouches that its functions are isolated")
    return _vendor_quirk(device)


def _vendor_quirk(device: Device) -> AcsQuirk | None:
    root_port = device.kind is PortKind.ROOT_PORT
    if device.vendor == INTEL and device.kind is PortKind.RC_INTEGRATED_ENDPOINT:
        return AcsQuirk(ISOLATED, "Intel integrated endpoints send all requests to the IOMMU")
    if device.vendor == INTEL and root_port and device.device in INTEL_PCH_ROOT_PORTS:
        return AcsQuirk(ISOLATED, "Intel PCH root port, isolating by a register of its own")
    if listed(VOUCHED_PORTS, device) or (root_port and listed(VOUCHED_ROOT_PORTS, device)):
        return AcsQuirk(ISOLATED, "its vendor vouches that it isolates like ACS")
    if device.vendor == 0x1D17 and device.kind.has_link_below:
        known = device.device in ZHAOXIN_PORTS
        return AcsQuirk(ISOLATED if known else 0, "Zhaoxin port")
    if device.vendor == 0x8088:
        return AcsQuirk(ISOLATED if device.device in WANGXUN else 0, "Wangxun network card")
    return None


@rule(
    "pcie.acs.wide-registers",
    "drivers/pci/quirks.c pci_quirk_intel_spt_pch_acs; Intel 100 series erratum 23",
    "some Intel root ports keep the ACS control register 8 bytes after the capability",
)
def acs_control_offset(vendor: int, device: int, kind: PortKind) -> int:
    """Return where the ACS control register lies, in bytes after the ACS capability."""
    wide = vendor == INTEL and kind is PortKind.ROOT_PORT and device in WIDE_ACS_ROOT_PORTS
    return 8 if wide else 6


def whole_bus(bdf: Bdf) -> frozenset[Bdf]:
    """Return every other requester id of the bus of *bdf*."""
    bus = (Bdf.from_rid(bdf.bus << 8 | devfn, bdf.domain) for devfn in range(256))
    return frozenset(bus) - {bdf}


@rule(
    "pcie.alias.quirks",
    "drivers/pci/quirks.c quirk_dma_func0_alias, quirk_dma_func1_alias, quirk_fixed_dma_alias,"
    " quirk_plx_ntb_dma_alias",
    "known devices put another function's requester id into their requests",
)
def quirk_aliases(device: Device) -> frozenset[Bdf]:
    """Return the further requester ids *device* is known to use (never its own)."""
    bdf = device.bdf
    found: set[Bdf] = set()
    if listed(FUNCTION_0_DMA, device):
        found.add(Bdf(bdf.domain, bdf.bus, bdf.device, 0))
    if listed(FUNCTION_1_DMA, device):
        found.add(Bdf(bdf.domain, bdf.bus, bdf.device, 1))
    adaptec = device.vendor == 0x9005 and device.device == 0x0285
    if adaptec and device.subsystem in {0x9005_02BB, 0x9005_02BC}:  # Adaptec 3405, 3805
        found.add(Bdf(bdf.domain, bdf.bus, 1, 0))
    if listed(NTB_PROXIES, device):
        found |= whole_bus(bdf)
    if device.vendor == INTEL and device.device in {0x2260, 0x2264}:  # MIC x200
        found |= {Bdf(bdf.domain, bdf.bus, *where) for where in ((16, 0), (17, 0), (18, 3))}
    if device.vendor == INTEL and device.device in _span(0x2954, 0x295A) - {0x2957}:  # VCA
        slots = ((slot, function) for slot in range(32) for function in range(5))
        found |= {Bdf(bdf.domain, bdf.bus, *where) for where in slots}
    return frozenset(found - {bdf})


@rule(
    "pcie.alias.switchtec",
    "drivers/pci/quirks.c quirk_switchtec_ntb_dma_alias",
    "a Switchtec NTB uses requester ids that stand in its own memory, which no dump shows",
)
def hides_aliases(device: Device) -> bool:
    """Whether the kernel takes requester ids of *device* from where no dump looks."""
    return device.class_code == OTHER_BRIDGE_CLASS and listed(SWITCHTEC, device)


def is_vmd(device: Device) -> bool:
    """Whether *device* is an Intel Volume Management Device."""
    return listed(VMD, device) and not device.is_bridge
