"""Where a request goes: the PCIe routing rules, written once.

A request climbs from its source towards the root. At every node on its way up the address may call
it back: across a multifunction device, across a switch, back down the port it came from, or over
the root complex. Such a place is a `Rung`. ACS at the node decides: in force, the request climbs
on; not in force, it lands there and never meets the IOMMU. So a source reaches a target's BAR
exactly when some rung of their ladder is open, and it is cut off by closing every open rung.

Nothing on the way down stops a request: the port above the target cannot defend it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import Protocol

from dmaproof.model.pcie import acs as kernel
from dmaproof.model.pcie.groups_v3 import ENHANCED
from dmaproof.model.pcie.quirks import EC, RR, SV, UF, AcsQuirk
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Bdf, Machine, PortKind
from dmaproof.model.rules import rule

Literals = frozenset[tuple[str, bool]]
NO_ASSUMPTION: Literals = frozenset()


class RungKind(StrEnum):
    """How an address can call a climbing request back."""

    LOOPBACK = "loops back inside the multifunction device"
    PEER = "crosses the switch to a peer"
    OWN_RANGE = "is sent back down the port it came from"
    OWN_ROOT = "is sent back down the root port it came from"
    CONVENTIONAL = "is claimed on the conventional bus"
    ROOT_COMPLEX = "crosses the root complex"


_BIT: dict[RungKind, str] = {
    RungKind.LOOPBACK: "RR",
    RungKind.PEER: "RR",
    RungKind.OWN_RANGE: "UF",
    RungKind.OWN_ROOT: "UF",
    RungKind.CONVENTIONAL: "",
    RungKind.ROOT_COMPLEX: "RR",
}


DISPUTED: dict[RungKind, tuple[str, bool]] = {
    RungKind.ROOT_COMPLEX: ("rc_p2p", False),
    RungKind.LOOPBACK: ("mf_loopback", True),
    RungKind.OWN_ROOT: ("rp_loopback", True),
}
"""Rungs that not all hardware has: the assumption, and whether an ACS capability settles it."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A place where a request may leave its way up.

    Attributes:
        kind: how.
        at: the port or function whose ACS decides.

    """

    kind: RungKind
    at: Bdf

    @property
    def bit(self) -> str:
        """The ACS bit that closes the rung, "" when none can."""
        return _BIT[self.kind]


@dataclass(frozen=True, slots=True)
class Tlp:
    """What routing may look at in a memory request.

    Attributes:
        source: the function that sends it.
        pasid: PASID of its TLP prefix, None without prefix.

    """

    source: Bdf
    pasid: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a node does with a request on its way up.

    Attributes:
        rung: where it lands or may land; None: it goes up.
        redirected: ACS sent it up although its address called it back.

    """

    rung: Rung | None
    redirected: bool = False


class AcsView(Protocol):
    """ACS settings as routing reads them."""

    def present(self, at: Bdf) -> bool:
        """Whether *at* has an ACS capability, or a quirk that stands in for one."""

    def in_force(self, at: Bdf, bit: str, target: Bdf | None) -> bool:
        """Whether *bit* acts at *at* on requests for *target*."""


_EXTRAS = frozenset({"TB", "DT"})
"""Bits that do something more when they are on, rather than less when they are off."""


class MachineAcs:
    """The ACS settings a machine has.

    Args:
        machine: the topology.
        override: settings that replace those of single functions (None: no capability).

    """

    def __init__(self, machine: Machine, override: dict[Bdf, Acs | None] | None = None) -> None:
        self._machine = machine
        self._override = override or {}
        self._quirks: dict[Bdf, AcsQuirk | None] = {}

    def _quirk(self, at: Bdf) -> AcsQuirk | None:
        if at in self._override:
            return None
        if at not in self._quirks:
            self._quirks[at] = kernel.acs_quirk(self._machine, self._machine.device(at))
        return self._quirks[at]

    def _registers(self, at: Bdf) -> Acs | None:
        return self._override[at] if at in self._override else self._machine.device(at).acs

    def present(self, at: Bdf) -> bool:
        """Whether *at* has an ACS capability, or a quirk that stands in for one."""
        return self._registers(at) is not None or self._quirk(at) is not None

    @rule(
        "pcie.acs.effect",
        "PCIe Base 6.12.1.1 and 6.12.3; drivers/pci/pci.c pci_acs_flags_enabled",
        "a redirection not implemented counts as in force, as it cannot be switched off; TB and DT "
        "must be there and on; with EC on, the egress vector decides for RR",
    )
    def in_force(self, at: Bdf, bit: str, target: Bdf | None) -> bool:
        """Whether *bit* acts at *at* on requests for *target*.

        With EC on, a clear vector bit lets the request go straight across whatever RR says; Linux
        never programs the vector.
        """
        quirk = self._quirk(at)
        if quirk is not None:
            return bit not in _EXTRAS and quirk.satisfied(ACS_BITS[bit])
        registers = self._registers(at)
        if registers is None:
            return False
        if bit in _EXTRAS:
            return bool(registers.capability & registers.control & ACS_BITS[bit])
        if bit == "RR" and registers.capability & registers.control & EC:
            index = self._egress_index(at, target)
            return index is not None and bool(registers.egress >> index & 1)
        return kernel.pci_acs_flags_enabled(registers, ACS_BITS[bit])

    def reads_vector(self, at: Bdf) -> bool:
        """Whether EC is on at *at*, so that its egress vector decides target by target."""
        registers = self._registers(at) if self._quirk(at) is None else None
        return registers is not None and bool(registers.capability & registers.control & EC)

    def drops(self, at: Bdf, target: Bdf) -> bool:
        """Whether the egress vector of *at* has a request for *target* dropped, not redirected.

        PCIe Base 6.12.1.1: so it is where EC is on, the vector bit is set and RR is off.
        """
        registers = self._registers(at)
        if registers is None or not self.reads_vector(at) or not self.in_force(at, "RR", target):
            return False
        return not kernel.pci_acs_flags_enabled(registers, RR)

    def switched_on(self, at: Bdf, mask: int) -> bool:
        """Whether a bit of *mask*, one of those of ACS Enhanced, is implemented at *at* and on."""
        registers = self._registers(at)
        return registers is not None and bool(
            registers.capability & ENHANCED and registers.control & mask
        )

    def _egress_index(self, at: Bdf, target: Bdf | None) -> int | None:
        """Index of the branch towards *target* in the egress vector of *at*, None if unknown."""
        if target is None:
            return None
        branch = branch_on_bus(self._machine, target, at.segment_bus)
        if branch is None:
            return None
        if self._machine.device(at).kind.has_link_below:
            return self._machine.device(branch).port_number
        return branch.function


def branch_on_bus(machine: Machine, target: Bdf, bus: tuple[int, int]) -> Bdf | None:
    """Return the device on *bus* that is *target* or has it below, None without one."""
    at: Bdf | None = target
    while at is not None and at.segment_bus != bus:
        at = machine.parent(at)
    return at


class Router(Protocol):
    """Decides, before ACS has its say, where a node would send a request."""

    def rungs(self, machine: Machine, node: Bdf, tlp: Tlp, target: Bdf | None) -> tuple[Rung, ...]:
        """Return the rungs at *node* for a request to *target*'s BAR, in order; () is up.

        *target* None is an address no BAR claims: system memory.
        """


class AddressRouter:
    """PCIe's router: looks at the address alone (PCIe Base 2.2.10.4, 6.20)."""

    @rule(
        "pcie.routing.address",
        "PCIe Base 2.2.4.1 and 2.2.10.4",
        "memory requests are routed by address; the PASID prefix plays no part",
    )
    def rungs(self, machine: Machine, node: Bdf, tlp: Tlp, target: Bdf | None) -> tuple[Rung, ...]:
        """Return the rungs at *node* for a request to *target*'s BAR, in order; () is up."""
        if target is None or target == tlp.source:
            return ()
        if machine.under(target, node):
            kind = machine.device(node).kind
            if kind is PortKind.ROOT_PORT:
                return (Rung(RungKind.OWN_ROOT, node),)
            return (Rung(RungKind.OWN_RANGE, node),) if kind.has_link_below else ()
        parent = machine.parent(node)
        if parent is None:
            return _on_root_bus(machine, node, target)
        if not machine.under(target, parent):
            return ()
        kind = machine.device(parent).kind
        if kind is PortKind.UPSTREAM:
            return (Rung(RungKind.PEER, node),)
        if kind in {PortKind.PCIE_TO_PCI_BRIDGE, PortKind.CONVENTIONAL_BRIDGE}:
            return (Rung(RungKind.CONVENTIONAL, node),)
        return _inside_package(machine, node, target)


def _inside_package(machine: Machine, node: Bdf, target: Bdf) -> tuple[Rung, ...]:
    siblings = machine.packages[machine.package(node)]
    if any(other != node and machine.under(target, other) for other in siblings):
        return (Rung(RungKind.LOOPBACK, node),)
    return ()


def _on_root_bus(machine: Machine, node: Bdf, target: Bdf) -> tuple[Rung, ...]:
    across = (Rung(RungKind.ROOT_COMPLEX, node),)
    if machine.device(node).kind is PortKind.ROOT_PORT:
        return across
    return _inside_package(machine, node, target) + across


class PrefixRouter(AddressRouter):
    """A router that reads the PASID prefix and sends every such request up. No switch does."""

    def rungs(self, machine: Machine, node: Bdf, tlp: Tlp, target: Bdf | None) -> tuple[Rung, ...]:
        """Return the rungs at *node*; none for a request with a PASID prefix."""
        return () if tlp.pasid is not None else super().rungs(machine, node, tlp, target)


ADDRESS_ROUTER = AddressRouter()


@rule(
    "pcie.acs.redirect",
    "PCIe Base 6.12.3",
    "RR, UF and EC act where a request enters a port, or leaves a function, on its way up",
)
def opens(acs: AcsView, rung: Rung, target: Bdf) -> Literals | None:
    """Return the assumptions under which *rung* lets a request for *target* through.

    None: ACS closes it. The empty set: it is open whatever one assumes.
    """
    if rung.bit and acs.in_force(rung.at, rung.bit, target):
        return None
    if rung.kind not in DISPUTED:
        return NO_ASSUMPTION
    name, settled_by_acs = DISPUTED[rung.kind]
    if settled_by_acs and acs.present(rung.at):
        return NO_ASSUMPTION
    return frozenset({(name, True)})


def way_up(machine: Machine, source: Bdf) -> Iterator[Bdf]:
    """Yield *source* and the ports above it up to the root bus."""
    yield source
    yield from machine.ancestors(source)


def ladder(
    machine: Machine, source: Bdf, target: Bdf, router: Router = ADDRESS_ROUTER
) -> tuple[Rung, ...]:
    """Return every rung a request of *source* for *target*'s BAR meets, bottom first."""
    tlp = Tlp(source)
    return tuple(
        rung
        for node in way_up(machine, source)
        for rung in router.rungs(machine, node, tlp, target)
    )


def path_of(machine: Machine, source: Bdf, rung: Rung, target: Bdf) -> tuple[Bdf, ...]:
    """Return the hops of a request that leaves its way up at *rung* and ends at *target*."""
    up = []
    for node in way_up(machine, source):
        up.append(node)
        if node == rung.at:
            break
    turns = rung.kind in {RungKind.OWN_RANGE, RungKind.OWN_ROOT}
    stop = rung.at if turns else machine.parent(rung.at)
    down = [target]
    for port in machine.ancestors(target):
        if port == stop:
            break
        down.append(port)
    return (*up, *reversed(down))


def direct(
    machine: Machine,
    port: Bdf,
    tlp: Tlp,
    address_target: Bdf | None,
    router: Router = ADDRESS_ROUTER,
) -> Decision:
    """Return where *port* would send *tlp*, which comes from below, before any redirect.

    Args:
        machine: the topology.
        port: the port or function the request goes up through.
        tlp: the request.
        address_target: the function whose BAR holds the address; None: system memory.
        router: the routing rule.

    """
    rungs = router.rungs(machine, port, tlp, address_target)
    return Decision(rungs[0] if rungs else None)


def decide(
    machine: Machine,
    port: Bdf,
    tlp: Tlp,
    address_target: Bdf | None,
    acs: AcsView,
    router: Router = ADDRESS_ROUTER,
) -> Decision:
    """Return what *port* does with *tlp* once ACS has had its say (arguments as `direct`)."""
    rungs = router.rungs(machine, port, tlp, address_target)
    if not rungs or address_target is None:
        return Decision(None)
    for rung in rungs:
        if opens(acs, rung, address_target) is not None:
            return Decision(rung)
    return Decision(None, redirected=True)


@dataclass(frozen=True)
class Difference:
    """A request that a router treats differently for its PASID prefix.

    Attributes:
        port: where.
        target: whose BAR is addressed, None for system memory.
        acs: ACS setting of the port (None: no capability).
        plain: the decision without prefix.
        prefixed: the decision with prefix.

    """

    port: Bdf
    target: Bdf | None
    acs: Acs | None
    plain: Decision
    prefixed: Decision


def all_settings() -> Iterator[Acs | None]:
    """Yield no capability, then each setting of RR, UF, EC and SV on a port that has them."""
    yield None
    bits = (RR, UF, EC, SV)
    for chosen in product((0, 1), repeat=len(bits)):
        control = sum(bit for bit, on in zip(bits, chosen, strict=True) if on)
        yield Acs(0x7F, control)


def first_prefix_difference(
    machine: Machine, router: Router = ADDRESS_ROUTER, pasid: int = 1
) -> Difference | None:
    """Return the first decision that depends on the PASID prefix, None if there is none.

    Tries every node on the way up of some source, every target and every ACS setting of the node,
    the direct decision as well as the one after redirection.
    """
    targets: list[Bdf | None] = [None, *(device.bdf for device in machine.functions)]
    tried: set[tuple[Bdf, Bdf | None]] = set()
    for device in machine.functions:
        plain, prefixed = Tlp(device.bdf), Tlp(device.bdf, pasid)
        for node in way_up(machine, device.bdf):
            for target in targets:
                # Requests of two sources differ at a node only where one addresses itself.
                if target == device.bdf or (node, target) in tried:
                    continue
                tried.add((node, target))
                found = _difference(machine, node, target, (plain, prefixed), router)
                if found is not None:
                    return found
    return None


def _difference(
    machine: Machine, node: Bdf, target: Bdf | None, tlps: tuple[Tlp, Tlp], router: Router
) -> Difference | None:
    before = tuple(direct(machine, node, tlp, target, router) for tlp in tlps)
    if before[0] != before[1]:
        return Difference(node, target, machine.device(node).acs, before[0], before[1])
    for setting in all_settings():
        acs = MachineAcs(machine, {node: setting})
        after = tuple(decide(machine, node, tlp, target, acs, router) for tlp in tlps)
        if after[0] != after[1]:
            return Difference(node, target, setting, after[0], after[1])
    return None
