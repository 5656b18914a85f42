"""Large machines made up for measurement: root ports, switches, SR-IOV, multifunction devices.

The same arguments give the same machine in every run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from dmaproof.model.errors import InputError
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind, Sriov

PER_DOMAIN = 10_000
"""Requesters that one PCI domain of a generated machine has at most."""

ROOT_PORTS = 64
_PORTS_OF_A_SWITCH = 4
_CAPABLE = 0x5F
_SETTINGS = (*[Acs(_CAPABLE, 0x1D)] * 8, Acs(_CAPABLE, 0x14), Acs(_CAPABLE, 0), None)
"""Settings of a port: mostly SV RR CR UF on, some with RR and UF alone, all off, or without ACS."""


def generated(functions: int, seed: int = 1) -> Machine:
    """Return a machine with exactly *functions* requesters, ports not counted.

    Every domain has up to 64 root ports on its root bus; every second one leads to a switch with
    four downstream ports. On the links sit SR-IOV devices, multifunction devices and now and then
    a bridge to conventional PCI.

    Args:
        functions: requesters, at least 1; 10,000 a domain.
        seed: chooses ACS settings and kinds of devices.

    Raises:
        InputError: *functions* is below 1.

    """
    if functions < 1:
        raise InputError(
            f"a machine of {functions} functions", "functions", "", "ask for at least one"
        )
    source = random.Random(seed)
    devices: list[Device] = []
    for domain, first in enumerate(range(0, functions, PER_DOMAIN)):
        builder = _Domain(domain, min(PER_DOMAIN, functions - first), source)
        devices.extend(builder.build())
    return Machine(f"generated-{functions}-{seed}", devices)


@dataclass
class _Domain:
    """One PCI domain while it is being built, buses numbered depth first."""

    domain: int
    wanted: int
    source: random.Random
    devices: list[Device] = field(default_factory=list)
    next_bus: int = 1
    links: int = 0
    left: int = 0

    def build(self) -> list[Device]:
        """Return the functions and ports of the domain."""
        ports = min(ROOT_PORTS, max(1, self.wanted // 24))
        self.left = self.wanted
        self.links = sum(1 if port % 2 == 0 else _PORTS_OF_A_SWITCH for port in range(ports))
        for port in range(ports):
            place = Bdf(self.domain, 0, 1 + port // 8, port % 8)
            self._bridge(place, PortKind.ROOT_PORT, switch=port % 2 == 1)
        return self.devices

    def _bridge(self, place: Bdf, kind: PortKind, *, switch: bool = False) -> None:
        first = self.next_bus
        self.next_bus += 1
        position = len(self.devices)
        if switch:
            self._bridge(Bdf(self.domain, first, 0, 0), PortKind.UPSTREAM)
        elif kind is PortKind.UPSTREAM:
            for number in range(_PORTS_OF_A_SWITCH):
                self._bridge(Bdf(self.domain, first, number, 0), PortKind.DOWNSTREAM)
        else:
            self._link(first)
        self.devices.insert(position, self._port(place, kind, (first, self.next_bus - 1)))

    def _port(self, place: Bdf, kind: PortKind, buses: tuple[int, int]) -> Device:
        linked = kind.has_link_below
        return Device(
            bdf=place,
            kind=kind,
            vendor=0x1B36,
            device=0x000C,
            class_code=0x0604,
            header_type=1,
            acs=self.source.choice(_SETTINGS) if linked else None,
            secondary=buses[0],
            subordinate=buses[1],
            port_number=place.devfn,
        )

    def _link(self, bus: int) -> None:
        share = -(-self.left // self.links)
        self.links -= 1
        self.left -= share
        kind = self.source.random()
        if share <= 8 and kind < 0.5:
            self.devices.extend(self._several(bus, share))
        elif kind < 0.05 and share <= 32:
            self._conventional(bus, share)
        else:
            self.devices.extend(self._virtualised(bus, share))

    def _function(self, place: Bdf, acs: Acs | None = None) -> Device:
        return Device(
            bdf=place, vendor=0x1B36, device=0x0010, class_code=0x0200, acs=acs, pasid=20, ats=True
        )

    def _several(self, bus: int, count: int) -> Iterator[Device]:
        acs = self.source.choice(_SETTINGS)
        for number in range(count):
            yield self._function(Bdf(self.domain, bus, 0, number), acs)

    def _virtualised(self, bus: int, count: int) -> Iterator[Device]:
        """Yield a physical function and virtual functions behind it, as ARI numbers them."""
        if not count:
            return
        first = Bdf(self.domain, bus, 0, 0)
        virtual = min(count - 1, 255)
        changed = dict(vars(self._function(first)), sriov=Sriov(True, virtual, virtual, 1, 1))
        yield Device(**changed)
        for number in range(1, virtual + 1):
            place = Bdf.from_rid(first.rid + number, self.domain)
            yield Device(bdf=place, vendor=0x1B36, device=0x0011, class_code=0x0200)

    def _conventional(self, bus: int, count: int) -> None:
        behind = self.next_bus
        self.next_bus += 1
        place = Bdf(self.domain, bus, 0, 0)
        self.devices.append(self._port(place, PortKind.PCIE_TO_PCI_BRIDGE, (behind, behind)))
        for number in range(count):
            self.devices.append(
                Device(
                    bdf=Bdf(self.domain, behind, number, 0),
                    kind=PortKind.CONVENTIONAL,
                    vendor=0x1B36,
                    device=0x0005,
                    class_code=0x0200,
                )
            )
