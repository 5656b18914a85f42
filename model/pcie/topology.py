"""PCI functions, ports and the tree they form.

A `Machine` is a validated set of `Device` records. The tree follows from the bus numbers of the
bridges alone, as firmware and the kernel read it; nothing here knows about IOMMU groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

import networkx as nx

from dmaproof.model.errors import InputError
from dmaproof.model.rules import rule

_BDF = re.compile(r"(?:([0-9a-fA-F]{1,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")

HOST_BRIDGE_CLASS = 0x0600
AMD_IOMMU_CLASS = 0x0806


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
        match = _BDF.fullmatch(text.strip())
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

    """

    enabled: bool
    total: int
    number: int
    offset: int
    stride: int

    def rids(self, physical: int) -> Iterator[int]:
        """Yield the requester ids of the enabled virtual functions of *physical*."""
        if not self.enabled:
            return
        for index in range(self.number):
            rid = physical + self.offset + index * self.stride
            if rid > 0xFFFF:
                return
            yield rid


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
        hidden: capabilities exist that could not be read, so their absence means nothing.
        aliases: further requester ids the device uses for DMA by a quirk (same bus).
        physfn: the physical function a virtual function belongs to; `Machine` sets it.

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
    hidden: bool = False
    aliases: frozenset[Bdf] = frozenset()
    physfn: Bdf | None = None

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
        """Whether it starts DMA of its own: no port, no bridge, no host bridge."""
        return not self.is_bridge and self.class_code != HOST_BRIDGE_CLASS

    def __str__(self) -> str:
        return f"{self.label} ({self.bdf})" if self.label else str(self.bdf)


@dataclass(frozen=True)
class Machine:
    """A validated PCI topology.

    Attributes:
        name: what to call it in verdicts.
        devices: every function, port and bridge, in address order.

    Raises:
        InputError: on construction, when the devices form no tree.

    """

    name: str
    devices: tuple[Device, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def __init__(self, name: str, devices: Iterable[Device], warnings: Iterable[str] = ()) -> None:
        ordered = tuple(sorted(devices, key=lambda device: device.bdf))
        _check_unique(name, ordered)
        _check_bridges(name, ordered)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "devices", _mark_multifunction(_mark_virtual(ordered)))
        object.__setattr__(self, "warnings", tuple(warnings))

    @cached_property
    def _by_bdf(self) -> dict[Bdf, Device]:
        return {device.bdf: device for device in self.devices}

    @cached_property
    def _bridge_to(self) -> dict[tuple[int, int], Bdf]:
        return {
            (device.bdf.domain, device.secondary): device.bdf
            for device in self.devices
            if device.secondary is not None
        }

    @cached_property
    def _above(self) -> dict[tuple[int, int], Bdf | None]:
        buses = {device.bdf.segment_bus for device in self.devices}
        ranged = [device for device in self.devices if device.secondary is not None]
        above: dict[tuple[int, int], Bdf | None] = {}
        for key in buses:
            above[key] = self._bridge_to.get(key) or _enclosing_bridge(ranged, key)
        return above

    @cached_property
    def _children(self) -> dict[Bdf, tuple[Bdf, ...]]:
        children: dict[Bdf, list[Bdf]] = {device.bdf: [] for device in self.devices}
        for device in self.devices:
            parent = self.parent(device.bdf)
            if parent is not None:
                children[parent].append(device.bdf)
        return {bdf: tuple(below) for bdf, below in children.items()}

    @cached_property
    def _tour(self) -> tuple[dict[Bdf, tuple[int, int]], tuple[Bdf, ...]]:
        """Depth-first numbering: `under` is then one comparison, a subtree one slice."""
        span: dict[Bdf, tuple[int, int]] = {}
        order: list[Bdf] = []
        stack = [(device.bdf, False) for device in reversed(self.devices) if self.on_root(device)]
        while stack:
            bdf, done = stack.pop()
            if done:
                span[bdf] = (span[bdf][0], len(order))
                continue
            span[bdf] = (len(order), len(order))
            order.append(bdf)
            stack.append((bdf, True))
            stack.extend((child, False) for child in reversed(self._children[bdf]))
        return span, tuple(order)

    @property
    def above(self) -> dict[tuple[int, int], Bdf | None]:
        """Bridge above each populated (domain, bus); None for a root bus."""
        return self._above

    def has_own_bridge(self, segment_bus: tuple[int, int]) -> bool:
        """Whether a bridge names this very bus (False: root bus or SR-IOV virtual bus)."""
        return segment_bus in self._bridge_to

    def on_root(self, device: Device) -> bool:
        """Whether *device* sits on a root bus."""
        return self._above[device.bdf.segment_bus] is None

    def device(self, bdf: Bdf) -> Device:
        """Return the function at *bdf*.

        Raises:
            InputError: there is none.

        """
        found = self._by_bdf.get(bdf)
        if found is None:
            raise self._unknown(str(bdf))
        return found

    def __contains__(self, bdf: object) -> bool:
        return bdf in self._by_bdf

    def parent(self, bdf: Bdf) -> Bdf | None:
        """Return the bridge or port above *bdf*, None on a root bus."""
        return self._above[bdf.segment_bus]

    def children(self, bdf: Bdf) -> tuple[Bdf, ...]:
        """Return what sits directly on the buses behind *bdf*, in address order."""
        return self._children[bdf]

    def ancestors(self, bdf: Bdf) -> Iterator[Bdf]:
        """Yield the ports above *bdf*, nearest first."""
        port = self.parent(bdf)
        while port is not None:
            yield port
            port = self.parent(port)

    def under(self, bdf: Bdf, port: Bdf) -> bool:
        """Whether *bdf* is *port* or lies below it."""
        span = self._tour[0]
        first, last = span[port]
        return first <= span[bdf][0] < last

    def subtree(self, port: Bdf) -> tuple[Bdf, ...]:
        """Return *port* and everything below it, depth first."""
        span, order = self._tour
        first, last = span[port]
        return order[first:last]

    @cached_property
    def slots(self) -> dict[tuple[int, int, int], tuple[Bdf, ...]]:
        """Functions of each (domain, bus, device), in address order."""
        slots: dict[tuple[int, int, int], list[Bdf]] = {}
        for device in self.devices:
            slots.setdefault(device.bdf.slot, []).append(device.bdf)
        return {slot: tuple(members) for slot, members in slots.items()}

    @cached_property
    def buses(self) -> dict[tuple[int, int], tuple[Bdf, ...]]:
        """Functions on each populated (domain, bus), in address order."""
        buses: dict[tuple[int, int], list[Bdf]] = {}
        for device in self.devices:
            buses.setdefault(device.bdf.segment_bus, []).append(device.bdf)
        return {bus: tuple(members) for bus, members in buses.items()}

    def package(self, bdf: Bdf) -> tuple[int, int, int]:
        """Return the piece of silicon *bdf* is part of: a slot; a VF counts to its PF's."""
        physfn = self.device(bdf).physfn
        return (physfn or bdf).slot

    @cached_property
    def packages(self) -> dict[tuple[int, int, int], tuple[Bdf, ...]]:
        """Functions of each piece of silicon, virtual functions included."""
        packages: dict[tuple[int, int, int], list[Bdf]] = {}
        for device in self.devices:
            packages.setdefault(self.package(device.bdf), []).append(device.bdf)
        return {key: tuple(members) for key, members in packages.items()}

    @cached_property
    def tree(self) -> nx.DiGraph:
        """The forest of bridges and functions: an edge leads from a port to what is below it."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self._by_bdf)
        graph.add_edges_from((up, down) for up, below in self._children.items() for down in below)
        return graph

    @cached_property
    def functions(self) -> tuple[Device, ...]:
        """The requesters, in address order. Ports and bridges are never requesters."""
        return tuple(device for device in self.devices if device.is_requester)

    @cached_property
    def ports(self) -> tuple[Device, ...]:
        """Ports and bridges, in address order."""
        return tuple(device for device in self.devices if device.is_bridge)

    @cached_property
    def unrooted(self) -> tuple[Device, ...]:
        """PCIe devices that need a port above them and have none: a bridge is missing."""
        below = {
            PortKind.ENDPOINT,
            PortKind.LEGACY_ENDPOINT,
            PortKind.UPSTREAM,
            PortKind.DOWNSTREAM,
            PortKind.PCIE_TO_PCI_BRIDGE,
        }
        return tuple(d for d in self.devices if d.kind in below and self.on_root(d))

    @cached_property
    def enumeration(self) -> tuple[Bdf, ...]:
        """Devices in the order in which the kernel finds them: a bus, then behind its bridges."""
        order: list[Bdf] = []
        stack = [bus for bus in sorted(self.buses, reverse=True) if self._above[bus] is None]
        below: dict[Bdf, list[tuple[int, int]]] = {}
        for bus, bridge in self._above.items():
            if bridge is not None:
                below.setdefault(bridge, []).append(bus)
        while stack:
            members = self.buses[stack.pop()]
            order.extend(members)
            for member in reversed(members):
                stack.extend(sorted(below.get(member, ()), reverse=True))
        return tuple(order)

    def by_label(self, name: str) -> Device:
        """Find a function by label ("A"), address, or letter (A is the first requester).

        Raises:
            InputError: nothing has that name.

        """
        for device in self.devices:
            if device.label and device.label == name:
                return device
        if _BDF.fullmatch(name.strip()):
            return self.device(Bdf.parse(name))
        index = ord(name) - ord("A") if len(name) == 1 else -1
        if 0 <= index < len(self.functions):
            return self.functions[index]
        raise self._unknown(name)

    def _unknown(self, name: str) -> InputError:
        known = ", ".join(str(device) for device in self.functions[:8])
        return InputError(
            f"no function {name[:60]!r} in machine {self.name}",
            self.name,
            "a typing error, or the function is missing from the dump",
            f"use one of: {known}{' ...' if len(self.functions) > 8 else ''}",
        )


def _enclosing_bridge(bridges: list[Device], key: tuple[int, int]) -> Bdf | None:
    """Innermost bridge whose range holds a bus that no bridge names (SR-IOV virtual buses)."""
    best: Device | None = None
    for bridge in bridges:
        first, last = bridge.secondary or 0, bridge.subordinate or 0
        inside = bridge.bdf.domain == key[0] and first < key[1] <= last
        if inside and (best is None or first > (best.secondary or 0)):
            best = bridge
    return best.bdf if best else None


def _check_unique(name: str, devices: tuple[Device, ...]) -> None:
    if not devices:
        raise InputError(
            "the machine has no functions", name, "an empty list", "give at least one function"
        )
    for first, second in pairwise(devices):
        if first.bdf == second.bdf:
            raise InputError(
                f"function {first.bdf} is there twice",
                name,
                "two dumps, or two boots of one machine, were joined",
                "keep one record per function",
            )
    labels = [device.label for device in devices if device.label]
    for label in labels if len(set(labels)) < len(labels) else ():
        if labels.count(label) > 1:
            raise InputError(
                f"two functions are called {label}",
                name,
                "a label was copied with its record",
                "give every function its own label, or none",
            )


def _check_bridges(name: str, devices: tuple[Device, ...]) -> None:
    claimed: dict[tuple[int, int], Bdf] = {}
    for device in devices:
        if device.secondary is None:
            continue
        where = f"{name}: bridge {device.bdf}"
        first, last = device.secondary, device.subordinate
        if first <= device.bdf.bus:
            raise InputError(
                f"secondary bus {first:02x} is not above the bridge's own bus {device.bdf.bus:02x}",
                where,
                "bus numbers form a cycle: the dump was edited or its bytes are damaged",
                "take the dump again; a bridge's secondary bus is above its own",
            )
        if last is None or not first <= last < 256:
            raise InputError(
                f"subordinate bus {last} is below secondary bus {first}",
                where,
                "the bridge's bus registers are damaged",
                "take the dump again",
            )
        other = claimed.setdefault((device.bdf.domain, first), device.bdf)
        if other != device.bdf:
            raise InputError(
                f"bus {first:02x} is claimed by {other} and by {device.bdf}",
                where,
                "two dumps were joined, or one bridge record is stale",
                "take the dump again; every bus has one bridge above it",
            )


def _mark_virtual(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """Name the physical function of each virtual function that an SR-IOV capability announces."""
    owner: dict[Bdf, Bdf] = {}
    for device in devices:
        if device.sriov is not None:
            for rid in device.sriov.rids(device.bdf.rid):
                owner[Bdf.from_rid(rid, device.bdf.domain)] = device.bdf
    return tuple(
        replace(device, physfn=owner[device.bdf])
        if device.bdf in owner and not device.is_bridge
        else device
        for device in devices
    )


@rule(
    "pcie.multifunction",
    "drivers/pci/probe.c pci_scan_slot; drivers/pci/iov.c pci_iov_add_virtfn",
    "a slot with several functions marks all of them multifunction; virtual functions never are",
)
def _mark_multifunction(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    count: dict[tuple[int, int, int], int] = {}
    for device in devices:
        if not device.is_virtual:
            count[device.bdf.slot] = count.get(device.bdf.slot, 0) + 1
    marked = []
    for device in devices:
        several = count.get(device.bdf.slot, 0) > 1 or device.bdf.function > 0
        value = not device.is_virtual and (device.multifunction or several)
        same = value == device.multifunction
        marked.append(device if same else replace(device, multifunction=value))
    return tuple(marked)
