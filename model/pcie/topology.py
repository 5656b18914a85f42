"""The tree that PCI functions, ports and bridges form.

A `Machine` is a validated set of `Device` records. The tree follows from the bus numbers of the
bridges alone, as firmware and the kernel read it; nothing here knows about IOMMU groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import networkx as nx

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.device import (
    ACS_BITS,
    BDF_PATTERN,
    HOST_BRIDGE_CLASS,
    IOMMU_CLASS,
    Acs,
    Bdf,
    Device,
    Fact,
    PortKind,
    Sriov,
)
from dmaproof.model.pcie.virtual import mark_virtual
from dmaproof.model.rules import rule

__all__ = [
    "ACS_BITS",
    "HOST_BRIDGE_CLASS",
    "IOMMU_CLASS",
    "Acs",
    "Bdf",
    "Device",
    "Fact",
    "Machine",
    "PortKind",
    "Sriov",
]


@dataclass(frozen=True)
class Machine:
    """A validated PCI topology.

    Attributes:
        name: what to call it in verdicts.
        devices: every function, port and bridge, in address order.
        warnings: what a reader could not use, in words.
        recorded: the kernel's own group number of each function, as far as the dump has it.

    Raises:
        InputError: on construction, when the devices form no tree.

    """

    name: str
    devices: tuple[Device, ...]
    warnings: tuple[str, ...] = field(default=(), compare=False)
    recorded: Mapping[Bdf, int] = field(default_factory=dict, compare=False)

    def __init__(
        self,
        name: str,
        devices: Iterable[Device],
        warnings: Iterable[str] = (),
        recorded: Mapping[Bdf, int] | None = None,
    ) -> None:
        ordered = tuple(sorted(devices, key=lambda device: device.bdf))
        _check_unique(name, ordered)
        _check_bridges(name, ordered)
        _check_real_dma(name, ordered)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "devices", _as_the_kernel_sees(ordered))
        object.__setattr__(self, "warnings", tuple(warnings))
        object.__setattr__(self, "recorded", dict(recorded or {}))

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
        ranged: dict[int, list[Device]] = {}
        for device in self.devices:
            if device.secondary is not None:
                ranged.setdefault(device.bdf.domain, []).append(device)
        above: dict[tuple[int, int], Bdf | None] = {}
        for key in buses:
            inside = ranged.get(key[0], [])
            above[key] = self._bridge_to.get(key) or _enclosing_bridge(inside, key)
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
    def iommu_vendors(self) -> frozenset[int]:
        """Vendors of the PCI functions that say they are IOMMUs (AMD has one, Intel none)."""
        return frozenset(d.vendor for d in self.devices if d.class_code == IOMMU_CLASS)

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

    def restrict(self, wanted: Iterable[Bdf], name: str = "") -> Machine:
        """Return the machine with only *wanted*, the ports above them and their PFs.

        Routes between the functions that stay are unchanged. Groups are not: they depend on what
        was left out, so take them from the whole machine.

        Raises:
            InputError: one of *wanted* is not there.

        """
        # AMD's south bridge quirk asks whether the machine has an IOMMU function.
        keep = {device.bdf for device in self.devices if device.class_code == IOMMU_CLASS}
        for bdf in wanted:
            device = self.device(bdf)
            for start in (bdf, device.physfn, device.real_dma):
                if start is not None:
                    keep.update((start, *self.ancestors(start)))
        kept = (device for device in self.devices if device.bdf in keep)
        recorded = {bdf: group for bdf, group in self.recorded.items() if bdf in keep}
        return Machine(name or self.name, kept, self.warnings, recorded)

    def by_label(self, name: str) -> Device:
        """Find a function by label ("A"), address, or letter (A is the first requester).

        Raises:
            InputError: nothing has that name.

        """
        for device in self.devices:
            if device.label and device.label == name:
                return device
        if BDF_PATTERN.fullmatch(name.strip()):
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
    """Innermost bridge of the segment whose range holds a bus that none names (SR-IOV)."""
    best: Device | None = None
    for bridge in bridges:
        first, last = bridge.secondary or 0, bridge.subordinate or 0
        inside = first < key[1] <= last
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


def _check_real_dma(name: str, devices: tuple[Device, ...]) -> None:
    known = {device.bdf for device in devices}
    for device in devices:
        if device.real_dma is not None and device.real_dma not in known:
            raise InputError(
                f"{device.bdf} sends as {device.real_dma}, which is not there",
                name,
                "the device that owns the segment (Intel VMD) was left out",
                "list it too",
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


def _as_the_kernel_sees(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    return _correct_port_types(_mark_multifunction(mark_virtual(devices)))


@rule(
    "pcie.port-type.correction",
    "drivers/pci/probe.c set_pcie_port_type",
    "a switch port that claims an impossible direction under its parent has the other one",
)
def _correct_port_types(devices: tuple[Device, ...]) -> tuple[Device, ...]:
    kinds = {device.bdf: device.kind for device in devices}
    bridge_to = {(d.bdf.domain, d.secondary): d.bdf for d in devices if d.secondary is not None}
    # A secondary bus is above the bridge's own bus, so bus order visits parents first.
    for device in devices:
        parent = bridge_to.get(device.bdf.segment_bus)
        above = kinds[parent] if parent is not None else None
        if device.kind is PortKind.DOWNSTREAM and (
            above is PortKind.PCI_TO_PCIE_BRIDGE or (above is not None and above.has_link_below)
        ):
            kinds[device.bdf] = PortKind.UPSTREAM
        elif device.kind is PortKind.UPSTREAM and above is PortKind.UPSTREAM:
            kinds[device.bdf] = PortKind.DOWNSTREAM
    return tuple(
        device if kinds[device.bdf] is device.kind else replace(device, kind=kinds[device.bdf])
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
