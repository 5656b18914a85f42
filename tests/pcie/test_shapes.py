"""Shapes, and trees whose facts are plain truth values against the code for real machines."""

from __future__ import annotations

from itertools import combinations, permutations, product
from random import Random

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmaproof.model.pcie.acs import PASID_ACS_FLAGS, pasid_path_ok, pci_acs_enabled
from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.conditions import both, either, no
from dmaproof.model.pcie.groups import LinuxGrouping, groups
from dmaproof.model.pcie.groups_v3 import V3Grouping
from dmaproof.model.pcie.topology import Bdf, Machine
from dmaproof.model.pcie.trees import local_rules
from dmaproof.model.pcie.trees.drawings import Drawing, Setting
from dmaproof.model.pcie.trees.local_rules import BELOW, BRIDGES, KINDS
from dmaproof.model.pcie.trees.probe_order import Probing
from dmaproof.model.pcie.trees.rules import Join, Reading
from dmaproof.model.pcie.trees.shapes import Shape, pairs, shapes
from pcie.draw import drawings, random_drawing
from pcie.strategies import machines

A000081 = {1: 1, 2: 1, 3: 2, 4: 4, 5: 9, 6: 20, 7: 48, 8: 115, 9: 286, 10: 719}

few = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
assumptions = st.fixed_dictionaries(
    {**dict.fromkeys(PERMISSIVE, st.booleans()), "deputy": st.just(True)}
)


# -- shapes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", A000081)
def test_there_are_as_many_rooted_trees_as_there_should_be(nodes: int) -> None:
    """A shape has the root complex beside its nodes, so one node less."""
    if nodes > 1:
        assert len(shapes(nodes - 1)) == A000081[nodes]


def canonical(shape: Shape) -> str:
    def code(node: int) -> str:
        return f"({''.join(sorted(code(child) for child in shape.children(node)))})"

    return code(0)


@pytest.mark.parametrize("size", range(1, 7))
def test_every_tree_is_there_once(size: int) -> None:
    every = {
        canonical(Shape(parents)) for parents in product(*(range(n) for n in range(1, size + 1)))
    }
    found = [canonical(shape) for shape in shapes(size)]
    assert sorted(found) == sorted(every)


def test_a_shape_knows_its_tree() -> None:
    shape = Shape((0, 1, 1, 3, 0))
    assert (shape.size, shape.children(1), shape.siblings(2)) == (5, (2, 3), (3,))
    assert (shape.way_up(4), shape.above(4), shape.leaves) == ((4, 3, 1), (3, 1), (2, 4, 5))
    assert (shape.branch(4, 1), shape.branch(4, 0), shape.branch(2, 3)) == (3, 1, None)
    assert str(shape) == "(()(()))()"
    with pytest.raises(ValueError, match="no parents"):
        Shape((1,))
    with pytest.raises(ValueError, match="at least one"):
        shapes(0)


@pytest.mark.parametrize("size", range(1, 8))
def test_pairs_are_shapes_with_few_leaves(size: int) -> None:
    found = [canonical(shape) for shape in pairs(size)]
    assert len(found) == len(set(found))
    every = {canonical(shape): shape for shape in shapes(size)}
    assert set(found) <= set(every)
    # All with two leaves are among them, and all of few nodes.
    assert {code for code, shape in every.items() if len(shape.leaves) < 3} <= set(found)
    assert size > 4 or set(found) == set(every)


# -- tables of local rules -------------------------------------------------------------------------


def test_tables_cover_every_state() -> None:
    assert set(KINDS) == {kind for kinds in BELOW.values() for kind in kinds}
    assert len(local_rules.acs_enabled()) == len(KINDS) * 2 * 3
    assert len(local_rules.in_force("RR")) == 64
    assert {kind for kind, *_ in local_rules.v3_bridge()} == set(BRIDGES)
    for above, kinds in BELOW.items():
        for kind in kinds:
            assert any((kind, above, place) in local_rules.rungs() for place in local_rules.Place)


# -- one code, two readings: against routing and grouping ------------------------------------------


def parts(shape: Shape, joins: tuple[Join, ...]) -> set[frozenset[int]]:
    graph = nx.Graph()
    graph.add_nodes_from(shape.nodes)
    graph.add_edges_from((a, b) for a, b, condition in joins if condition)
    assert all(isinstance(condition, bool) for *_, condition in joins)
    return {frozenset(part) for part in nx.connected_components(graph)}


def compare(drawing: Drawing, assume: dict[str, bool], machine: Machine, place: dict[int, Bdf]):
    """Everything a reading says of a drawing against what the code says of its machine."""
    node = {bdf: number for number, bdf in place.items()}
    reading = Reading(drawing.tree(), assume)
    for algorithm in ("linux", "v3"):
        expected = {frozenset(node[bdf] for bdf in g.members) for g in groups(machine, algorithm)}
        assert parts(drawing.shape, reading.joins(algorithm)) == expected, algorithm
    functions = [number for number in drawing.shape.nodes if reading.tree.node[number].requester]
    assert {place[number] for number in functions} == {d.bdf for d in machine.functions}
    fabric = Fabric(machine)
    for graph, rule in (
        (fabric.p2p(assume), reading.peer_to_peer),
        (fabric.identity(assume), reading.identity),
    ):
        expected = {(node[a], node[b]) for a, b in graph.edges if a != b}
        assert {pair for pair in permutations(functions, 2) if rule(*pair)} == expected
    for number in drawing.shape.nodes:
        device = machine.device(place[number])
        assert reading.enabled(number) is pci_acs_enabled(machine, device, 0x1D)
        assert reading.enabled(number, PASID_ACS_FLAGS) is pci_acs_enabled(machine, device, 0x14)
        if not device.is_virtual:
            assert reading.pasid_allowed(number) is pasid_path_ok(machine, device.bdf)


@given(drawings(), assumptions)
@few
def test_trees_agree_with_machines(drawing: Drawing, assume: dict[str, bool]) -> None:
    machine, place = drawing.machine("drawn")
    compare(drawing, assume, machine, dict(place))


@given(machines(budget=7), assumptions)
@few
def test_machines_agree_with_trees(machine: Machine, assume: dict[str, bool]) -> None:
    """The other way round: machines that were not made from shapes."""
    drawing, place = read(machine)
    ghosts = [bdf.segment_bus for d in machine.devices for bdf in d.aliases if bdf not in machine]
    if len(ghosts) == len(set(ghosts)):
        compare(drawing, assume, machine, place)


def read(machine: Machine) -> tuple[Drawing, dict[int, Bdf]]:
    order = [b for d in machine.devices if machine.on_root(d) for b in machine.subtree(d.bdf)]
    number = {bdf: index for index, bdf in enumerate(order, 1)}
    above = (machine.parent(bdf) for bdf in order)
    shape = Shape(tuple(number[bdf] if bdf else 0 for bdf in above))
    slots = {slot: index for index, slot in enumerate(machine.slots)}
    found = []
    for bdf in order:
        device = machine.device(bdf)
        found.append(
            Setting(
                kind=device.kind,
                slot=slots[bdf.slot],
                acs=device.acs,
                multifunction=device.multifunction,
                ghost=any(alias not in machine for alias in device.aliases),
                aliases=frozenset(number[alias] for alias in device.aliases if alias in machine),
                pasid=device.pasid is not None,
            )
        )
    return Drawing(shape, tuple(found)), dict(enumerate(order, 1))


@given(drawings(largest=8), st.randoms(use_true_random=False))
@few
def test_any_order_of_probing(drawing: Drawing, random: Random) -> None:
    machine, place = drawing.machine("drawn")
    node = {bdf: number for number, bdf in place.items()}
    reading = Reading(drawing.tree(), PERMISSIVE)
    for algorithm, grouping in (("linux", LinuxGrouping), ("v3", V3Grouping)):
        if algorithm == "linux" and any(s.aliases or s.ghost for s in drawing.settings):
            continue
        order = _shuffled(drawing.shape, random, parents_first=algorithm == "v3")
        rank = {number: index for index, number in enumerate(order)}
        probing = Probing(reading, {(a, b): rank[a] < rank[b] for a, b in permutations(rank, 2)})
        if algorithm == "linux":
            assert all(axiom is True for axiom in probing.order_axioms(algorithm))
        run = grouping(machine, tuple(place[number] for number in order)).run()
        expected = {frozenset(node[bdf] for bdf in group.members) for group in run}
        assert parts(drawing.shape, probing.joins(algorithm)) == expected


def _shuffled(shape: Shape, random: Random, *, parents_first: bool) -> list[int]:
    waiting = list(shape.nodes)
    random.shuffle(waiting)
    order: list[int] = []
    while waiting:
        ready = [n for n in waiting if not parents_first or shape.parent(n) in {0, *order}]
        order.append(ready[0])
        waiting.remove(ready[0])
    return order


@given(drawings(largest=8), assumptions)
@few
def test_a_leak_depends_on_the_ways_up_alone(drawing: Drawing, assume: dict[str, bool]) -> None:
    """Taking away what is neither above nor beside two functions: same leak, no larger groups."""
    whole = Reading(drawing.tree(), assume)
    for first, second in list(combinations(drawing.shape.leaves, 2))[:6]:
        kept = relevant(drawing, first, second)
        part, renamed = without_others(drawing, kept)
        less = Reading(part.tree(), assume)
        ends = renamed[first], renamed[second]
        assert less.leak(*ends) is whole.leak(first, second)
        for algorithm in ("linux", "v3"):
            together = any(
                {first, second} <= group for group in parts(whole.shape, whole.joins(algorithm))
            )
            joined = any(set(ends) <= g for g in parts(less.shape, less.joins(algorithm)))
            assert together or not joined


def relevant(drawing: Drawing, first: int, second: int) -> set[int]:
    shape = drawing.shape
    kept = {*shape.way_up(first), *shape.way_up(second)}
    for node in (first, second):
        if drawing[node].virtual:
            mates = (m for m in shape.siblings(node) if drawing.one_device(node, m))
            kept.add(
                next(
                    m
                    for m in mates
                    if not drawing[m].virtual and drawing[m].kind is drawing[node].kind
                )
            )
    kept |= set(list(drawing[first].aliases & drawing[second].aliases)[:1])
    return kept


def without_others(drawing: Drawing, kept: set[int]) -> tuple[Drawing, dict[int, int]]:
    renamed = {0: 0} | {old: new for new, old in enumerate(sorted(kept), 1)}
    found = []
    for old in sorted(kept):
        setting = drawing[old]
        found.append(
            Setting(
                **{
                    **setting.__dict__,
                    # A header bit stays when the other functions go.
                    "multifunction": drawing.multifunction(old),
                    "aliases": frozenset(renamed[n] for n in setting.aliases if n in renamed),
                    "redirects": frozenset(renamed[n] for n in setting.redirects if n in renamed),
                }
            )
        )
    shape = Shape(tuple(renamed[drawing.shape.parent(old)] for old in sorted(kept)))
    return Drawing(shape, tuple(found)), renamed


def test_conditions_fold() -> None:
    assert both() is True and either() is False
    assert both(True, False) is False and either(False, True) is True
    assert no(True) is False and no(False) is True


@pytest.mark.slow
def test_a_leak_depends_on_the_ways_up_alone_often() -> None:
    random = Random(1)
    every = [shape for size in range(3, 9) for shape in shapes(size)]
    check = test_a_leak_depends_on_the_ways_up_alone.hypothesis.inner_test
    for _ in range(3000):
        drawing = random_drawing(random.choice(every), random, rare=random.choice([0.0, 0.1, 0.3]))
        check(drawing, {name: random.random() < 0.5 for name in PERMISSIVE} | {"deputy": True})


@pytest.mark.slow
def test_trees_agree_with_many_machines() -> None:
    random = Random(20250905)
    every = [shape for size in range(1, 10) for shape in shapes(size)]
    for _ in range(8000):
        drawing = random_drawing(random.choice(every), random, rare=random.choice([0.0, 0.1, 0.3]))
        assume = {name: random.random() < 0.5 for name in PERMISSIVE} | {"deputy": True}
        machine, place = drawing.machine("drawn")
        compare(drawing, assume, machine, dict(place))
