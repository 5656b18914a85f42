"""What a DMAR table says about the functions of a machine: their unit, ATS, reserved memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dmaproof.model.pcie.dmar import AtsDevices, DmarTable, Reserved, Scope, Unit
from dmaproof.model.pcie.topology import Bdf, Device, Machine, PortKind
from dmaproof.model.rules import rule


@dataclass(frozen=True)
class Ats:
    """Whether firmware lets a function use ATS.

    Attributes:
        allowed: it may.
        why: in words.

    """

    allowed: bool
    why: str


class Remapping:
    """A machine under the units of a DMAR table."""

    def __init__(self, machine: Machine, table: DmarTable) -> None:
        self.machine = machine
        self.table = table

    @rule(
        "vtd.dmar.path",
        "VT-d 8.3.1; drivers/iommu/intel/dmar.c dmar_match_pci_path",
        "each step of a path names device and function on the bus behind the step before",
    )
    def at(self, segment: int, scope: Scope) -> Bdf | None:
        """Return the function a scope points at, None where the machine has none there."""
        if not scope.kind.is_pci or not scope.path:
            return None
        bus: int | None = scope.bus
        place: Bdf | None = None
        for device, function in scope.path:
            if bus is None:
                return None
            place = Bdf(segment, bus, device, function)
            if place not in self.machine:
                return None
            bus = self.machine.device(place).secondary
        return place

    @cached_property
    def unresolved(self) -> tuple[str, ...]:
        """Scopes that point at no function of the machine, in words."""
        table = self.table
        lists = (table.units, table.reserved, table.ats_ports, table.ats_devices, table.properties)
        lost = (
            f"{entry.segment:04x}:{scope.place}"
            for entries in lists
            for entry in entries
            for scope in entry.scopes
            if scope.kind.is_pci and self.at(entry.segment, scope) is None
        )
        return tuple(dict.fromkeys(lost))

    @cached_property
    def _named(self) -> dict[Bdf, list[int]]:
        """Units (by index) of each function that a scope names."""
        named: dict[Bdf, list[int]] = {}
        for index, unit in enumerate(self.table.units):
            for place in self._places(unit):
                named.setdefault(place, []).append(index)
        return named

    def _places(self, entry: Unit | Reserved | AtsDevices) -> Iterator[Bdf]:
        for scope in entry.scopes:
            place = self.at(entry.segment, scope)
            if place is not None:
                yield place

    @rule(
        "vtd.dmar.unit",
        "drivers/iommu/intel/iommu.c device_lookup_iommu",
        "the first unit that names the function or a bridge above it, or has all of its segment",
    )
    def unit_of(self, bdf: Bdf) -> int | None:
        """Return the index of the unit that translates for *bdf*, None if there is none.

        A virtual function is under the unit of its physical function, what is in a VMD segment
        under the unit of the VMD.
        """
        real = self._real(self.machine.device(bdf))
        chain = (real, *self.machine.ancestors(real))
        candidates = [index for place in chain for index in self._named.get(place, ())]
        for index, unit in enumerate(self.table.units):
            if unit.include_all and unit.segment == real.domain:
                candidates.append(index)
                break
        return min(candidates, default=None)

    @rule(
        "vtd.ats.supported",
        "drivers/iommu/intel/iommu.c dmar_ats_supported",
        "SATC decides; integrated devices may; below a root port ATSR must name it or have all",
    )
    def ats(self, bdf: Bdf, *, scalable: bool = True) -> Ats:
        """Return whether firmware lets *bdf* use ATS.

        Args:
            bdf: the function.
            scalable: the unit runs in scalable mode; in legacy mode hardware turns on ATS of
                devices that require it, and the kernel must not.

        """
        device = self.machine.device(bdf)
        place = device.physfn or bdf
        for entry in self.table.ats_devices:
            if place in self._places(entry):
                if entry.required and not scalable:
                    return Ats(False, "SATC requires it, and in legacy mode hardware turns it on")
                return Ats(True, "listed in SATC")
        port: Device | None = None
        for above in self.machine.ancestors(place):
            port = self.machine.device(above)
            if not port.kind.is_pcie or port.kind is PortKind.PCIE_TO_PCI_BRIDGE:
                return Ats(False, f"{above} leads to conventional PCI")
            if port.kind is PortKind.ROOT_PORT:
                break
        if port is None or port.kind is not PortKind.ROOT_PORT:
            return Ats(True, "integrated: no root port above")
        return self._below(port.bdf)

    def _below(self, port: Bdf) -> Ats:
        for entry in self.table.ats_ports:
            if entry.segment != port.domain:
                continue
            if entry.all_ports:
                return Ats(True, f"ATSR of segment {entry.segment:04x} has all root ports")
            if any(self.at(entry.segment, scope) == port for scope in entry.scopes):
                return Ats(True, f"root port {port} is listed in ATSR")
        return Ats(False, f"root port {port} is not listed in ATSR")

    def reserved_for(self, bdf: Bdf) -> tuple[Reserved, ...]:
        """Return the reserved memory regions that name *bdf*."""
        return tuple(region for region in self.table.reserved if bdf in self._places(region))

    def _real(self, device: Device) -> Bdf:
        return device.real_dma or device.physfn or device.bdf
