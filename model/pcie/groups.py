"""IOMMU groups: which functions the kernel treats as one unit of isolation, and why.

Three algorithms: ``linux`` is `pci_device_group` of Linux up to 7.0, step by step and in probe
order; ``v3`` is the proposal of 2025 (`groups_v3`); ``components`` puts together whatever a leak
channel connects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, pci_acs_enabled, why_not
from dmaproof.model.pcie.topology import Bdf, Device, Machine, PortKind
from dmaproof.model.rules import rule

if TYPE_CHECKING:
    from dmaproof.model.pcie.channels import Fabric

ALGORITHMS = ("linux", "v3", "components")


@dataclass(frozen=True)
class Group:
    """One IOMMU group.

    Attributes:
        id: number within the machine; carries no meaning, is the same in every run.
        members: functions, ports and bridges in address order.
        why: for each member, in the same order, why it is in this group.

    """

    id: int
    members: tuple[Bdf, ...]
    why: tuple[str, ...]


def groups(
    machine: Machine, algorithm: str = "linux", assume: Mapping[str, bool] | None = None
) -> list[Group]:
    """Return the groups of *machine*, in order of creation.

    Args:
        machine: the topology.
        algorithm: ``linux``, ``v3`` or ``components``.
        assume: values of the fabric's assumptions for ``components``; default is the permissive
            set `channels.PERMISSIVE`.

    Raises:
        InputError: unknown algorithm.

    """
    if algorithm == "linux":
        return LinuxGrouping(machine).run()
    if algorithm == "v3":
        from dmaproof.model.pcie.groups_v3 import V3Grouping

        return V3Grouping(machine).run()
    if algorithm == "components":
        from dmaproof.model.pcie.channels import PERMISSIVE, Fabric

        return _component_groups(machine, Fabric(machine), assume or PERMISSIVE)
    raise InputError(
        f"no grouping algorithm {algorithm[:40]!r}",
        "grouping",
        "a typing error",
        f"use one of: {', '.join(ALGORITHMS)}",
    )


def group_of(found: list[Group]) -> dict[Bdf, int]:
    """Return the group id of each member."""
    return {member: group.id for group in found for member in group.members}


@rule(
    "pcie.alias.each",
    "drivers/pci/search.c pci_for_each_dma_alias",
    "the real DMA device's id, quirk ids, then the id of every bridge to conventional PCI above",
)
def dma_aliases(machine: Machine, bdf: Bdf) -> Iterator[tuple[Bdf, Bdf]]:
    """Yield (device, requester id) of each DMA alias of *bdf*, its own first.

    The requester id is written as an address; no function need live there.
    """
    bdf = machine.device(bdf).real_dma or bdf
    yield bdf, bdf
    for alias in sorted(machine.device(bdf).aliases):
        yield bdf, alias
    for port in machine.ancestors(bdf):
        bridge = machine.device(port)
        if quirks.listed(quirks.TRANSLATION_ROOTS, bridge):
            return
        alias_of_bridge = bridge_alias(machine, bridge)
        if alias_of_bridge is not None:
            yield port, alias_of_bridge


@rule(
    "pcie.alias.bridge",
    "PCI Express to PCI/PCI-X Bridge 1.0, 2.3; drivers/pci/search.c pci_for_each_dma_alias",
    "a PCIe-to-PCI bridge sends as secondary bus, devfn 0; other bridges to PCI as themselves",
)
def bridge_alias(machine: Machine, bridge: Device) -> Bdf | None:
    """Return the requester id *bridge* gives to what comes from below, None if it keeps ids."""
    kind = bridge.kind
    if kind in {PortKind.ROOT_PORT, PortKind.UPSTREAM, PortKind.DOWNSTREAM}:
        return None
    # The kernel's struct pci_bus of the bridge is its secondary bus, hence that number.
    behind = Bdf(bridge.bdf.domain, bridge.secondary or 0, 0, 0)
    if kind is PortKind.PCIE_TO_PCI_BRIDGE:
        return None if quirks.listed(quirks.TRANSPARENT_BRIDGES, bridge) else behind
    if kind is PortKind.PCI_TO_PCIE_BRIDGE:
        return bridge.bdf
    if kind.is_pcie:
        return None
    return behind if hides_pcie(machine, bridge) else bridge.bdf


def hides_pcie(machine: Machine, bridge: Device) -> bool:
    """Whether a listed conventional-looking bridge in fact converts from PCIe here."""
    parent = machine.parent(bridge.bdf)
    if parent is None or not quirks.listed(quirks.HIDDEN_PCIE_BRIDGES, bridge):
        return False
    kind = machine.device(parent).kind
    return kind.is_pcie and kind is not PortKind.PCIE_TO_PCI_BRIDGE


@dataclass
class LinuxGrouping:
    """One run of `pci_device_group` over all functions of a machine, in probe order.

    Attributes:
        machine: the topology.
        order: probe order; default is the order in which the kernel finds the devices.

    """

    machine: Machine
    order: tuple[Bdf, ...] = ()
    _group: dict[Bdf, int] = field(default_factory=dict)
    _why: dict[Bdf, str] = field(default_factory=dict)
    _isolated: dict[Bdf, bool] = field(default_factory=dict)
    _gap: dict[Bdf, Bdf | None] = field(default_factory=dict)
    _count: int = 0

    def run(self) -> list[Group]:
        """Return the groups after all devices were probed."""
        for bdf in self.order or self.machine.enumeration:
            self._place(bdf)
        members: dict[int, list[Bdf]] = {}
        for bdf, group in self._group.items():
            members.setdefault(group, []).append(bdf)
        return [
            Group(group, tuple(sorted(inside)), tuple(self._why[bdf] for bdf in sorted(inside)))
            for group, inside in members.items()
        ]

    @rule(
        "pcie.group.linux",
        "drivers/iommu/iommu.c pci_device_group",
        "alias with a group; else climb while ACS has gaps; else aliases; else leaky functions",
    )
    def _place(self, bdf: Bdf) -> None:
        found = self._by_topology_alias(bdf)
        if isinstance(found, Bdf):
            return
        top, reason = found
        climbed = self._climb(bdf, top, reason)
        if isinstance(climbed, Bdf):
            return
        top, reason = climbed
        seen: set[Bdf] = set()
        friend = self._alias_group(top, seen) or self._function_group(top, seen)
        if friend is None:
            self._found(bdf, reason)
        else:
            other, via = friend
            self._join(bdf, other, f"{reason}{'; ' if reason else ''}{via}")

    def _by_topology_alias(self, bdf: Bdf) -> Bdf | tuple[Bdf, str]:
        """Step 1: return *bdf* if it joined a group, else the topmost alias device and why."""
        top, reason = bdf, ""
        for device, alias in dma_aliases(self.machine, bdf):
            if device != bdf:
                what = "bridge " if self.machine.device(device).is_bridge else ""
                reason = f"its requests carry the requester id {alias} of {what}{device}"
                if device in self._group:
                    return self._join(bdf, device, reason)
            top = device
        return top, reason

    def _climb(self, bdf: Bdf, top: Bdf, reason: str) -> Bdf | tuple[Bdf, str]:
        """Step 2: go up while the path from the port above to the root is not isolated."""
        for port in tuple(self.machine.ancestors(top)):
            gap = self._first_gap(port)
            if gap is None:
                break
            top = port
            why = why_not(self.machine, self.machine.device(gap), REQ_ACS_FLAGS)
            reason = f"{why}, so what is below {port} is not isolated from it"
            if port in self._group:
                return self._join(bdf, port, reason)
        return top, reason

    @rule(
        "pcie.group.alias",
        "drivers/iommu/iommu.c get_pci_alias_group",
        "devices of one bus that alias each other share a group, transitively",
    )
    def _alias_group(self, start: Bdf, seen: set[Bdf]) -> tuple[Bdf, str] | None:
        """Step 3: return a function that aliases *start*, directly or not, and has a group.

        Depth first and in address order, as the kernel's two functions call each other.
        """
        trail: list[Iterator[tuple[Bdf, Bdf | None, bool]]] = [iter([(start, None, False)])]
        while trail:
            step = next(trail[-1], None)
            if step is None:
                trail.pop()
            elif step[0] not in seen:
                bdf = step[0]
                seen.add(bdf)
                if bdf in self._group:
                    return bdf, self._shared(*step)
                trail.append(self._around(bdf))
        return None

    def _around(self, bdf: Bdf) -> Iterator[tuple[Bdf, Bdf | None, bool]]:
        """Yield what shares a requester id with *bdf*, each followed by its leaky siblings."""
        for other in self._sharing.get(bdf, ()):
            yield other, bdf, False
            for leaky in self._leaky_siblings(other):
                yield leaky, other, True

    def _shared(self, bdf: Bdf, via: Bdf | None, leaky: bool) -> str:
        if via is None:
            return f"{bdf} is already grouped"
        return self._leaky(via, bdf) if leaky else f"{via} and {bdf} use one requester id"

    def _function_group(self, bdf: Bdf, seen: set[Bdf]) -> tuple[Bdf, str] | None:
        """Step 4: return a grouped function of the slot that is as little isolated as *bdf*."""
        for other in self._leaky_siblings(bdf):
            found = self._alias_group(other, seen)
            if found is not None:
                why = self._leaky(bdf, other)
                return found[0], why if found[0] == other else f"{why}; {found[1]}"
        return None

    @rule(
        "pcie.group.function",
        "drivers/iommu/iommu.c get_pci_function_alias_group",
        "functions of one multifunction device that do not isolate share a group",
    )
    def _leaky_siblings(self, bdf: Bdf) -> Iterator[Bdf]:
        if not self.machine.device(bdf).multifunction or self._enabled(bdf):
            return
        for other in self.machine.slots[bdf.slot]:
            if other != bdf and not self._enabled(other):
                yield other

    def _leaky(self, bdf: Bdf, other: Bdf) -> str:
        why = why_not(self.machine, self.machine.device(bdf), REQ_ACS_FLAGS)
        return f"{bdf} and {other} are functions of one device and {why}"

    @cached_property
    def _sharing(self) -> dict[Bdf, list[Bdf]]:
        """Of each function those that alias it or that it aliases, in address order."""
        found: dict[Bdf, set[Bdf]] = {}
        for device in self.machine.devices:
            for alias in device.aliases:
                if alias in self.machine:
                    found.setdefault(device.bdf, set()).add(alias)
                    found.setdefault(alias, set()).add(device.bdf)
        return {bdf: sorted(others - {bdf}) for bdf, others in found.items()}

    def _enabled(self, bdf: Bdf) -> bool:
        known = self._isolated.get(bdf)
        if known is None:
            known = pci_acs_enabled(self.machine, self.machine.device(bdf), REQ_ACS_FLAGS)
            self._isolated[bdf] = known
        return known

    def _first_gap(self, port: Bdf) -> Bdf | None:
        """`acs.first_gap` with memory, so that a deep tree costs one test per port."""
        chain = []
        at: Bdf | None = port
        while at is not None and at not in self._gap and self._enabled(at):
            chain.append(at)
            at = self.machine.parent(at)
        gap = None if at is None else self._gap.get(at, at)
        if at is not None:
            self._gap.setdefault(at, gap)
        for bdf in chain:
            self._gap[bdf] = gap
        return gap

    def _join(self, bdf: Bdf, other: Bdf, reason: str) -> Bdf:
        self._group[bdf] = self._group[other]
        self._why[bdf] = f"joins {other}: {reason}"
        return bdf

    def _found(self, bdf: Bdf, reason: str) -> None:
        self._group[bdf] = self._count
        self._count += 1
        text = "starts a group: every port above it isolates"
        if self.machine.parent(bdf) is None:
            text = "starts a group: it sits on a root bus"
        self._why[bdf] = f"{text}; {reason}" if reason else text


def _component_groups(machine: Machine, fabric: Fabric, assume: Mapping[str, bool]) -> list[Group]:
    """Put together what leak channels connect; ports stay alone unless they lend their id."""
    found = []
    for number, (members, why) in enumerate(fabric.explained_components(assume)):
        found.append(Group(number, members, why))
    return found
