"""What must hold on every machine, tried on random ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import networkx as nx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie.acs import REQ_ACS_FLAGS
from dmaproof.model.pcie.channels import PERMISSIVE, Channel, Fabric
from dmaproof.model.pcie.cuts import switched
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.routing import AddressRouter, PrefixRouter, first_prefix_difference
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Bdf, Machine, PortKind
from pcie.strategies import BITS, machines

NAMES = ("spoof", "mfd_rid_honest", "mf_loopback", "rp_loopback", "rc_p2p", "deputy")
STRICT = dict.fromkeys(NAMES, False) | {"mfd_rid_honest": True}
LOOSE = dict.fromkeys(NAMES, True) | {"mfd_rid_honest": False}
assumptions = st.fixed_dictionaries(dict.fromkeys(NAMES, st.booleans()))

few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def pairs(machine: Machine, assume: dict[str, bool]) -> set[tuple[str, Bdf, Bdf | None]]:
    return {
        (edge.channel, edge.source, edge.target)
        for edge in Fabric(machine).edges(assume)
        # A machine's aliases depend on no ACS bit.
        if edge.channel is not Channel.ALIAS
    }


@given(machines(), st.data(), assumptions)
@few
def test_an_acs_bit_never_adds_an_edge(machine: Machine, data, assume) -> None:
    capable = [device for device in machine.devices if device.acs is not None]
    if not capable:
        return
    device = data.draw(st.sampled_from(capable))
    bit = data.draw(st.sampled_from(BITS))
    acs = Acs(device.acs.capability, device.acs.control | bit)
    more = [replace(d, acs=acs) if d is device else d for d in machine.devices]
    assert pairs(Machine("more", more), assume) <= pairs(machine, assume)


@given(machines(), assumptions, st.sampled_from(NAMES))
@few
def test_permissive_assumptions_never_remove_an_edge(machine: Machine, assume, name: str) -> None:
    permissive = LOOSE[name]
    fabric = Fabric(machine)
    tight = {**assume, name: not permissive}
    wide = {**assume, name: permissive}
    assert set(fabric.edges(tight)) <= set(fabric.edges(wide))
    assert set(fabric.acts(tight).edges) <= set(fabric.acts(wide).edges)


@given(machines(), assumptions)
@few
def test_cuts_cut(machine: Machine, assume) -> None:
    """Turning on what the edges of a pair ask for, as often as they ask, leaves no edge."""
    fabric = Fabric(machine)
    for source, target, data in list(fabric.p2p(assume).edges(data=True))[:6]:
        if any(not edge.cuts for edge in data["edges"]):
            assert any(
                machine.device(hop).kind in {PortKind.CONVENTIONAL, PortKind.CONVENTIONAL_BRIDGE}
                for hop in (source, target)
            )
            continue
        fixed, rounds = machine, 0
        while (source, target) in (graph := Fabric(fixed).p2p(assume)).edges:
            asked = [cut for edge in graph.edges[source, target]["edges"] for cut in edge.cuts]
            fixed = switched(fixed, asked)
            rounds += 1
            # A disputed way above shows itself only when the sure one below is cut.
            assert rounds < 4


@given(machines(), assumptions)
@few
def test_components_are_closed(machine: Machine, assume) -> None:
    home = group_of(groups(machine, "components", assume))
    assert set(home) == {device.bdf for device in machine.devices}
    fabric = Fabric(machine)
    assert all(home[source] == home[target] for source, target in fabric.acts(assume).edges)
    assert all(home[source] == home[target] for source, target in fabric.p2p(assume).edges)
    assert {frozenset(part) for part in fabric.components(assume)} == {
        frozenset(b for b in members if machine.device(b).is_requester)
        for members in (group.members for group in groups(machine, "components", assume))
        if any(machine.device(b).is_requester for b in members)
    }


@given(machines(), assumptions)
@few
def test_acts_is_influence_then_identity(machine: Machine, assume) -> None:
    fabric = Fabric(machine)
    influence, acts, emits = fabric.influence(assume), fabric.acts(assume), fabric.emits(assume)
    nodes = [device.bdf for device in machine.functions]
    for source, owner in product(nodes, nodes):
        expected = any(
            any(rid in emits[deputy] for rid in fabric.rids(owner))
            # An alias of the owner may be the deputy's own id.
            for deputy in influence.successors(source)
        )
        assert acts.has_edge(source, owner) == expected
        chain = fabric.witness(source, owner, assume)
        assert bool(chain) == (expected and source != owner)
        if chain:
            assert len(chain) == _distance(fabric, source, owner, assume)
            assert chain[0].source == source and chain[-1].target == owner
            assert all(a.target == b.source for a, b in pairwise(chain))
            assert all(edge.channel is Channel.PEER_TO_PEER for edge in chain[:-1])


def _distance(fabric: Fabric, source: Bdf, owner: Bdf, assume: dict[str, bool]) -> int:
    """Hops of the shortest way from *source* to an id of *owner*, found the slow way."""
    hops = {source: 0}
    if assume["deputy"]:
        hops = nx.single_source_shortest_path_length(fabric.p2p(assume), source)
    identity = fabric.identity(assume)
    return min(
        length + (node != owner)
        for node, length in hops.items()
        if node == owner or identity.has_edge(node, owner)
    )


@given(machines(), assumptions, st.data())
@few
def test_a_restricted_machine_keeps_the_routes(machine: Machine, assume, data) -> None:
    nodes = [device.bdf for device in machine.functions]
    if not nodes:
        return
    kept = data.draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))
    part = machine.restrict(kept)
    whole, less = Fabric(machine).p2p(assume), Fabric(part).p2p(assume)
    assert set(kept) <= set(less.nodes)
    assert {edge for edge in whole.edges if set(edge) <= set(less.nodes)} == set(less.edges)


@given(machines())
@few
def test_full_acs_leaves_only_conventional_buses_and_aliases(machine: Machine) -> None:
    full = [
        replace(device, acs=Acs(0x5F, REQ_ACS_FLAGS)) if device.kind.is_pcie else device
        for device in machine.devices
    ]
    isolated = Machine("full", full)
    for edge in Fabric(isolated).edges({**PERMISSIVE, "mf_loopback": False}):
        assert edge.channel is Channel.ALIAS or not edge.cuts
        if edge.channel is Channel.SPOOF:
            raise AssertionError(edge.reason)


@given(machines())
@few
def test_linux_groups_partition_the_machine(machine: Machine) -> None:
    found = groups(machine)
    members = [member for group in found for member in group.members]
    assert sorted(members) == [device.bdf for device in machine.devices]
    assert found == groups(machine)
    assert [group.id for group in found] == list(range(len(found)))
    assert all(reason for group in found for reason in group.why)


@given(machines())
@few
def test_routing_ignores_the_pasid_prefix(machine: Machine) -> None:
    assert first_prefix_difference(machine, AddressRouter()) is None
    different = first_prefix_difference(machine, PrefixRouter())
    lands = any(Fabric(machine).all_edges) and Fabric(machine).p2p(LOOSE).number_of_edges() > 0
    # Wherever a request can land beside the IOMMU, the prefix would have changed that.
    if lands:
        assert different is not None
        assert different.plain.rung is not None and different.prefixed.rung is None


# -- an independent reading of the routing rules ---------------------------------------------------


def walk(machine: Machine, source: Bdf, target: Bdf) -> bool:
    """Follow one request hop by hop (no assumption granted); True: it lands at *target*."""
    node, bus_owner = source, machine.parent(source)

    def on(bdf: Bdf, name: str) -> bool:
        acs = machine.device(bdf).acs
        if acs is None:
            return False
        return not acs.capability & ACS_BITS[name] or bool(acs.control & ACS_BITS[name])

    def contains(bridge: Bdf, bdf: Bdf) -> bool:
        device = machine.device(bridge)
        if device.secondary is None:
            return bridge == bdf
        return bridge == bdf or device.secondary <= bdf.bus <= device.subordinate

    while True:
        here = machine.device(node)
        if here.kind in {PortKind.ROOT_PORT, PortKind.DOWNSTREAM} and contains(node, target):
            assumed = here.acs is None and here.kind is PortKind.ROOT_PORT
            if not on(node, "UF") and not assumed:
                return True
        elif not contains(node, target):
            neighbours = [
                device.bdf
                for device in machine.devices
                if device.bdf.bus == node.bus and device.bdf != node
            ]
            hit = [other for other in neighbours if contains(other, target)]
            owner = machine.device(bus_owner).kind if bus_owner else None
            if hit and owner is PortKind.UPSTREAM and not on(node, "RR"):
                return True
            if hit and owner in {PortKind.PCIE_TO_PCI_BRIDGE, PortKind.CONVENTIONAL_BRIDGE}:
                return True
            same_chip = hit and hit[0].device == node.device and here.acs is not None
            linked = owner in {PortKind.ROOT_PORT, PortKind.DOWNSTREAM} or bus_owner is None
            if same_chip and linked and here.kind is not PortKind.ROOT_PORT and not on(node, "RR"):
                return True
        if bus_owner is None:
            return False
        node, bus_owner = bus_owner, machine.parent(bus_owner)


@given(machines(budget=10))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_peer_to_peer_agrees_with_a_walk_hop_by_hop(machine: Machine) -> None:
    graph = Fabric(machine).p2p(STRICT)
    nodes = [device.bdf for device in machine.functions]
    for source, target in product(nodes, nodes):
        if source != target:
            assert graph.has_edge(source, target) == walk(machine, source, target)
