"""Leak channels that make no function act as another: L5, L9 and L10 as typed edges.

They stand beside the ways of `channels`. L5 leads to memory instead of to a function, L9 says of a
peer-to-peer way that its target could not have stopped it, L10 is about availability alone. None of
them joins groups or components.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, first_gap
from dmaproof.model.pcie.delivery import MEMORY, EndKind, TlpKind, endings
from dmaproof.model.pcie.routing import NO_ASSUMPTION, way_up
from dmaproof.model.pcie.topology import Bdf
from dmaproof.model.rules import rule

if TYPE_CHECKING:
    from dmaproof.model.pcie.channels import Edge, Fabric


@rule(
    "pcie.leak.translated",
    "PCIe Base 10.2.1 and 6.12.1.1; drivers/pci/ats.c pci_ats_supported; VT-d 3.9, 6.5.2",
    "a translated request skips the tables: it needs ATS, a context entry that lets it through "
    "(TT, DTE) and no port with TB on its way; the address is the device's word",
)
def translated(fabric: Fabric, source: Bdf) -> Edge | None:
    """Return the edge by which *source* reaches any host address (L5), None without one."""
    from dmaproof.model.pcie.channels import Channel, Cut, Edge

    machine = fabric.machine
    device = machine.device(source)
    if not device.ats:
        return None
    decided = endings(
        machine, source, TlpKind.TRANSLATED, MEMORY, fabric.acs, lambda _: False, claimed=source
    )
    if not any(condition and end.kind is EndKind.IOMMU for condition, end in decided):
        return None
    up = tuple(way_up(machine, source))
    linked = [port for port in up if machine.device(port).kind.has_link_below]
    ways = [(Cut(port, "TB"),) for port in linked]
    reason = (
        f"{device} has ATS: once it is on and the context entry lets translated requests through "
        "(TT or DTE), nobody checks the addresses in them"
    )
    requires = frozenset({("ats_honest", False)})
    return Edge.cut_by_any(ways, Channel.TRANSLATED, source, None, source.rid, requires, up, reason)


@rule(
    "pcie.leak.unprotected-target",
    "PCIe Base 6.12.3",
    "ACS acts above the emitter: a target whose own path isolates is reached all the same",
)
def unprotected(fabric: Fabric, source: Bdf, target: Bdf) -> Iterator[Edge]:
    """Yield the ways of *source* to *target*'s BAR if *target*'s own path isolates it (L9)."""
    from dataclasses import replace

    from dmaproof.model.pcie.channels import Channel

    if first_gap(fabric.machine, target, REQ_ACS_FLAGS) is not None:
        return
    goal = fabric.machine.device(target)
    for edge in fabric.edges_between(source, target):
        if edge.channel is Channel.PEER_TO_PEER:
            reason = f"every port above {goal} isolates, yet {edge.reason}"
            yield replace(edge, channel=Channel.UNPROTECTED_TARGET, reason=reason)


@rule(
    "pcie.leak.shared-control",
    "drivers/pci/ats.c pci_enable_pasid, pci_enable_pri; PCIe Base 9.3.7, 10.5.2",
    "virtual functions have no PASID and no page request capability of their own: who owns the "
    "physical function switches both off for all",
)
def shared_control(fabric: Fabric, source: Bdf, target: Bdf) -> Edge | None:
    """Return the edge by which a physical function's owner stops a virtual one (L10)."""
    from dmaproof.model.pcie.channels import Channel, Edge

    device = fabric.machine.device(target)
    if device.physfn != source:
        return None
    reason = (
        f"{device} has PASID and page requests as {fabric.machine.device(source)} has them: who "
        "resets that or switches them off stops both (availability, no access)"
    )
    return Edge(
        Channel.SHARED_CONTROL, source, target, None, NO_ASSUMPTION, (source, target), (), reason
    )


def side_edges(fabric: Fabric, source: Bdf, target: Bdf) -> tuple[Edge, ...]:
    """Return the edges of L9 and L10 from *source* to *target*."""
    if source == target:
        return ()
    control = shared_control(fabric, source, target)
    return (*unprotected(fabric, source, target), *([control] if control else []))
