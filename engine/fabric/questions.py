"""Questions about a tree: what would violate a theorem, and how it is seen on a real machine.

A question is a condition: the theorem is violated where it holds. It speaks of groups by *cuts*.
Two nodes are in different groups exactly if the nodes can be coloured in two colours such that no
join leads from one colour to the other and the two differ. So a question needs no closure, and a
solver finds the colouring together with the machine. A question may use one cut per grouping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Protocol

from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.topology import PortKind
from dmaproof.model.pcie.trees.rules import Reading, implies


class Query(Protocol):
    """A tree, its rules and its groups, as a question sees them."""

    @property
    def reading(self) -> Reading:
        """The rules on the tree."""

    def apart(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in different groups; the same cut for all uses in a question."""

    def alone(self, grouping: str, node: int) -> Cond:
        """Whether a node is the only member of its group."""

    def together(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in one group."""

    def probed_apart(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in different groups after probing in the order looked at."""

    def probed_joins(self, grouping: str) -> tuple[tuple[int, int, Cond], ...]:
        """The joins of that order."""


Question = Callable[[Query, str], Cond]
"""Takes a query and a grouping; returns the condition under which the theorem is violated."""

QUESTIONS: dict[str, Question] = {}

PAIRWISE = frozenset(
    {"closed", "closed-virtual", "singleton-out", "pasid-path", "pasid-refused", "alias-in-group"}
)
"""Questions about two functions and nothing that is not above or beside one of them."""


def _question(name: str) -> Callable[[Question], Question]:
    def mark(question: Question) -> Question:
        QUESTIONS[name] = question
        return question

    return mark


def _torn(query: Query, grouping: str, *more: Callable[[int, int], Cond]) -> Cond:
    """Some leak leads out of its group, and *more* holds of its source and target."""
    return either(
        *(
            both(
                query.reading.leak(source, target),
                *(test(source, target) for test in more),
                query.apart(grouping, source, target),
            )
            for source, target in query.reading.pairs
        )
    )


@_question("closed")
def _closed(query: Query, grouping: str) -> Cond:
    """Every leak stays inside one group."""
    return _torn(query, grouping)


# -- the topologies of the proposal ----------------------------------------------------------------


@_question("closed-two-ports")
def _two_ports(query: Query, grouping: str) -> Cond:
    """T1: source and target are behind two downstream ports of one switch."""
    return _torn(query, grouping, lambda a, b: _across_switch(query.reading, a, b))


def _across_switch(reading: Reading, source: int, target: int) -> Cond:
    """Whether the ways up of two functions meet at an upstream port."""
    meeting = _meeting(reading, source, target)
    return reading.tree.node[meeting[0]].is_a(PortKind.UPSTREAM) if meeting[0] else False


def _meeting(reading: Reading, first: int, second: int) -> tuple[int, int, int]:
    """Return the node where two ways up meet, and the nodes below it on either way."""
    shape = reading.shape
    common = next((n for n in shape.above(first) if n in shape.above(second)), 0)
    below = (shape.branch(first, common), shape.branch(second, common))
    assert below[0] is not None and below[1] is not None
    return common, below[0], below[1]


@_question("closed-singleton")
def _singleton(query: Query, grouping: str) -> Cond:
    """T2: only the source's port is lax, and the target is alone in its group."""
    reading = query.reading

    def one_lax_port(source: int, target: int) -> Cond:
        _, mine, other = _meeting(reading, source, target)
        ports = no(reading.enabled(mine)), reading.enabled(other)
        return both(_across_switch(reading, source, target), *ports)

    return either(
        *(
            both(reading.leak(a, b), one_lax_port(a, b), query.alone(grouping, b))
            for a, b in reading.pairs
        )
    )


@_question("closed-mixed-switch")
def _mixed_switch(query: Query, grouping: str) -> Cond:
    """T9: a switch with an isolating port, a lax one, and a further lax one."""
    reading = query.reading

    def mixed(source: int, target: int) -> Cond:
        _, mine, other = _meeting(reading, source, target)
        third = (
            both(reading.tree.node[port].is_a(PortKind.DOWNSTREAM), no(reading.enabled(port)))
            for port in reading.shape.siblings(mine)
            if port != other
        )
        ports = no(reading.enabled(mine)), reading.enabled(other)
        return both(_across_switch(reading, source, target), *ports, either(*third))

    return _torn(query, grouping, mixed)


@_question("closed-device")
def _device(query: Query, grouping: str) -> Cond:
    """T3: functions of one device; the source's ACS lets it across, the target's isolates."""
    reading = query.reading

    def asymmetric(source: int, target: int) -> Cond:
        node = reading.tree.node
        physical = no(either(node[source].virtual, node[target].virtual))
        acs = no(reading.enabled(source)), reading.enabled(target)
        return both(reading.tree.device_of(source, target), physical, *acs)

    return _torn(query, grouping, asymmetric)


@_question("closed-below-function")
def _below_function(query: Query, grouping: str) -> Cond:
    """T6: the target is behind a bridge that is a function of the source's device."""
    return _torn(query, grouping, lambda a, b: _beside_bridge(query.reading, a, b))


def _beside_bridge(reading: Reading, source: int, target: int) -> Cond:
    branch = reading.shape.branch(target, reading.shape.parent(source))
    if branch is None or branch == target:
        return False
    return reading.tree.device_of(source, branch)


@_question("closed-virtual")
def _virtual(query: Query, grouping: str) -> Cond:
    """P35: a virtual function on a bus of its own, and a function of another device."""
    reading = query.reading

    def virtual_bus(source: int, target: int) -> Cond:
        return either(*(_on_own_bus(reading, node) for node in (source, target)))

    def other_device(source: int, target: int) -> Cond:
        return no(reading.tree.device_of(source, target))

    return _torn(query, grouping, virtual_bus, other_device)


@_question("closed-virtual-switch")
def _virtual_switch(query: Query, grouping: str) -> Cond:
    """T11: a virtual function on a bus of its own, and a function across a switch."""
    reading = query.reading

    def across(source: int, target: int) -> Cond:
        virtual = either(*(_on_own_bus(reading, node) for node in (source, target)))
        return both(virtual, _across_switch(reading, source, target))

    return _torn(query, grouping, across)


def _on_own_bus(reading: Reading, node: int) -> Cond:
    """Whether *node* is a virtual function on another bus number than its device."""
    tree = reading.tree
    return either(
        *(
            both(tree.node[node].virtual, tree.device_of(node, other), no(bus))
            for other in reading.shape.siblings(node)
            for bus in (tree.same_bus[min(node, other), max(node, other)],)
            if tree.node[node].virtual is not False
        )
    )


@_question("ordered-closed")
def _ordered(query: Query, grouping: str) -> Cond:
    """T8: in bus order the leak stays inside one group, in another order it does not."""
    reading = query.reading
    return either(
        *(
            both(
                reading.leak(a, b),
                query.together(grouping, a, b),
                query.probed_apart(grouping, a, b),
            )
            for a, b in reading.pairs
        )
    )


@_question("order")
def _order(query: Query, grouping: str) -> Cond:
    """P34: another order of probing makes other groups than bus order."""
    reading = query.reading
    bus_order = (
        both(condition, query.probed_apart(grouping, a, b))
        for a, b, condition in reading.joins(grouping)
    )
    other = (
        both(condition, query.apart(grouping, a, b))
        for a, b, condition in query.probed_joins(grouping)
    )
    return either(*bus_order, *other)


# -- the two algorithms side by side ---------------------------------------------------------------


def _finer(query: Query, test: Callable[[int, int], Cond]) -> Cond:
    """Some pair that Linux joins is in two groups of v3."""
    return either(
        *(
            both(condition, test(a, b), query.apart("v3", a, b))
            for a, b, condition in query.reading.linux
        )
    )


@_question("linux-inside-v3")
def _linux_inside(query: Query, grouping: str) -> Cond:
    """P31, P33: every Linux group lies in one group of v3."""
    return _finer(query, lambda a, b: True)


@_question("linux-inside-v3-below-root-port")
def _finer_root_port(query: Query, grouping: str) -> Cond:
    """T5: a multifunction device, each function isolating, below a port without capability."""
    reading = query.reading

    def below(node: int, above: int) -> Cond:
        if reading.shape.parent(node) != above:
            return False
        port, here = reading.tree.node[above], reading.tree.node[node]
        root = both(port.is_a(PortKind.ROOT_PORT), no(port.capability))
        other = either(
            *(reading.requesters(mate) for mate in reading.shape.siblings(node)),
        )
        return both(root, here.requester, here.multifunction, reading.enabled(node), other)

    return _finer(query, below)


@_question("linux-inside-v3-bridge")
def _finer_bridge(query: Query, grouping: str) -> Cond:
    """T7: a PCIe-to-PCI bridge and what is behind it."""
    reading = query.reading

    def behind(node: int, above: int) -> Cond:
        if reading.shape.parent(node) != above:
            return False
        return reading.tree.node[above].is_a(PortKind.PCIE_TO_PCI_BRIDGE)

    return _finer(query, behind)


@_question("linux-inside-v3-device")
def _finer_device(query: Query, grouping: str) -> Cond:
    """T4: functions of a device without ACS capability."""
    reading = query.reading

    def silent(first: int, second: int) -> Cond:
        return both(reading.tree.device_of(first, second), reading.requesters(first, second))

    return _finer(query, silent)


# -- PASID, singletons, aliases --------------------------------------------------------------------


def _functions(reading: Reading) -> Iterator[int]:
    yield from reading.shape.leaves


def singleton(reading: Reading, node: int) -> Cond:
    """C25: an endpoint whose way to the root isolates, itself included, without DMA alias."""
    facts = reading.tree.node[node]
    kind = facts.is_a(PortKind.ENDPOINT, PortKind.RC_INTEGRATED_ENDPOINT)
    aliases = (reading.tree.alias[node, other] for other in reading.shape.siblings(node))
    return both(kind, reading.path_enabled(node), no(either(facts.ghost, *aliases)))


@_question("singleton-out")
def _singleton_out(query: Query, grouping: str) -> Cond:
    """P22: a function that meets the conditions of an immutable singleton leaks to nobody."""
    reading = query.reading
    return either(*(both(singleton(reading, a), reading.leak(a, b)) for a, b in reading.pairs))


@_question("singleton-in")
def _singleton_in(query: Query, grouping: str) -> Cond:
    """L9: nobody leaks to a function that meets the conditions of an immutable singleton."""
    reading = query.reading
    return either(*(both(singleton(reading, b), reading.leak(a, b)) for a, b in reading.pairs))


@_question("pasid-path")
def _pasid_path(query: Query, grouping: str) -> Cond:
    """P23: a function whose path passes the PASID test lands at no peer."""
    reading = query.reading
    return either(
        *(
            both(
                reading.requesters(a, b),
                no(reading.tree.node[a].virtual),
                reading.pasid_allowed(a),
                reading.peer_to_peer(a, b),
            )
            for a, b in reading.pairs
        )
    )


@_question("pasid-untested")
def _pasid_untested(query: Query, grouping: str) -> Cond:
    """P26, mutant: a PASID function lands at no peer, with no test of its path."""
    reading = query.reading
    return either(
        *(
            both(reading.tree.node[a].pasid, reading.requesters(a, b), reading.peer_to_peer(a, b))
            for a, b in reading.pairs
        )
    )


@_question("pasid-refused")
def _pasid_refused(query: Query, grouping: str) -> Cond:
    """P26: PASID is refused wherever a port on the way up lacks RR or UF."""
    reading = query.reading
    ports = (PortKind.ROOT_PORT, PortKind.DOWNSTREAM)

    def lacks(port: int) -> Cond:
        bits = both(reading.in_force(port, "RR", 0), reading.in_force(port, "UF", 0))
        return both(reading.tree.node[port].is_a(*ports), no(bits))

    return either(
        *(
            both(reading.requesters(a), reading.pasid_allowed(a), lacks(port))
            for a in _functions(reading)
            for port in reading.shape.above(a)
        )
    )


@_question("pasid-mate")
def _pasid_mate(query: Query, grouping: str) -> Cond:
    """P30: no member without PASID capability uses what was bound for another member."""
    reading = query.reading

    def uses(mate: int, bound: int) -> Cond:
        own = both(reading.assume["prefix"], reading.identity(mate, bound))
        through = both(reading.assume["deputy"], reading.peer_to_peer(mate, bound))
        return either(own, through)

    return either(
        *(
            both(
                reading.tree.node[a].pasid,
                reading.pasid_allowed(a),
                reading.requesters(b),
                no(reading.tree.node[b].pasid),
                query.together(grouping, a, b),
                uses(b, a),
            )
            for a, b in reading.pairs
        )
    )


@_question("alias-own-id-only")
def _alias_own(query: Query, grouping: str) -> Cond:
    """P36, 2018: a bind that programs the own requester id programs all a function sends under."""
    reading = query.reading

    def others(node: int) -> Cond:
        facts, shape = reading.tree.node[node], reading.shape
        quirks = (reading.tree.alias[node, mate] for mate in shape.siblings(node))
        bridges = (reading.aliasing(port) for port in shape.above(node))
        return either(facts.ghost, *quirks, *bridges)

    return either(*(both(reading.requesters(a), others(a)) for a in _functions(reading)))


@_question("alias-in-group")
def _alias_in_group(query: Query, grouping: str) -> Cond:
    """P36, 7.0: functions that send under one requester id are in one group."""
    reading = query.reading
    return either(
        *(
            both(reading.requesters(a, b), reading.shares_id(a, b), query.apart(grouping, a, b))
            for a, b in combinations(reading.shape.leaves, 2)
        )
    )


def together(reading: Reading, grouping: str) -> Mapping[tuple[int, int], Cond]:
    """Return for each pair (lower, higher) of nodes whether joins connect them."""
    nodes = reading.shape.nodes
    linked: dict[tuple[int, int], Cond] = dict.fromkeys(combinations(nodes, 2), False)
    for first, second, condition in reading.joins(grouping):
        pair = (min(first, second), max(first, second))
        linked[pair] = either(linked[pair], condition)

    def link(a: int, b: int) -> Cond:
        return linked[min(a, b), max(a, b)]

    for middle in nodes:
        for first, second in combinations(nodes, 2):
            if middle not in {first, second}:
                way = both(link(first, middle), link(middle, second))
                linked[first, second] = either(linked[first, second], way)
    return linked


__all__ = ["QUESTIONS", "Query", "Question", "implies", "singleton", "together"]
