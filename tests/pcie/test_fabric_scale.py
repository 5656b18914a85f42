"""Ranges of requesters say what the leak edges of all pairs say, and scale to large machines."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import product

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.errors import InputError
from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.channels import PERMISSIVE, Channel, Fabric, holds
from dmaproof.model.pcie.generated import PER_DOMAIN, generated
from dmaproof.model.pcie.groups import group_of, groups
from dmaproof.model.pcie.ranges import Reaching
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Machine, PortKind, Sriov
from pcie.strategies import machines

few = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
assumptions = st.fixed_dictionaries({name: st.booleans() for name in PERMISSIVE})
IDENTITY = {Channel.SPOOF, Channel.ALIAS}

# -- sets of numbers ---------------------------------------------------------------------------

numbers = st.sets(st.integers(0, 40))


@given(numbers, numbers)
def test_ranges_are_sets(first: set[int], second: set[int]) -> None:
    a, b = ranges.of(first), ranges.of(second)
    assert set(ranges.members(a)) == first
    assert set(ranges.members(ranges.union([a, b]))) == first | second
    assert set(ranges.members(ranges.minus(a, b))) == first - second
    assert set(ranges.members(ranges.common(a, b))) == first & second
    assert {n for n in range(42) if ranges.contains(a, n)} == first
    assert ranges.bits(a) == sum(1 << n for n in first)
    for found in (a, ranges.union([a, b]), ranges.minus(a, b)):
        ends = [end for pair in found for end in pair]
        assert ends == sorted(set(ends)), "ranges overlap, touch or are empty"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 21)), max_size=12))
@settings(max_examples=300)
def test_a_forest_connects_what_is_joined(joins: list[tuple[int, int, int]]) -> None:
    sets = [(place, ranges.of(range(first, last))) for place, first, last in joins]
    every = nx.Graph([(place, other) for place, part in sets for other in ranges.members(part)])
    every.add_nodes_from(range(21))
    found = ranges.forest(21, sets)
    assert all(first != second and every.has_edge(first, second) for first, second in found)
    forest = nx.empty_graph(21)
    forest.add_edges_from(found)
    assert sorted(map(sorted, nx.connected_components(forest))) == sorted(
        map(sorted, nx.connected_components(every))
    )
    assert len(found) == 21 - nx.number_connected_components(every)


@given(st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(0, 12))), max_size=14), st.data())
@few
def test_reaching_gathers_along_every_way(edges: list[tuple[int, set[int]]], data) -> None:
    count = 13
    graph, plain = Reaching(count), nx.DiGraph()
    plain.add_nodes_from(range(count))
    for source, targets in edges:
        hub = graph.node() if data.draw(st.booleans()) else source
        if hub != source:
            graph.edge(source, hub)
        graph.edge_to(hub, ranges.of(targets))
        plain.add_edges_from((source, target) for target in targets)
    own = [ranges.of({place, data.draw(st.integers(0, 30))}) for place in range(count)]
    found = graph.gather(own)
    for place in range(count):
        reached = nx.descendants(plain, place) | {place}
        assert found[place] == ranges.union(own[other] for other in reached)


# -- ranges against all pairs ------------------------------------------------------------------


@st.composite
def rich_machines(draw: st.DrawFn) -> Machine:
    """A drawn machine with egress vectors, virtual functions and integrated neighbours added."""
    found = draw(machines(budget=8))
    devices = []
    for device in found.devices:
        changed = device
        if device.acs is not None and draw(st.booleans()):
            vector = draw(st.integers(0, 255))
            capability = device.acs.capability | 0x20
            control = device.acs.control | draw(st.sampled_from([0, 0x20]))
            changed = replace(device, acs=Acs(capability, control, vector))
        alone = device.bdf.devfn == 0 and found.buses[device.bdf.segment_bus] == (device.bdf,)
        if alone and device.kind is PortKind.ENDPOINT and draw(st.booleans()):
            count = draw(st.integers(1, 3))
            stride = draw(st.sampled_from([1, 4]))
            changed = replace(changed, sriov=Sriov(True, count, count, stride, stride))
            for index in range(count):
                place = Bdf.from_rid(device.bdf.rid + stride * (index + 1), device.bdf.domain)
                devices.append(replace(device, bdf=place, acs=None, sriov=None, pasid=None))
        devices.append(changed)
    if draw(st.booleans()):  # a second segment that looks the same
        devices += [
            replace(
                device,
                bdf=replace(device.bdf, domain=1),
                aliases=frozenset(replace(alias, domain=1) for alias in device.aliases),
            )
            for device in devices
        ]
    return Machine("rich", devices)


some_machines = st.one_of(
    rich_machines(), st.builds(generated, st.integers(1, 60), st.integers(0, 1000))
)


def all_pairs(fabric: Fabric, assume: dict[str, bool], channels: set[Channel]) -> nx.DiGraph:
    """The definition: every edge that the assumptions allow."""
    graph = nx.DiGraph()
    graph.add_nodes_from(device.bdf for device in fabric.machine.functions)
    graph.add_edges_from(
        (edge.source, edge.target)
        for edge in fabric.all_edges
        if edge.channel in channels and edge.target and holds(edge.requires, assume)
    )
    return graph


def pairs_of(fabric: Fabric, reached) -> set[tuple[Bdf, Bdf]]:
    nodes = fabric.numbering.nodes
    return {
        (node, nodes[other])
        for place, node in enumerate(nodes)
        for other in ranges.members(reached(place))
    }


@given(some_machines, assumptions)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_ranges_equal_the_edges_of_all_pairs(machine: Machine, assume: dict[str, bool]) -> None:
    fabric = Fabric(machine)
    reach = fabric.reach(assume)
    peers = all_pairs(fabric, assume, {Channel.PEER_TO_PEER})
    poses = all_pairs(fabric, assume, IDENTITY)
    assert pairs_of(fabric, reach.peers) == set(peers.edges)
    assert pairs_of(fabric, reach.poses) == set(poses.edges)
    influence = peers if assume["deputy"] else nx.create_empty_copy(peers)
    influence = nx.transitive_closure(influence, reflexive=True)
    assert pairs_of(fabric, reach.influences) == set(influence.edges)
    poses.add_edges_from((node, node) for node in list(poses))
    acts = {(f, h) for f, g in influence.edges for h in poses.successors(g)}
    assert pairs_of(fabric, reach.acts) == acts
    assert set(fabric.acts(assume).edges) == acts


@given(some_machines, assumptions)
@few
def test_components_equal_those_of_all_pairs(machine: Machine, assume: dict[str, bool]) -> None:
    fabric = Fabric(machine)
    graph = all_pairs(fabric, assume, IDENTITY | {Channel.PEER_TO_PEER})
    wanted = sorted(tuple(sorted(part)) for part in nx.weakly_connected_components(graph))
    assert fabric.components(assume) == wanted
    links = fabric.reach(assume).links
    assert set(links) <= set(graph.edges)
    forest = nx.Graph(links)
    assert forest.number_of_edges() == len(links) == graph.number_of_nodes() - len(wanted)
    assert not links or nx.is_forest(forest)


@given(some_machines, assumptions)
@few
def test_crossings_equal_those_of_all_pairs(machine: Machine, assume: dict[str, bool]) -> None:
    fabric = Fabric(machine)
    home = group_of(groups(machine))
    every = fabric.crossings(home, assume)
    first = {}
    for source, target in sorted(every):
        first.setdefault(source, target)
    reach = fabric.reach(assume)
    assert dict(reach.crossings(home)) == first
    assert reach.crossing(home) == min(first.items(), default=None)


@given(rich_machines())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_edges_between_two_functions_are_the_edges_of_the_pair(machine: Machine) -> None:
    fabric = Fabric(machine)
    for source, target in product(fabric.numbering.nodes, repeat=2):
        wanted = {e for e in fabric.all_edges if (e.source, e.target) == (source, target)}
        assert set(fabric.edges_between(source, target)) == wanted


# -- large machines ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1500])
def test_a_generated_machine_has_what_was_asked_for(count: int) -> None:
    machine = generated(count)
    assert len(machine.functions) == count
    assert generated(count) == machine
    assert not machine.unrooted
    if count > 1:
        assert generated(count, seed=2) != machine


def test_a_large_generated_machine_is_varied() -> None:
    machine = generated(PER_DOMAIN + 5)
    assert {device.bdf.domain for device in machine.devices} == {0, 1}
    roots = [d for d in machine.ports if d.kind is PortKind.ROOT_PORT and d.bdf.domain == 0]
    assert len(roots) == 64
    assert {d.acs for d in roots if d.acs} >= {Acs(0x5F, 0x1D), Acs(0x5F, 0)}
    assert any(d.is_virtual for d in machine.functions)
    parts = Fabric(machine).components(PERMISSIVE)
    assert 1 < len(parts) < len(machine.functions)
    with pytest.raises(InputError):
        generated(0)


def test_thousands_of_functions_behind_one_conventional_bridge() -> None:
    """All share the bridge's requester id: what they share is one set, not one a function."""
    kind = PortKind.CONVENTIONAL
    bridge = Device(
        bdf=Bdf(0, 0, 1, 0),
        kind=PortKind.CONVENTIONAL_BRIDGE,
        class_code=0x0604,
        header_type=1,
        secondary=1,
        subordinate=255,
    )
    below = [Device(bdf=Bdf.from_rid(0x100 + n), kind=kind) for n in range(4000)]
    fabric = Fabric(Machine("conventional", [bridge, *below]))
    started = time.process_time()
    (component,) = fabric.components(PERMISSIVE)
    assert len(component) == 4000
    assert time.process_time() - started < 8
