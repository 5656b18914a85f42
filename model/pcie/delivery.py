"""Where a TLP can end: the whole of ACS, for every kind of TLP and every class of address.

`routing` says at which places of its way up an address calls a request back. Here the request goes
up, and at each place the ACS rules decide: the port it enters may drop it (SV, TB, I/O blocking),
the place may let it go where the address says, or send it on (RR, CR, UF, EC, DT and the enhanced
bits). What nothing stops meets the root complex, which hands requests to the IOMMU.

The leak edges of `channels` are the ways of untranslated requests to BARs. They take a request that
an egress vector drops (EC on, RR off) for one that it redirects: Linux programs no vector, and what
isolates only by dropping is not relied on.

Everything is a condition over ACS settings and assumptions. With the settings of a machine the
conditions are bools, with `SymbolicAcs` they are z3 terms over the bits in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.groups import dma_aliases
from dmaproof.model.pcie.groups_v3 import (
    DSP_MT_RB,
    DSP_MT_RR,
    IORB,
    UNCLAIMED_RR,
    USP_MT_RB,
    USP_MT_RR,
)
from dmaproof.model.pcie.routing import (
    ADDRESS_ROUTER,
    DISPUTED,
    Router,
    Rung,
    Tlp,
    branch_on_bus,
    way_up,
)
from dmaproof.model.pcie.topology import Bdf, Machine, PortKind
from dmaproof.model.rules import rule


class TlpKind(StrEnum):
    """What is sent."""

    UNTRANSLATED = "untranslated request"
    WITH_PASID = "untranslated request with PASID"
    TRANSLATED = "translated request"
    TRANSLATION = "translation request"
    IO = "I/O request"
    COMPLETION = "completion"


_EXPRESS_ONLY = frozenset({TlpKind.WITH_PASID, TlpKind.TRANSLATED, TlpKind.TRANSLATION})
"""TLPs that conventional PCI has no signals for."""


class Aim(StrEnum):
    """What an address belongs to (for a completion: the requester id)."""

    MEMORY = "system memory"
    BAR = "a BAR"
    RANGE = "a port's own downstream range, where nobody claims it"
    INTERRUPT = "the interrupt range"
    UNCLAIMED = "nothing"


@dataclass(frozen=True, slots=True)
class Address:
    """The class of an address.

    Attributes:
        aim: what it belongs to.
        at: the function or port whose BAR (or requester id) it is, or the port with the range.

    """

    aim: Aim
    at: Bdf | None = None


MEMORY = Address(Aim.MEMORY)


class EndKind(StrEnum):
    """Where a TLP ends."""

    IOMMU = "reaches the IOMMU"
    INTERRUPT = "reaches the IOMMU as an interrupt"
    ROOT_COMPLEX = "is left to the root complex"
    DELIVERED = "arrives beside the IOMMU"
    BLOCKED = "is dropped"
    UNCLAIMED = "is claimed by nobody and dropped"


@dataclass(frozen=True, slots=True)
class End:
    """One place where a TLP can end.

    Attributes:
        kind: what happens there.
        at: where it arrives or is dropped; None: at the root.
        rid: requester id it carries there.
        by: what decided: an ACS bit or a way back down ("" at the root).

    """

    kind: EndKind
    at: Bdf | None
    rid: Bdf
    by: str = ""


class Settings(Protocol):
    """ACS settings as delivery reads them; the answers are conditions."""

    def present(self, at: Bdf) -> Cond:
        """Whether *at* has an ACS capability, or a quirk that stands in for one."""

    def in_force(self, at: Bdf, bit: str, target: Bdf | None) -> Cond:
        """Whether *bit* acts at *at* on requests for *target*."""

    def drops(self, at: Bdf, target: Bdf) -> Cond:
        """Whether the egress vector of *at* has a request for *target* dropped, not redirected."""

    def switched_on(self, at: Bdf, mask: int) -> Cond:
        """Whether a bit of *mask* is implemented at *at* and on."""


Ending = tuple[Cond, End]


@dataclass
class _Walk:
    """One TLP under one requester id on its way up."""

    machine: Machine
    settings: Settings
    assume: Callable[[str], Cond]
    kind: TlpKind
    address: Address
    source: Bdf
    claimed: Bdf
    renamed_at: Bdf
    router: Router
    going: Cond = field(default=True)

    def endings(self) -> Iterator[Ending]:
        """Yield each end with its condition; the conditions exclude each other and cover all."""
        for node in way_up(self.machine, self.source):
            below = node != self.source
            if below and self.machine.device(node).kind.has_link_below:
                yield from self._entering(node)
            yield from self._called_back(node)
            if self.going is False:
                return
        yield self.going, self._at_the_root()

    def _ends(self, condition: Cond, end: End) -> Iterator[Ending]:
        reached = both(self.going, condition)
        if reached is not False:
            yield reached, end
            self.going = both(self.going, no(condition))

    def _dropped(self, condition: Cond, node: Bdf, bit: str) -> Iterator[Ending]:
        yield from self._ends(condition, End(EndKind.BLOCKED, node, self._rid(node), bit))

    def _rid(self, node: Bdf) -> Bdf:
        """Return the requester id that the TLP carries when it leaves *node*, or ends there."""
        up = tuple(way_up(self.machine, self.source))
        if self.renamed_at not in up:  # at the root: a real DMA device sends for the whole segment
            return self.source
        return self.claimed if up.index(node) >= up.index(self.renamed_at) else self.source

    @rule(
        "pcie.acs.entering",
        "PCIe Base 6.12.1.1 and 6.12.1.3",
        "a port drops what comes up its link with a foreign bus number (SV), a translated address "
        "or a translation request (TB), or for I/O space (I/O Request Blocking)",
    )
    def _entering(self, port: Bdf) -> Iterator[Ending]:
        device, settings, kind = self.machine.device(port), self.settings, self.kind
        if kind is TlpKind.COMPLETION:
            return
        rid = self._rid(port)
        first, last = device.secondary or 0, device.subordinate or 0
        if rid.domain != port.domain or not first <= rid.bus <= last:
            yield from self._dropped(settings.in_force(port, "SV", None), port, "SV")
        if kind in {TlpKind.TRANSLATED, TlpKind.TRANSLATION}:
            yield from self._dropped(settings.in_force(port, "TB", None), port, "TB")
        if kind is TlpKind.IO:
            yield from self._dropped(settings.switched_on(port, IORB), port, "IORB")

    def _called_back(self, node: Bdf) -> Iterator[Ending]:
        """Yield what ends where the address calls the TLP back at *node*."""
        target = self.address.at
        if target is None:
            return
        device = self.machine.device(target)
        if self.address.aim is Aim.BAR and device.is_bridge and self._serves(node, target):
            yield from self._at_a_port(node, target)
            return
        if self.address.aim is Aim.RANGE and self._inside_the_switch(node, target):
            redirected = self.settings.switched_on(node, UNCLAIMED_RR)
            end = End(EndKind.UNCLAIMED, target, self._rid(node), "nobody's part of the switch")
            yield from self._ends(no(redirected), end)
            return
        tlp = Tlp(self.source, 1 if self.kind is TlpKind.WITH_PASID else None)
        for rung in self.router.rungs(self.machine, node, tlp, target):
            yield from self._at_a_rung(rung, target)

    def _at_a_rung(self, rung: Rung, target: Bdf) -> Iterator[Ending]:
        rid = self._rid(rung.at)
        closed, drops = self._closed(rung, target)
        yield from self._ends(drops, End(EndKind.BLOCKED, rung.at, rid, "EC"))
        delivered = EndKind.DELIVERED if self.address.aim is Aim.BAR else EndKind.UNCLAIMED
        opened = both(no(closed), self._undisputed(rung))
        yield from self._ends(opened, End(delivered, target, rid, str(rung.kind)))

    @rule(
        "pcie.acs.kinds",
        "PCIe Base 6.12.1.1 and 6.12.3",
        "CR acts on completions as RR on requests; EC without RR drops; DT lets translated "
        "requests go straight across whatever RR and EC say; UF acts on all",
    )
    def _closed(self, rung: Rung, target: Bdf) -> tuple[Cond, Cond]:
        """Return when ACS keeps the TLP from leaving at *rung*, and when it is dropped for that."""
        settings, at = self.settings, rung.at
        if not rung.bit:
            return False, False
        if rung.bit != "RR":
            return settings.in_force(at, rung.bit, target), False
        if self.kind is TlpKind.COMPLETION:
            return settings.in_force(at, "CR", target), False
        straight: Cond = False
        if self.kind is TlpKind.TRANSLATED:
            straight = settings.in_force(at, "DT", target)
        closed = both(settings.in_force(at, "RR", target), no(straight))
        return closed, both(closed, settings.drops(at, target))

    def _undisputed(self, rung: Rung) -> Cond:
        """Return when the hardware does let an unhindered TLP leave at *rung*."""
        if rung.kind not in DISPUTED:
            return True
        name, settled_by_acs = DISPUTED[rung.kind]
        granted = self.assume(name)
        return either(granted, self.settings.present(rung.at)) if settled_by_acs else granted

    def _serves(self, node: Bdf, port: Bdf) -> bool:
        """Whether *port* is of the switch, or is the root port, that the TLP enters at *node*."""
        machine = self.machine
        if node == self.source or not machine.device(node).kind.has_link_below:
            return False
        above = machine.parent(node)
        if above is None or machine.device(port).kind is PortKind.UPSTREAM:
            return port == (node if above is None else above)
        return machine.device(port).kind.has_link_below and machine.parent(port) == above

    @rule(
        "pcie.acs.memory-target",
        "PCIe Base 6.12.1.1, ACS Enhanced: DSP and USP Memory Target Access Control",
        "two bits at the port a request enters drop or redirect it when it is for the memory of a "
        "downstream or root port, two more for that of the upstream port",
    )
    def _at_a_port(self, node: Bdf, port: Bdf) -> Iterator[Ending]:
        settings, rid = self.settings, self._rid(node)
        upstream = self.machine.device(port).kind is PortKind.UPSTREAM
        block, redirect = (USP_MT_RB, USP_MT_RR) if upstream else (DSP_MT_RB, DSP_MT_RR)
        name = "USP memory target" if upstream else "DSP memory target"
        dropped = settings.switched_on(node, block)
        yield from self._ends(dropped, End(EndKind.BLOCKED, node, rid, f"{name} blocking"))
        there = End(EndKind.DELIVERED, port, rid, "the port's own memory")
        yield from self._ends(no(settings.switched_on(node, redirect)), there)

    def _inside_the_switch(self, node: Bdf, port: Bdf) -> bool:
        """Whether the address lies in the switch that *node* is a downstream port of."""
        upstream = self.machine.device(port).kind is PortKind.UPSTREAM
        return upstream and self.machine.parent(node) == port

    def _at_the_root(self) -> End:
        rid = self.claimed
        if self.kind in {TlpKind.COMPLETION, TlpKind.IO}:
            return End(EndKind.ROOT_COMPLEX, None, rid)
        if self.address.aim is Aim.INTERRUPT and self.kind is TlpKind.UNTRANSLATED:
            return End(EndKind.INTERRUPT, None, rid)
        return End(EndKind.IOMMU, None, rid)


@rule(
    "pcie.delivery",
    "PCIe Base 2.2.4, 2.2.10.4, 6.12; PCI Express to PCI/PCI-X Bridge 1.0, 2.3",
    "a TLP climbs; ports drop it, addresses call it back, ACS sends it on; the rest is the IOMMU's",
)
def endings(
    machine: Machine,
    source: Bdf,
    kind: TlpKind,
    address: Address,
    settings: Settings,
    assume: Callable[[str], Cond],
    *,
    claimed: Bdf | None = None,
    router: Router = ADDRESS_ROUTER,
) -> list[Ending]:
    """Return where a TLP can end, each place with the condition under which it ends there.

    A function with DMA aliases may send under each of its requester ids; the conditions of one id
    exclude each other and cover all settings.

    Args:
        machine: the topology.
        source: the function that sends.
        kind: what it sends. Conventional functions send neither PASID nor translated addresses.
        address: where it is meant to go.
        settings: `routing.MachineAcs`, or `SymbolicAcs`.
        assume: the value of an assumption, as a condition.
        claimed: requester id that the function puts in; default are the ids it has.
        router: the routing rule.

    """
    if kind in _EXPRESS_ONLY and not machine.device(source).kind.is_pcie:
        return []
    ids = list(dma_aliases(machine, source))
    if claimed is not None:
        # A bridge on the way writes its own id over whatever comes from below.
        ids = [each for each in ids if each[0] != source][-1:] or [(source, claimed)]
    found: list[Ending] = []
    for renamed_at, rid in ids:
        walk = _Walk(machine, settings, assume, kind, address, source, rid, renamed_at, router)
        found.extend(walk.endings())
    return found


def ends(
    machine: Machine,
    source: Bdf,
    kind: TlpKind,
    address: Address,
    settings: Settings,
    assume: Mapping[str, bool],
) -> list[End]:
    """Return where a TLP ends on a machine as it is, once for each requester id it may carry."""
    decided = endings(machine, source, kind, address, settings, lambda name: assume[name])
    return [end for condition, end in decided if condition]


class SymbolicAcs:
    """ACS settings as symbols: one z3 Boolean for each bit in force at each function.

    Args:
        machine: the topology; only its registers' contents are left open.

    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def symbol(self, *parts: object) -> Cond:
        """Return the Boolean constant for a fact, named by its parts."""
        import z3

        return z3.Bool(" ".join(map(str, parts)))

    def present(self, at: Bdf) -> Cond:
        """Whether *at* has an ACS capability."""
        return self.symbol("present", at)

    def in_force(self, at: Bdf, bit: str, target: Bdf | None) -> Cond:
        """Whether *bit* acts at *at* on requests for *target*; RR may differ by branch (EC)."""
        towards = branch_on_bus(self._machine, target, at.segment_bus) if target else None
        here = (bit, at, "to", towards) if bit == "RR" else (bit, at)
        return both(self.present(at), self.symbol(*here))

    def drops(self, at: Bdf, target: Bdf) -> Cond:
        """Whether the egress vector of *at* has a request for *target* dropped."""
        towards = branch_on_bus(self._machine, target, at.segment_bus)
        return both(self.in_force(at, "RR", target), self.symbol("EC drops", at, "to", towards))

    def switched_on(self, at: Bdf, mask: int) -> Cond:
        """Whether a bit of *mask* is on at *at*."""
        return both(self.present(at), self.symbol(hex(mask), at))
