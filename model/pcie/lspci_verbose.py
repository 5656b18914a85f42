"""What the words of one lspci record say: type, ACS, other capabilities, buses, group.

Every rule says what its absence means, because that depends on how lspci ran: without root's rights
it writes ``<access denied>`` for the capability list, ``-v`` names capabilities without their
values, and plain lspci has none of it. What is not known is named in `Device.unknown`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.device import ACS_BITS, Acs, Bdf, Device, Fact, PortKind, Sriov
from dmaproof.model.pcie.lspci_records import SNIPPED, Record
from dmaproof.model.pcie.pci_names import UNASSIGNED, class_of, ids_of

BRIDGE_CLASSES = {0x0604: 1, 0x0609: 1, 0x0607: 2}
"""Header type of bridge classes."""

_TYPES = {
    "Legacy Endpoint": PortKind.LEGACY_ENDPOINT,
    "Endpoint": PortKind.ENDPOINT,
    "Root Port": PortKind.ROOT_PORT,
    "Upstream Port": PortKind.UPSTREAM,
    "Downstream Port": PortKind.DOWNSTREAM,
    "PCI-Express to PCI/PCI-X Bridge": PortKind.PCIE_TO_PCI_BRIDGE,
    "PCI/PCI-X to PCI-Express Bridge": PortKind.PCI_TO_PCIE_BRIDGE,
    "Root Complex Integrated Endpoint": PortKind.RC_INTEGRATED_ENDPOINT,
    "Root Complex Event Collector": PortKind.RC_EVENT_COLLECTOR,
    "Unknown type": PortKind.RESERVED,
}
_TYPE = "|".join(map(re.escape, _TYPES))
_LISTED_TYPE = re.compile(rf"Capabilities: \[[0-9a-f]+\] Express (?:\(v\d+\) )?({_TYPE})")
_BARE_TYPE = re.compile(rf"Express (?:\(v\d+\) )?({_TYPE})")

_FLAGS = ("SrcValid", "TransBlk", "ReqRedir", "CmpltRedir", "UpstreamFwd", "EgressCtrl")
_FLAG_BITS = dict(zip((*_FLAGS, "DirectTrans"), ACS_BITS.values(), strict=True))
_ALL_FLAGS = " ".join(rf"{name}([+-])" for name in _FLAG_BITS)
_ACS_CAP = re.compile(rf"\bACSCap: ?{_ALL_FLAGS}")
_ACS_CTL = re.compile(rf"\bACSCtl: ?{_ALL_FLAGS}")

_DETAILS = re.compile(
    r" (?:Subsystem|Control|Flags|DeviceName|Capabilities|Kernel|Bus|NUMA|Status):"
)
_IDS = re.compile(r"\[([0-9a-f]{4}):([0-9a-f]{4})\]")
_NUMERIC = re.compile(r"(?:[Cc]lass )?\[?([0-9a-fA-F]{4})\]?: ([0-9a-fA-F]{4}):([0-9a-fA-F]{4})\b")
_NAMED = re.compile(r"([^:\[]{1,80}?)\s*(?:\[([0-9a-fA-F]{4})\])?: (.*)")
_BUS = re.compile(r"\bprimary=([0-9a-f]{2}), secondary=([0-9a-f]{2}), subordinate=([0-9a-f]{2})")
_GROUP = re.compile(r"\bIOMMU group:? (\d{1,9})\b")
_EXTENDED = re.compile(r"Capabilities: \[[1-9a-f][0-9a-f]{2}(?: v\d+)?\]")
_EXPRESS_ALONE = re.compile(rf"\b(?:DevCap|LnkCap|LnkSta): |{_EXTENDED.pattern}")
"""What only PCI Express functions have: its headline must have got lost."""
_SHOWN = re.compile(r"\b(?:Flags: |Control: I/O|Status: Cap|Capabilities: )")
_PASID = re.compile(r"PASIDCap: Exec([+-]) Priv([+-]), Max PASID Width: ([0-9a-f]{1,2})\b")
_SRIOV = re.compile(
    r"IOVCtl: Enable([+-]).{0,400}?Total VFs: (\d{1,5}), Number of VFs: (\d{1,5})"
    r".{0,200}?VF offset: (\d{1,5}), stride: (\d{1,5})(?:, Device ID: ([0-9a-f]{4})\b)?"
)
_PORT = re.compile(r"LnkCap: Port #(\d{1,3})\b")
_ACS_NAME = re.compile(
    r"Access Control|Capabilities: \[[1-9a-f][0-9a-f]{2}(?: v\d+)?\] (?:Unknown \(13\)|#0d\b)"
)
"""How releases of lspci name the capability; those that do not know it print its number."""
_NUMBERED = re.compile(
    r"Capabilities: \[[1-9a-f][0-9a-f]{2}(?: v\d+)?\] "
    r"(?:Unknown \((?:15|16|19|27)\)|#(?:0f|10|13|1b)\b)"
)
"""Numbers in place of ATS, SR-IOV, page requests or PASID."""
_SRIOV_NAME = re.compile(
    r"Single Root I/O Virtualization|"
    r"Capabilities: \[[1-9a-f][0-9a-f]{2}(?: v\d+)?\] (?:Unknown \(16\)|#10\b)"
)
_UNREAD = re.compile(r"<(?:access denied|chain broken|chain looped|unreadable|\?\?\?)>")
_SWITCHTEC = re.compile(r"Microsemi|PMC-Sierra|Switchtec|Microchip .*\bPCI100\d")
_ALL = frozenset({Fact.KIND, Fact.ACS, Fact.CAPABILITIES})


@dataclass(frozen=True)
class Words:
    """What one record says in words.

    Attributes:
        device: the function; its `unknown` says what the words leave open.
        group: the kernel's group number, None where there is none.
        extended: an extended capability is shown.
        wide: ACS control lies where lspci does not look (Sunrise Point), so what it shows as
            control is something else; the capability is right.
        owns_segment: it is an Intel VMD, or is driven as one.

    """

    device: Device
    group: int | None
    extended: bool
    wide: bool
    owns_segment: bool


def read_words(record: Record) -> Words:
    """Return what the words of *record* say."""
    text = record.text
    device, name = _identity(record.bdf, text)
    detailed = _SHOWN.search(text) is not None
    denied = _UNREAD.search(text) is not None
    snipped = any(map(SNIPPED.fullmatch, record.lines))
    cut_short = snipped or (
        not record.ended and "Kernel " not in text and "Status: Cap-" not in text
    )
    device = _buses(device, text)
    kind = _kind(record, text)
    if kind is not None:
        device = replace(device, kind=kind)
    elif denied or not detailed or cut_short or _is_joined(text) or _EXPRESS_ALONE.search(text):
        device = replace(device, kind=_conventional(device), unknown=device.unknown | _ALL)
    else:
        device = replace(device, kind=_conventional(device))
    device = replace(device, aliases=quirks.quirk_aliases(device))
    if device.class_code == quirks.OTHER_BRIDGE_CLASS and _SWITCHTEC.search(name):
        device = replace(device, unknown=device.unknown | {Fact.ALIASES})
    wide = quirks.acs_control_offset(device.vendor, device.device, device.kind) != 6
    if device.kind.is_pcie:
        device = _capabilities(device, text, complete=detailed and not denied and not cut_short)
    if _is_joined(text):
        device = replace(device, unknown=device.unknown | _ALL)
    group = _GROUP.search(text)
    return Words(
        device=device,
        group=int(group[1]) if group else None,
        extended=_EXTENDED.search(text) is not None,
        wide=wide and device.acs is not None,
        owns_segment=quirks.is_vmd(device) or "Volume Management Device" in name,
    )


def _is_joined(text: str) -> bool:
    """Whether a headline got lost, so that the words of two functions stand in one record."""
    return any(text.count(word) > 1 for word in (" Control: I/O", " Kernel driver in use: "))


def _identity(bdf: Bdf, text: str) -> tuple[Device, str]:
    """Read the headline: class, vendor and device, by number where there is one."""
    end = _DETAILS.search(text)
    head = text[: end.start()] if end else text[:400]
    numbers = _NUMERIC.match(head)
    if numbers is not None:
        code, vendor, device = (int(part, 16) for part in numbers.groups())
        return _function(bdf, code, vendor, device, text), head
    named = _NAMED.match(_without_quotes(head))
    if named is None:
        unknown = _function(bdf, UNASSIGNED, 0, 0, text)
        return replace(unknown, unknown=frozenset({Fact.IDS})), head
    word, number, name = named.groups()
    code = int(number, 16) if number else class_of(word)
    pairs = _IDS.findall(name)
    if pairs:
        vendor, device = (int(part, 16) for part in pairs[-1])
        return _function(bdf, code, vendor, device, text), name
    ids = ids_of(name)
    found = _function(bdf, code, ids.vendor, ids.device, text)
    return (found if ids.certain else replace(found, unknown=frozenset({Fact.IDS}))), name


def _without_quotes(head: str) -> str:
    """Turn ``"Host bridge" "Intel Corporation" "..."`` of ``lspci -mm`` into the plain form."""
    words = re.findall(r'"([^"]*)"', head) if head.startswith('"') else []
    if len(words) < 3:
        return head
    numbers = [re.fullmatch(r"(?:.*\[)?([0-9a-f]{4})\]?", word) for word in words[1:3]]
    pair = f" [{numbers[0][1]}:{numbers[1][1]}]" if numbers[0] and numbers[1] else ""
    return f"{words[0]}: {words[1]} {words[2]}{pair}"


def _function(bdf: Bdf, code: int, vendor: int, device: int, text: str) -> Device:
    start = text.find("Subsystem: ")
    owner = _IDS.search(text, start, start + 300) if start >= 0 else None
    subsystem = int(owner[1], 16) << 16 | int(owner[2], 16) if owner else 0
    header = BRIDGE_CLASSES.get(code, 0)
    return Device(
        bdf=bdf,
        vendor=vendor,
        device=device,
        class_code=code,
        subsystem=0 if header else subsystem,
        header_type=header,
    )


def _buses(device: Device, text: str) -> Device:
    found = _BUS.search(text)
    if found is None:
        return device
    secondary, subordinate = int(found[2], 16), int(found[3], 16)
    header = device.header_type or 1
    if not secondary:
        return replace(device, header_type=header)
    return replace(device, header_type=header, secondary=secondary, subordinate=subordinate)


def _conventional(device: Device) -> PortKind:
    return PortKind.CONVENTIONAL_BRIDGE if device.is_bridge else PortKind.CONVENTIONAL


def _kind(record: Record, text: str) -> PortKind | None:
    """Return the PCIe type, None where no PCI Express capability is shown."""
    found = _LISTED_TYPE.search(text)
    if found is None:
        bare = (_BARE_TYPE.match(line) for line in record.lines[1:])
        found = next((match for match in bare if match), None)
    return _TYPES[found[1]] if found else None


def _capabilities(device: Device, text: str, *, complete: bool) -> Device:
    """Read what a PCIe function can do; *complete*: the list of capabilities is all there."""
    changes: dict[str, object] = {}
    unknown = set(device.unknown)
    acs = _acs(text)
    if acs is not None:
        changes["acs"] = acs
    elif _ACS_NAME.search(text) or not complete:
        unknown.add(Fact.ACS)
    changes["ats"] = "Address Translation Service (ATS)" in text
    changes["pri"] = "Page Request Interface (PRI)" in text
    if not complete or _NUMBERED.search(text):
        unknown.add(Fact.CAPABILITIES)
    if not _pasid(text, changes) or not _sriov(text, changes):
        unknown.add(Fact.CAPABILITIES)
    port = _PORT.search(text)
    if port is not None:
        changes["port_number"] = min(int(port[1]), 255)
    return replace(device, unknown=frozenset(unknown), **changes)  # type: ignore[arg-type]


def _acs(text: str) -> Acs | None:
    capability, control = _ACS_CAP.search(text), _ACS_CTL.search(text)
    if capability is None or control is None:
        return None
    return Acs(_bits(capability), _bits(control))


def _bits(found: re.Match[str]) -> int:
    signs = zip(_FLAG_BITS.values(), found.groups(), strict=True)
    return sum(bit for bit, sign in signs if sign == "+")


def _pasid(text: str, changes: dict[str, object]) -> bool:
    """Read the PASID capability; False if there is one without values."""
    if "Process Address Space ID (PASID)" not in text:
        return True
    found = _PASID.search(text)
    if found is None:
        return False
    changes["pasid"] = min(int(found[3], 16), 20)
    changes["pasid_execute"] = found[1] == "+"
    changes["pasid_privileged"] = found[2] == "+"
    return True


def _sriov(text: str, changes: dict[str, object]) -> bool:
    """Read the SR-IOV capability; False if there is one without values."""
    if _SRIOV_NAME.search(text) is None:
        return True
    found = _SRIOV.search(text)
    if found is None:
        changes["sriov"] = Sriov(False, 0, 0, 0, 0)
        return False
    total, number, offset, stride = (min(int(part), 0xFFFF) for part in found.groups()[1:5])
    device = int(found[6] or "0", 16)
    changes["sriov"] = Sriov(found[1] == "+", total, number, offset, stride, device)
    return True
