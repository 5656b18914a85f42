"""The grouping proposed in 2025 ("Fix incorrect iommu_groups with PCIe ACS", v3 of 5 September).

It asks of every bus, from the root down, whether what is below it can get at anything else than the
IOMMU. From the first bus that lets it, everything below shares one group. Nothing is grouped
before the bridge above it is (-EPROBE_DEFER), so that the order in which devices are found does not
matter. Not merged as of Linux 7.0. The rules follow the patches as posted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from dmaproof.model.pcie import quirks
from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, pci_acs_enabled, why_not
from dmaproof.model.pcie.groups import Group, hides_pcie
from dmaproof.model.pcie.quirks import CR, DT, EC, RR, SV, TB, UF
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind
from dmaproof.model.rules import rule

ENHANCED = 0x0080
"""Capability bit: the enhanced control bits below exist."""
IORB, DSP_MT_RB, DSP_MT_RR = 0x0080, 0x0100, 0x0200
USP_MT_RB, USP_MT_RR, UNCLAIMED_RR = 0x0400, 0x0800, 0x1000
ENHANCED_CONTROL = IORB | DSP_MT_RB | DSP_MT_RR | USP_MT_RB | USP_MT_RR | UNCLAIMED_RR

ROOT_PORT_FLAGS = REQ_ACS_FLAGS | DSP_MT_RR
SWITCH_FLAGS = REQ_ACS_FLAGS | DSP_MT_RR | USP_MT_RR


class Isolation(StrEnum):
    """What a bus lets the requests of its devices get at, by the names of the patch."""

    ISOLATED = "PCIE_ISOLATED"
    SWITCH_PORTS = "PCIE_SWITCH_DSP_NON_ISOLATED"
    WITH_BRIDGE = "PCIE_NON_ISOLATED"
    PCI_BUS = "PCI_BUS_NON_ISOLATED"
    PCI_WITH_BRIDGE = "PCI_BRIDGE_NON_ISOLATED"

    @property
    def joins_bridge(self) -> bool:
        """Whether the devices of the bus are put into the group of the bridge above."""
        return self in {Isolation.WITH_BRIDGE, Isolation.PCI_WITH_BRIDGE}


@rule(
    "pcie.v3.control-mask",
    "2025 v3 10/11, drivers/pci/pci.c pci_acs_ctrl_mask",
    "asked bits count if implemented; enhanced ones if there is ACS Enhanced; EC is lost as posted",
)
def control_mask(capability: int, *, keep_egress: bool = False) -> int:
    """Return which asked control bits count on a device with *capability*.

    Args:
        capability: ACS capability register, 16 bits.
        keep_egress: keep EC, as the comment of the patch says. Its code overwrites the mask.

    """
    mask = capability & (SV | TB | RR | CR | UF | DT)
    if capability & ENHANCED:
        mask |= ENHANCED_CONTROL
    return mask | (EC if keep_egress else 0)


@rule(
    "pcie.v3.flags-enabled",
    "2025 v3 10/11, drivers/pci/pci.c pci_acs_flags_enabled",
    "of the asked bits those that the control mask keeps must be set",
)
def flags_enabled(acs: Acs | None, flags: int) -> bool:
    """Whether *flags* are in force by the registers *acs* (None: no capability, so no)."""
    if acs is None:
        return False
    asked = flags & control_mask(acs.capability)
    return acs.control & asked == asked


def enabled(machine: Machine, device: Device, flags: int) -> bool:
    """`acs.pci_acs_enabled` with the flags test of the proposal."""
    return pci_acs_enabled(machine, device, flags, flags_enabled)


@rule(
    "pcie.v3.bus-isolated",
    "2025 v3 02/11 and 11/11, drivers/pci/search.c pci_bus_isolated",
    "root ports by their ACS if they have any; links always; switches by their ports; PCI never",
)
def bridge_isolation(machine: Machine, bridge: Device) -> Isolation | None:
    """Return how far the bus behind *bridge* isolates; None: the ports of the switch decide."""
    hidden = not bridge.kind.is_pcie and hides_pcie(machine, bridge)
    kind = PortKind.PCIE_TO_PCI_BRIDGE if hidden else bridge.kind
    if kind is PortKind.ROOT_PORT:
        lax = bridge.acs is not None and not enabled(machine, bridge, ROOT_PORT_FLAGS)
        return Isolation.WITH_BRIDGE if lax else Isolation.ISOLATED
    if kind is PortKind.DOWNSTREAM:
        return Isolation.ISOLATED
    if kind is PortKind.UPSTREAM:
        return None
    if kind is PortKind.PCIE_TO_PCI_BRIDGE and not bridge.own_memory:
        return Isolation.PCI_BUS
    return Isolation.PCI_WITH_BRIDGE


@rule(
    "pcie.v3.switch-isolated",
    "2025 v3 02/11 and 11/11, drivers/pci/search.c pcie_switch_isolated",
    "any port of a switch that lets requests across spoils the whole switch",
)
def switch_member(machine: Machine, device: Device) -> Isolation | None:
    """Return how *device* spoils the inner bus of the switch it is on; None: it does not."""
    if device.kind is not PortKind.DOWNSTREAM or device.aliases:
        return Isolation.WITH_BRIDGE
    if enabled(machine, device, SWITCH_FLAGS):
        return None
    own = enabled(machine, device, USP_MT_RR)
    return Isolation.SWITCH_PORTS if own else Isolation.WITH_BRIDGE


def bus_isolation(machine: Machine, port: Bdf | None) -> tuple[Isolation, Bdf | None]:
    """Return how far the bus behind *port* isolates (None: a root bus) and which port spoils it."""
    if port is None:
        return Isolation.ISOLATED, None
    found = bridge_isolation(machine, machine.device(port))
    if found is not None:
        return found, None if found is Isolation.ISOLATED else port
    inner = (port.domain, machine.device(port).secondary or 0)
    for bdf in machine.buses.get(inner, ()):
        spoilt = switch_member(machine, machine.device(bdf))
        if spoilt is not None:
            return spoilt, bdf
    return Isolation.ISOLATED, None


@rule(
    "pcie.v3.same-group",
    "2025 v3 06/11, drivers/iommu/iommu.c pci_mfds_are_same_group",
    "functions of a slot share a group if one of them has an ACS capability and does not isolate",
)
def functions_share(machine: Machine, first: Device, second: Device) -> bool:
    """Whether two functions of one bus share a group because their device may loop back."""
    if first.is_virtual or second.is_virtual or first.bdf.slot != second.bdf.slot:
        return False
    if first.multifunction != second.multifunction:
        return True
    return first.multifunction and (may_loop_back(machine, first) or may_loop_back(machine, second))


def may_loop_back(machine: Machine, device: Device) -> bool:
    """Whether *device* says that it can reach other functions inside, and nothing stops it."""
    return device.acs is not None and not enabled(machine, device, REQ_ACS_FLAGS)


@dataclass
class V3Grouping:
    """One run of the proposed `pci_device_group` over all functions of a machine.

    A device whose bridge or real DMA device has no group yet is put back to the end of the queue,
    as -EPROBE_DEFER does.

    Attributes:
        machine: the topology.
        order: order in which devices are tried; default is the kernel's order of discovery.

    """

    machine: Machine
    order: tuple[Bdf, ...] = ()
    _group: dict[Bdf, int] = field(default_factory=dict)
    _why: dict[Bdf, str] = field(default_factory=dict)
    _marked: dict[int, str] = field(default_factory=dict)
    _verdicts: dict[Bdf, tuple[Isolation, Bdf | None]] = field(default_factory=dict)
    _count: int = 0

    def run(self) -> list[Group]:
        """Return the groups after all devices were probed."""
        waiting = list(self.order or self.machine.enumeration)
        while waiting:
            deferred = [bdf for bdf in waiting if not self._place(bdf)]
            # The bridge above and the real DMA device are in the machine, so some get a group.
            assert len(deferred) < len(waiting)
            waiting = deferred
        members: dict[int, list[Bdf]] = {}
        for bdf, group in self._group.items():
            members.setdefault(group, []).append(bdf)
        return [
            Group(group, tuple(sorted(inside)), tuple(self._why[bdf] for bdf in sorted(inside)))
            for group, inside in members.items()
        ]

    @rule(
        "pcie.group.v3",
        "2025 v3 03/11 and 06/11, drivers/iommu/iommu.c pci_device_group",
        "real DMA device; else a marked group above; else by how far the bus isolates",
    )
    def _place(self, bdf: Bdf) -> bool:
        """Give *bdf* a group; False: what it depends on has none yet."""
        device = self.machine.device(bdf)
        if device.real_dma is not None:
            if device.real_dma in self._group:
                self._join(bdf, device.real_dma, f"its requests are sent by {device.real_dma}")
            return device.real_dma in self._group
        if quirks.listed(quirks.TRANSLATION_ROOTS, device):
            self._found(bdf, "it is the root of translation")
            return True
        above = self.machine.parent(device.physfn or bdf)
        if above is None:
            self._by_functions(bdf, above)
            return True
        if above not in self._group:
            return False
        mark = self._marked.get(self._group[above])
        if mark is not None:
            self._join(bdf, above, f"all that is below {above} is in one group, since {mark}")
        else:
            self._by_bus(bdf, above)
        return True

    def _by_bus(self, bdf: Bdf, above: Bdf) -> None:
        if above not in self._verdicts:
            self._verdicts[above] = bus_isolation(self.machine, above)
        isolation, culprit = self._verdicts[above]
        if isolation is Isolation.ISOLATED or culprit is None:
            self._by_functions(bdf, above)
            return
        reason = self._reason(isolation, culprit)
        if isolation.joins_bridge:
            self._marked[self._group[above]] = reason
            self._join(bdf, above, reason)
            return
        for mate in self.machine.buses[bdf.segment_bus]:
            if mate in self._group:
                self._marked.setdefault(self._group[mate], reason)
                self._join(bdf, mate, reason)
                return
        self._marked[self._found(bdf, reason)] = reason

    def _by_functions(self, bdf: Bdf, above: Bdf | None) -> None:
        """Share a group with what `pci_reachable_set` finds, or start one."""
        reached = self._reachable(bdf)
        if not reached:
            where = "it sits on a root bus" if above is None else "the bus above isolates"
            self._found(bdf, where)
            return
        for mate in sorted(reached):
            if mate in self._group:
                self._marked.setdefault(self._group[mate], reached[mate])
                self._join(bdf, mate, reached[mate])
                return
        reason = reached[min(reached)]
        self._marked[self._found(bdf, reason)] = reason

    def _reachable(self, start: Bdf) -> dict[Bdf, str]:
        """Return what `pci_reachable_set` finds beside *start*, and why."""
        reached: dict[Bdf, str] = {}
        stack = [start]
        while stack:
            bdf = stack.pop()
            for mate, why in self._shares(bdf):
                if mate != start and mate not in reached:
                    reached[mate] = why
                    stack.append(mate)
        return reached

    def _shares(self, bdf: Bdf) -> Iterator[tuple[Bdf, str]]:
        machine, device = self.machine, self.machine.device(bdf)
        for alias in sorted({*device.aliases, *self._aliased.get(bdf, ())}):
            if alias in machine:
                yield alias, f"{bdf} and {alias} use one requester id"
        for mate in machine.slots[bdf.slot]:
            other = machine.device(mate)
            if mate != bdf and functions_share(machine, device, other):
                lax = device if may_loop_back(machine, device) else other
                why = why_not(machine, lax, REQ_ACS_FLAGS)
                yield mate, f"{bdf} and {mate} are functions of one device and {why}"

    @cached_property
    def _aliased(self) -> dict[Bdf, tuple[Bdf, ...]]:
        """Devices that use the requester id of each device by a quirk."""
        found: dict[Bdf, list[Bdf]] = {}
        for device in self.machine.devices:
            for alias in device.aliases:
                found.setdefault(alias, []).append(device.bdf)
        return {alias: tuple(users) for alias, users in found.items()}

    def _reason(self, isolation: Isolation, culprit: Bdf) -> str:
        machine, device = self.machine, self.machine.device(culprit)
        match isolation:
            case Isolation.PCI_WITH_BRIDGE | Isolation.PCI_BUS:
                own = " and has memory of its own" if device.own_memory else ""
                return f"{culprit} is a {device.kind}{own}, behind which nothing isolates"
            case _ if device.kind is PortKind.ROOT_PORT:
                return _lacks(machine, device, ROOT_PORT_FLAGS)
            case _ if device.kind is PortKind.DOWNSTREAM and not device.aliases:
                return f"{_lacks(machine, device, SWITCH_FLAGS)}, which spoils its whole switch"
        what = "uses another requester id" if device.aliases else "is no downstream port"
        return f"{culprit} is on the inner bus of a switch and {what}"

    def _join(self, bdf: Bdf, other: Bdf, reason: str) -> None:
        self._group[bdf] = self._group[other]
        self._why[bdf] = f"joins {other}: {reason}"

    def _found(self, bdf: Bdf, reason: str) -> int:
        self._group[bdf] = self._count
        self._why[bdf] = f"starts a group: {reason}"
        self._count += 1
        return self._group[bdf]


def _lacks(machine: Machine, device: Device, flags: int) -> str:
    """Say in words which of *flags* are missing."""
    if device.acs is None or enabled(machine, device, flags & ENHANCED_CONTROL):
        return why_not(machine, device, REQ_ACS_FLAGS)
    return f"{device.bdf} has memory target redirection off"
