"""What the readers share: completing one record from another, and finding what is above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.topology import HOST_BRIDGE_CLASS, Bdf, Device, Fact, PortKind
from dmaproof.model.pcie.virtual import mark_virtual, physical_functions

_FIELDS: dict[Fact, tuple[str, ...]] = {
    Fact.IDS: ("vendor", "device", "subsystem", "aliases"),
    Fact.KIND: ("kind",),
    Fact.ACS: ("acs",),
    Fact.CAPABILITIES: ("pasid", "pasid_execute", "pasid_privileged", "ats", "pri", "sriov"),
}
_NEVER_ON_ROOT = {
    PortKind.ENDPOINT,
    PortKind.LEGACY_ENDPOINT,
    PortKind.UPSTREAM,
    PortKind.DOWNSTREAM,
    PortKind.PCIE_TO_PCI_BRIDGE,
}
_ALWAYS_ON_ROOT = {
    PortKind.ROOT_PORT,
    PortKind.RC_INTEGRATED_ENDPOINT,
    PortKind.RC_EVENT_COLLECTOR,
}
_VMD_ROOT_BUSES = {0x00, 0x80, 0xE0}
"""Bus number a VMD segment starts with (drivers/pci/controller/vmd.c)."""


def fill(first: Device, second: Device) -> Device:
    """Return *first*, with what it does not know taken from *second*, another record of it."""
    changes: dict[str, Any] = {}
    for fact in first.unknown - second.unknown:
        changes |= {name: getattr(second, name) for name in _FIELDS.get(fact, ())}
    for name in ("secondary", "subordinate"):
        if getattr(first, name) is None and second.header_type:
            changes[name] = getattr(second, name)
    changes["header_type"] = first.header_type or second.header_type
    changes["port_number"] = first.port_number or second.port_number
    unknown = first.unknown & second.unknown | first.unknown & {Fact.PHYSFN}
    return replace(first, unknown=unknown, **changes)


def from_paths(devices: Sequence[Device], paths: Mapping[Bdf, tuple[str, ...]]) -> list[Device]:
    """Give bridges their buses, and VMD segments their owner, from sysfs paths.

    Args:
        devices: all functions of a dump.
        paths: of each function the addresses from the root bus down, itself last; () if unknown.

    """
    direct: dict[Bdf, set[int]] = {}
    below: dict[Bdf, set[int]] = {}
    owner: dict[Bdf, Bdf] = {}
    for bdf, texts in paths.items():
        steps = [Bdf.parse(text) for text in texts]
        for number, (port, child) in enumerate(pairwise(steps)):
            if port.domain == child.domain:
                direct.setdefault(port, set()).add(child.bus)
                same = {s.bus for s in steps[number + 1 :] if s.domain == port.domain}
                below.setdefault(port, set()).update(same)
            else:
                owner[bdf] = port
    return [_from_path(device, direct, below, owner) for device in devices]


def _from_path(
    device: Device,
    direct: Mapping[Bdf, set[int]],
    below: Mapping[Bdf, set[int]],
    owner: Mapping[Bdf, Bdf],
) -> Device:
    changes: dict[str, Any] = {}
    bdf = device.bdf
    if device.secondary is None and bdf in direct:
        changes = {"secondary": min(direct[bdf]), "header_type": device.header_type or 1}
    if bdf in below and (changes or device.secondary is not None):
        reach = max(below[bdf])
        changes["subordinate"] = max(device.subordinate or 0, reach)
    if bdf in owner:
        changes["real_dma"] = owner[bdf]
    return replace(device, **changes) if changes else device


def place(
    devices: Sequence[Device], owners: Iterable[Bdf], roots: Iterable[tuple[int, int]] = ()
) -> tuple[list[Device], list[str]]:
    """Mark what has no port above although it needs one, and give VMD segments their owner.

    Args:
        devices: all functions of a dump.
        owners: the VMD endpoints among them.
        roots: (domain, bus) known to be root buses.

    Returns:
        The devices, and what to tell the user.

    """
    owned, said = _own(mark_virtual(devices), list(owners))
    lost = _lost(owned, set(roots))
    placed = []
    for device in owned:
        open_ = {Fact.PORT_ABOVE} if device.bdf in lost else set()
        open_ |= {Fact.ALIASES} if quirks.hides_aliases(device) else set()
        placed.append(replace(device, unknown=device.unknown | open_) if open_ else device)
    return placed, said


def _own(devices: Sequence[Device], owners: list[Bdf]) -> tuple[list[Device], list[str]]:
    segments = {d.bdf.domain for d in devices if d.bdf.domain >= quirks.FIRST_VMD_SEGMENT}
    if not segments:
        return list(devices), []
    owner = owners[0] if len(owners) == 1 and len(segments) == 1 else None
    if owner is not None:
        inside = [d for d in devices if d.bdf.domain in segments and d.real_dma is None]
        changed = {d.bdf: replace(d, real_dma=owner) for d in inside if d.bdf != owner}
        return [changed.get(d.bdf, d) for d in devices], []
    open_ = {d.bdf for d in devices if d.bdf.domain in segments and d.real_dma is None}
    if not open_:
        return list(devices), []
    marked = [
        replace(d, unknown=d.unknown | {Fact.PORT_ABOVE}) if d.bdf in open_ else d for d in devices
    ]
    names = ", ".join(f"{segment:04x}" for segment in sorted(segments))
    return marked, [f"which VMD owns segment {names} is not shown"]


def _lost(devices: Sequence[Device], roots: set[tuple[int, int]]) -> set[Bdf]:
    """Return the functions whose port above the dump does not list."""
    named = {(d.bdf.domain, d.secondary) for d in devices if d.secondary is not None}
    virtual = physical_functions(devices)
    buses: dict[tuple[int, int], list[Device]] = {}
    for device in devices:
        if device.bdf not in virtual and device.bdf.segment_bus not in named:
            buses.setdefault(device.bdf.segment_bus, []).append(device)
    lost: set[Bdf] = set()
    for bus, members in buses.items():
        if bus not in roots and not _is_root(bus, members):
            lost.update(member.bdf for member in members)
    return lost


def _is_root(bus: tuple[int, int], members: list[Device]) -> bool:
    """Whether a bus that no bridge leads to is a root bus, by what is on it."""
    domain, number = bus
    if number == 0 or (domain >= quirks.FIRST_VMD_SEGMENT and number in _VMD_ROOT_BUSES):
        return True
    known = {member.kind for member in members if Fact.KIND not in member.unknown}
    if known & _ALWAYS_ON_ROOT or any(m.class_code == HOST_BRIDGE_CLASS for m in members):
        return True
    return bool(known) and not known & _NEVER_ON_ROOT


def warnings(devices: Iterable[Device]) -> list[str]:
    """Say what is missing in a dump and what would show it."""
    said = []
    for fact, covers, text in (
        (Fact.KIND, None, "{} hide their capabilities: take the dump as root (lspci -xxxx)"),
        (
            Fact.ACS,
            Fact.KIND,
            "no ACS registers of {} are shown: take the dump as root (lspci -xxxx)",
        ),
        (
            Fact.IDS,
            Fact.PHYSFN,
            "ids of {} are not shown, so quirks are unknown: use lspci -nn or -xxxx",
        ),
        (
            Fact.PHYSFN,
            None,
            "{} are virtual functions, or may be, but of which function is not shown: dump all "
            "functions with SR-IOV registers (lspci -xxxx as root)",
        ),
        (
            Fact.ALIASES,
            None,
            "{} use requester ids that only their own memory tells (Switchtec NTB)",
        ),
        (
            Fact.PORT_ABOVE,
            None,
            "{} must have a port above, but the dump has none: dump all functions",
        ),
    ):
        places = sorted(d.bdf for d in devices if fact in d.unknown and covers not in d.unknown)
        if places:
            said.append(text.format(_some(places)))
    return said


def _some(places: list[Bdf]) -> str:
    shown = ", ".join(map(str, places[:4]))
    return shown + (f" and {len(places) - 4} more" if len(places) > 4 else "")
