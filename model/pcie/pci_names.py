"""Ids behind the names that lspci prints without ``-n`` or ``-nn``.

Only what decides something is here: class names, and the vendors and devices that a quirk is about.
Names are those of the PCI id database; "Device 1234" and "Class 1234" give their number outright.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

UNASSIGNED = 0xFF00

CLASSES: dict[str, int] = {
    "Host bridge": 0x0600,
    "ISA bridge": 0x0601,
    "EISA bridge": 0x0602,
    "MicroChannel bridge": 0x0603,
    "PCI bridge": 0x0604,
    "PCMCIA bridge": 0x0605,
    "NuBus bridge": 0x0606,
    "CardBus bridge": 0x0607,
    "RACEway bridge": 0x0608,
    "Semi-transparent PCI-to-PCI bridge": 0x0609,
    "InfiniBand to PCI host bridge": 0x060A,
    "Bridge": 0x0680,
    "IOMMU": 0x0806,
    "PIC": 0x0800,
    "SD Host controller": 0x0805,
    "Generic system peripheral": 0x0807,
    "System peripheral": 0x0880,
    "RAID bus controller": 0x0104,
    "SATA controller": 0x0106,
    "Non-Volatile memory controller": 0x0108,
    "Ethernet controller": 0x0200,
    "Infiniband controller": 0x0207,
    "Network controller": 0x0280,
    "VGA compatible controller": 0x0300,
    "3D controller": 0x0302,
    "Display controller": 0x0380,
    "Audio device": 0x0403,
    "Multimedia audio controller": 0x0401,
    "Communication controller": 0x0780,
    "Serial controller": 0x0700,
    "USB controller": 0x0C03,
    "SMBus": 0x0C05,
    "Signal processing controller": 0x1180,
    "Processing accelerators": 0x1200,
}
"""Class and subclass by name; the bridges are all there, of the rest the common ones."""

_VENDORS: tuple[tuple[str, int], ...] = (
    ("Intel", 0x8086),
    ("Advanced Micro Devices, Inc. [AMD/ATI]", 0x1002),
    ("Advanced Micro Devices [AMD] nee ATI", 0x1002),
    ("ATI Technologies", 0x1002),
    ("Advanced Micro Devices", 0x1022),
    ("Solarflare", 0x1924),
    ("Broadcom / LSI", 0x1000),
    ("Broadcom", 0x14E4),
    ("Cavium", 0x177D),
    ("Shanghai Zhaoxin", 0x1D17),
    ("Zhaoxin", 0x1D17),
    ("Qualcomm", 0x17CB),
    ("Guizhou Huaxintong", 0x1DBF),
    ("HXT", 0x1DBF),
    ("Applied Micro Circuits", 0x10E8),
    ("AppliedMicro", 0x10E8),
    ("Ampere Computing", 0x1DEF),
    ("Loongson", 0x0014),
    ("Freescale", 0x1957),
    ("NXP", 0x1957),
    ("Amazon.com, Inc. Annapurna", 0x1C36),
    ("Amazon Annapurna", 0x1C36),
    ("Annapurna Labs", 0x1C36),
    ("Beijing Wangxun", 0x8088),
    ("Wangxun", 0x8088),
    ("Ricoh", 0x1180),
    ("Glenfly", 0x6766),
    ("Marvell Technology Group Ltd. 88SE", 0x1B4B),
    ("HighPoint", 0x1103),
    ("JMicron", 0x197B),
    ("Lite-On", 0x1C28),
    ("Adaptec", 0x9005),
    ("ASMedia", 0x1B21),
    ("Tundra", 0x10E3),
    ("IDT", 0x10E3),
    ("Integrated Technology Express", 0x1283),
    ("ASPEED", 0x1A03),
    ("PLX", 0x10B5),
)
"""How the names of vendors begin of which some device has a quirk."""

_EMULEX = {"OneConnect": 0x19A2, "Skyhawk": 0x10DF}

_NUMBERED: tuple[tuple[str, int, int, int], ...] = (
    # name, id of port #first, first, step
    (r"(5 Series/3400 Series Chipset|Ibex Peak)", 0x3B42, 1, 2),
    (r"(6 Series/C200 Series Chipset Family|Cougar Point)", 0x1C10, 1, 2),
    (r"(7 Series(/C21[06]( Series)?)? Chipset Family|Panther Point)", 0x1E10, 1, 2),
    (r"(8 Series/C220 Series Chipset Family|Lynx Point-H)", 0x8C10, 1, 2),
    (r"(9 Series Chipset Family)", 0x8C90, 1, 2),
    (r"(8 Series|Lynx Point-LP)", 0x9C10, 1, 2),
    (r"(Wildcat Point-LP)", 0x9C90, 1, 2),
    (r"(C600/X79 series chipset|Patsburg)", 0x1D10, 1, 2),
    (r"(C610/X99 series chipset|Wellsburg)", 0x8D10, 1, 2),
    (r"(Sunrise Point-LP)", 0x9D10, 1, 1),
    (r"(100 Series/C230 Series Chipset Family|Sunrise Point-H)", 0xA110, 1, 1),
    (r"(200 Series PCH|Union Point)", 0xA290, 1, 1),
)
"""Intel root ports: families whose isolation is a matter of a quirk."""

_SEVENTEEN = {0xA110: 0xA167, 0xA290: 0xA2E7}
"""Where ports from #17 on are numbered elsewhere."""

_NAMED: tuple[tuple[int, str, int], ...] = (
    (0x0014, r"PCIe x1 Root Port", 0x7A39),
    (0x0014, r"PCIe x4 Root Port", 0x7A49),
    (0x0014, r"PCIe x8 Root Port", 0x7A59),
    (0x0014, r"PCIe x16 Root Port", 0x7A69),
    (0x8086, r"82801 PCI Bridge", 0x244E),
    (0x8086, r"\(2\) I219-LM", 0x15B7),
    (0x8086, r"\(2\) I219-V", 0x15B8),
    (0x8086, r"82575(?!.*Virtual)", 0x10A7),
    (0x8086, r"82576(?!.*Virtual)", 0x10C9),
    (0x8086, r"82580(?!.*Virtual)", 0x150E),
    (0x8086, r"I350(?!.*Virtual)", 0x1521),
    (0x14E4, r"BCM57414", 0x16D7),
    (0x14E4, r"BCM57508", 0x1750),
    (0x14E4, r"BCM57504", 0x1751),
    (0x14E4, r"BCM57502", 0x1752),
    (0x1002, r"SBx00 SMBus Controller", 0x4385),
    (0x1002, r"SB7x0/SB8x0/SB9x0 IDE Controller", 0x439C),
    (0x1002, r"SBx00 Azalia \(Intel HDA\)", 0x4383),
    (0x1002, r"SB7x0/SB8x0/SB9x0 LPC host controller", 0x439D),
    (0x1002, r"SBx00 PCI to PCI Bridge", 0x4384),
    (0x1002, r"SB7x0/SB8x0/SB9x0 USB OHCI2 Controller", 0x4399),
    (0x1022, r"FCH PCI Bridge", 0x780F),
    (0x1022, r"FCH USB OHCI Controller", 0x7809),
    (0x1B21, r"ASM1083/1085", 0x1080),
    (0x1283, r"IT8892E", 0x8892),
    (0x1283, r"IT8893E", 0x8893),
    (0x1A03, r"AST1150", 0x1150),
    (0x10E3, r"Tsi381|8113", 0x8113),
    (0x1180, r"R5C832 PCIe IEEE 1394", 0xE832),
    (0x1103, r"RocketRAID 642L", 0x0642),
    (0x1103, r"RocketRAID 644L", 0x0645),
    (0x197B, r"JMB388", 0x2392),
    (0x1C28, r"M6e", 0x0122),
)

# Where several ids share a name and a quirk (Loongson's ports, 82576), one of them stands for all.

_UNCERTAIN: dict[int, str] = {
    0x8086: r"82571|8259[89]|X5[24]0|VCA|Visual Compute|x200",
    0x0014: r"Root Port|PCIe",
    0x1000: r"$^",
    0x17CB: r"Root Port|PCIe|PCI Express",
    0x14E4: r"BCM57[456]|NetXtreme-[CE]|BCM58|iProc|Stingray|StrataX|Vulcan",
    0x1002: r"\bSB[x6-9]\S* (SMBus|IDE|Azalia|LPC|PCI to PCI|USB OHCI2)",
    0x1022: r"$^",
    0x1B4B: r"88SE9",
    0x10B5: r"PEX 87(49|32|33|17|25)|NT",
    0x10E3: r"PCI",
    0x1A03: r"bridge|Bridge",
}
"""Of these vendors, names that may belong to a device with a quirk; of others, any name may."""

_NEVER_BY_NAME = {0x1180, 0x1103, 0x197B, 0x1C28, 0x9005, 0x1B21, 0x1283}
"""Vendors whose quirks are known by the names above (or by subsystem id) alone."""


@dataclass(frozen=True)
class Ids:
    """What a name says about ids.

    Attributes:
        vendor: vendor id, 0 where no quirk is about the vendor.
        device: device id, 0 where unknown.
        certain: no quirk depends on what is not known.

    """

    vendor: int
    device: int
    certain: bool


def ids_of(name: str) -> Ids:
    """Return the ids of a function by the rest of its headline, for example ``Intel ... #5``."""
    vendor = next((number for start, number in _VENDORS if name.startswith(start)), 0)
    if "Emulex" in name:
        vendor = next((v for word, v in _EMULEX.items() if word in name), 0x19A2)
    plain = re.search(r"\bDevice ([0-9a-f]{4})\b", name)
    if plain is not None:
        # A vendor without a name here has no quirk; its number would say nothing more.
        return Ids(vendor, int(plain[1], 16) if vendor else 0, True)
    if vendor == 0:
        return Ids(0, 0, True)
    device = _device(vendor, name)
    if device:
        return Ids(vendor, device, True)
    if vendor in _NEVER_BY_NAME:
        return Ids(vendor, 0, True)
    doubtful = _UNCERTAIN.get(vendor)
    return Ids(vendor, 0, doubtful is not None and re.search(doubtful, name) is None)


def _device(vendor: int, name: str) -> int:
    for owner, pattern, device in _NAMED:
        if owner == vendor and re.search(pattern, name):
            return device
    if vendor == 0x1B4B and (found := re.search(r"88SE(9\d[0-9a-fA-F]\d|917[aA]|91[aA]0)", name)):
        return int(found[1], 16)
    if vendor == 0x8086:
        for family, base, first, step in _NUMBERED:
            found = re.search(rf"\b{family} PCI Express Root Port #?(\d+)", name)
            if found is not None:
                return _port(base, int(found[found.re.groups]), first, step)
    return 0


def _port(base: int, number: int, first: int, step: int) -> int:
    if number > 16 and base in _SEVENTEEN:
        return _SEVENTEEN[base] + number - 17
    return base + (number - first) * step


def class_of(name: str) -> int:
    """Return class and subclass by the name lspci prints, `UNASSIGNED` for one not listed."""
    plain = re.search(r"[Cc]lass \[?([0-9a-fA-F]{4})\b", name)
    return int(plain[1], 16) if plain else CLASSES.get(" ".join(name.split()), UNASSIGNED)
