"""Leaks and groups of a tree whose facts may be known or symbols.

The local rules come as tables from the concrete code (`local_rules`). What is written here is how
they are strung along a tree: the way up of a request, the gaps above a port, the mark that a group
hands down. A condition is a Python bool or a z3 term. With bools the same code answers about one
machine, and is compared there with routing and grouping themselves.

Groups come as *joins*: (node, node, condition), and a group is what joins connect. Both algorithms
are given in bus order. That v3 does not depend on it is a theorem of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import combinations, product
from typing import Any

from dmaproof.model.pcie.acs import REQ_ACS_FLAGS
from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.groups_v3 import Isolation
from dmaproof.model.pcie.routing import Literals, RungKind
from dmaproof.model.pcie.topology import ACS_BITS, PortKind
from dmaproof.model.pcie.trees import local_rules
from dmaproof.model.pcie.trees.local_rules import (
    BRIDGES,
    FUNCTIONS,
    PASID_FLAGS,
    BridgeId,
    Place,
    Registers,
    Table,
)
from dmaproof.model.pcie.trees.shapes import Shape

BITS = ("SV", "RR", "CR", "UF")
MEMORY_BITS = ("DSP_MT_RR", "USP_MT_RR")


def implies(premise: Cond, conclusion: Cond) -> Cond:
    """Return that *conclusion* holds wherever *premise* does."""
    return either(no(premise), conclusion)


Fact = Mapping[Any, Cond]
"""A fact of a node: the condition under which it has each value; exactly one of them holds."""


Diagram = bool | tuple[int, tuple[tuple[tuple[Any, ...], Any], ...]]
"""A decision: an answer, or a fact (by number) and what follows for each set of its values."""


def look_up(table: Table, facts: Sequence[Fact], wanted: Callable[[Any], bool] = bool) -> Cond:
    """Return the condition under which *table* gives a wanted answer for *facts*.

    Rows that the table lacks are states that cannot be: they count as not wanted.
    """
    domains = tuple(tuple(fact) for fact in facts)
    hits = tuple(key in table and wanted(table[key]) for key in product(*domains))
    known: dict[Diagram, Cond] = {}

    def read(diagram: Diagram) -> Cond:
        if isinstance(diagram, bool):
            return diagram
        if diagram not in known:
            number, branches = diagram
            known[diagram] = either(
                *(
                    both(either(*(facts[number][value] for value in values)), read(rest))
                    for values, rest in branches
                    if rest is not False
                )
            )
        return known[diagram]

    return read(_diagram(domains, hits, 0))


@cache
def _diagram(domains: tuple[tuple[Any, ...], ...], hits: tuple[bool, ...], number: int) -> Diagram:
    """Return the shortest decision for *hits*, the answers for all of the rows in order."""
    if len(set(hits)) == 1:
        return hits[0]
    values, rows = domains[number], len(hits) // len(domains[number])
    following: dict[Diagram, list[Any]] = {}
    for index, value in enumerate(values):
        rest = _diagram(domains, hits[index * rows : (index + 1) * rows], number + 1)
        following.setdefault(rest, []).append(value)
    if len(following) == 1:
        return next(iter(following))
    return number, tuple((tuple(alike), rest) for rest, alike in following.items())


def flag(condition: Cond) -> Fact:
    """Return a condition as a fact with the values True and False."""
    return {True: condition, False: no(condition)}


def _holds(member: RungKind) -> Callable[[Any], bool]:
    def test(members: Any) -> bool:  # noqa: ANN401
        return member in members

    return test


@dataclass(frozen=True)
class Node:
    """What is known of one node of a tree.

    Attributes:
        kind: its kind.
        capability: it has an ACS capability.
        can: ACS bits that its capability has, by letter; EC among them.
        on: ACS bits that are on.
        enhanced: its capability has ACS Enhanced.
        memory: enhanced control bits that are on, by name.
        multifunction: as the kernel sees it.
        virtual: it is an SR-IOV virtual function.
        own_memory: it is a bridge with memory of its own.
        ghost: it uses the requester id of a function that is not there.
        pasid: it has a PASID capability.

    """

    kind: Fact
    capability: Cond
    can: Mapping[str, Cond]
    on: Mapping[str, Cond]
    enhanced: Cond
    memory: Mapping[str, Cond]
    multifunction: Cond
    virtual: Cond
    own_memory: Cond
    ghost: Cond
    pasid: Cond

    def is_a(self, *kinds: PortKind) -> Cond:
        """Whether its kind is one of *kinds*."""
        return either(*(self.kind[kind] for kind in kinds if kind in self.kind))

    @property
    def requester(self) -> Cond:
        """Whether it starts requests of its own."""
        return self.is_a(*FUNCTIONS)

    def set(self, *names: str) -> Cond:
        """Whether a flags test finds these bits set: on, or not implemented (EC left out)."""
        base = [either(no(self.can[name]), self.on[name]) for name in names if name in BITS]
        more = [
            either(no(self.enhanced), self.memory[name]) for name in names if name in MEMORY_BITS
        ]
        return both(*base, *more)


@dataclass(frozen=True)
class Tree:
    """A shape and what is known of its nodes.

    Attributes:
        shape: the tree.
        node: facts of each node.
        same_device: whether two nodes of a bus are functions of one device; VFs count to their
            physical function's. Keys are (lower, higher).
        same_bus: whether two nodes below one port have one bus number (VFs may not).
        alias: whether the first of two nodes on a bus uses the requester id of the second.
        same_ghost: whether two nodes use one requester id of a function that is not there.
        vector: whether the egress vector of the first sends requests for the second up.

    """

    shape: Shape
    node: Mapping[int, Node]
    same_device: Mapping[tuple[int, int], Cond]
    same_bus: Mapping[tuple[int, int], Cond]
    alias: Mapping[tuple[int, int], Cond]
    same_ghost: Mapping[tuple[int, int], Cond]
    vector: Mapping[tuple[int, int], Cond]

    def device_of(self, first: int, second: int) -> Cond:
        """Whether two nodes are functions of one device."""
        return self.same_device.get((min(first, second), max(first, second)), False)


Join = tuple[int, int, Cond]


@dataclass
class Reading:
    """The rules, read on one tree.

    Attributes:
        tree: the tree and its facts.
        assume: the fabric's assumptions by name (`channels.PERMISSIVE` has them all).

    """

    tree: Tree
    assume: Mapping[str, Cond]
    _memory: dict[tuple[Any, ...], Cond] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """The tree without its facts."""
        return self.tree.shape

    def _registers(self, node: int, *names: str) -> Fact:
        facts = self.tree.node[node]
        all_set = facts.set(*names)
        return {
            Registers.NONE: no(facts.capability),
            Registers.SET: both(facts.capability, all_set),
            Registers.CLEAR: both(facts.capability, no(all_set)),
        }

    def _kept(self, key: tuple[Any, ...], make: Callable[[], Cond]) -> Cond:
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    # -- ACS ---------------------------------------------------------------------------------------

    def enabled(self, node: int, flags: int = REQ_ACS_FLAGS) -> Cond:
        """`acs.pci_acs_enabled`."""

        def make() -> Cond:
            facts = self.tree.node[node]
            names = [name for name in BITS if ACS_BITS[name] & flags]
            known = [facts.kind, flag(facts.multifunction), self._registers(node, *names)]
            return look_up(local_rules.acs_enabled(flags), known)

        return self._kept(("enabled", node, flags), make)

    def path_enabled(self, node: int, flags: int = REQ_ACS_FLAGS) -> Cond:
        """`acs.pci_acs_path_enabled`."""
        return both(*(self.enabled(at, flags) for at in self.shape.way_up(node)))

    def in_force(self, at: int, bit: str, towards: int) -> Cond:
        """`routing.MachineAcs.in_force` for a target at or below the node *towards* on the bus."""
        facts = self.tree.node[at]
        vector = self.tree.vector.get((at, towards), False)
        known = [facts.capability, facts.can[bit], facts.on[bit], facts.can["EC"], facts.on["EC"]]
        return look_up(local_rules.in_force(bit), [flag(c) for c in (*known, vector)])

    # -- routing -----------------------------------------------------------------------------------

    def peer_to_peer(self, source: int, target: int) -> Cond:
        """Whether a request of *source* can land at *target* without passing the IOMMU."""
        ways = (self._leaves(at, target) for at in self.shape.way_up(source))
        return either(*ways)

    def _leaves(self, at: int, target: int) -> Cond:
        """Whether a request that climbs through *at* can leave its way up there."""
        branch = self.shape.branch(target, self.shape.parent(at))
        if branch is None and self.shape.parent(at) != 0:
            return self._open(at, 0, Place.ELSEWHERE)
        if branch == at:
            return self._open(at, 0, Place.BELOW)
        towards = branch or 0
        device = self.tree.device_of(at, towards)
        return either(
            both(device, self._open(at, towards, Place.SAME_DEVICE)),
            both(no(device), self._open(at, towards, Place.SAME_BUS)),
        )

    def _open(self, at: int, towards: int, place: Place) -> Cond:
        def make() -> Cond:
            above = self.shape.parent(at)
            up: Fact = self.tree.node[above].kind if above else {None: True}
            known = [self.tree.node[at].kind, up, {place: True}]
            ways = []
            for rung in RungKind:
                met = look_up(local_rules.rungs(), known, _holds(rung))
                if met is not False:
                    ways.append(both(met, self._lets_through(at, towards, rung)))
            return either(*ways)

        return self._kept(("open", at, towards, place), make)

    def _lets_through(self, at: int, towards: int, rung: RungKind) -> Cond:
        bit = local_rules.bit_of(rung)
        closed = self.in_force(at, bit, towards) if bit else False
        present = self.tree.node[at].capability
        return either(
            *(
                both(flag(present)[has], flag(closed)[stops], self._granted(needs))
                for has, stops, needs in local_rules.opened_by()[rung]
            )
        )

    def _granted(self, needs: Literals) -> Cond:
        return both(*(flag(self.assume[name])[value] for name, value in sorted(needs)))

    # -- identity ----------------------------------------------------------------------------------

    def aliasing(self, node: int, *ids: BridgeId) -> Cond:
        """Whether *node* is a bridge that sends under another id than the sender's.

        Args:
            node: the bridge.
            ids: which ids count; default all but the sender's.

        """
        wanted = ids or (BridgeId.OWN, BridgeId.BEHIND)
        return look_up(local_rules.bridge_id(), [self.tree.node[node].kind], wanted.__contains__)

    def shares_id(self, first: int, second: int) -> Cond:
        """Whether two functions can send under one requester id: by a bridge or by a quirk."""
        alias, shape = self.tree.alias, self.shape
        bridges = set(shape.above(first)) & set(shape.above(second))
        third = (
            both(alias.get((first, other), False), alias.get((second, other), False))
            for other in shape.siblings(first)
        )
        # A quirk may name a bridge that lends its own id to what is below.
        lent = (
            both(alias.get((one, bridge), False), self.aliasing(bridge, BridgeId.OWN))
            for one, other in ((first, second), (second, first))
            for bridge in shape.above(other)
            if bridge in shape.siblings(one)
        )
        pair = (min(first, second), max(first, second))
        return either(
            *(self.aliasing(bridge) for bridge in sorted(bridges)),
            alias.get((first, second), False),
            alias.get((second, first), False),
            *third,
            *lent,
            self.tree.same_ghost.get(pair, False),
        )

    def spoofs(self, source: int, owner: int) -> Cond:
        """Whether *source* can put the requester id of *owner* into its requests."""
        if self.assume["spoof"] is False:
            return False
        shape, node = self.shape, self.tree.node
        up = shape.above(source)
        rewritten = either(*(self.aliasing(port) for port in up))
        link = {port: node[port].is_a(PortKind.ROOT_PORT, PortKind.DOWNSTREAM) for port in up}
        range_ok = both(
            *(
                no(both(link[port], self.in_force(port, "SV", 0)))
                for port in up
                if port not in shape.above(owner)
            )
        )
        device = self.tree.device_of(source, owner)
        honest = both(device, self.assume["mfd_rid_honest"])
        linked = either(device, *link.values())
        return both(self.assume["spoof"], no(rewritten), range_ok, no(honest), linked)

    def identity(self, source: int, owner: int) -> Cond:
        """Whether requests of *source* can carry a requester id of *owner*."""
        return either(self.shares_id(source, owner), self.spoofs(source, owner))

    def requesters(self, *nodes: int) -> Cond:
        """Whether all of *nodes* start requests of their own."""
        return both(*(self.tree.node[node].requester for node in nodes))

    def leak(self, source: int, target: int) -> Cond:
        """Whether some leak channel leads from the function *source* to the function *target*."""

        def make() -> Cond:
            lands = both(self.assume["deputy"], self.peer_to_peer(source, target))
            edge = either(self.identity(source, target), lands)
            return both(self.requesters(source, target), edge)

        return self._kept(("leak", source, target), make)

    @property
    def pairs(self) -> Iterator[tuple[int, int]]:
        """Ordered pairs of nodes that can both be functions."""
        for first, second in combinations(self.shape.leaves, 2):
            yield first, second
            yield second, first

    # -- groups ------------------------------------------------------------------------------------

    def _mates(self) -> Iterator[tuple[int, int]]:
        """Pairs of nodes below one port."""
        for node in (0, *self.shape.nodes):
            yield from combinations(self.shape.children(node), 2)

    @property
    def joinable(self) -> Iterator[tuple[int, int]]:
        """Pairs that a grouping can join directly: a node and the port above, nodes of a bus."""
        for node in self.shape.nodes:
            if self.shape.parent(node):
                yield node, self.shape.parent(node)
        yield from self._mates()

    def _slot(self, first: int, second: int) -> Cond:
        node = self.tree.node
        virtual = either(node[first].virtual, node[second].virtual)
        return both(self.tree.device_of(first, second), no(virtual))

    def _aliases(self, first: int, second: int) -> Cond:
        alias = self.tree.alias
        return either(alias.get((first, second), False), alias.get((second, first), False))

    def leaky_siblings(self, first: int, second: int) -> Cond:
        """`get_pci_function_alias_group`: functions of a slot, neither of which isolates."""
        node = self.tree.node
        lax = (no(self.enabled(one)) for one in (first, second))
        several = both(node[first].multifunction, node[second].multifunction)
        return both(self._slot(first, second), several, *lax)

    @cached_property
    def linux(self) -> tuple[Join, ...]:
        """`groups.LinuxGrouping` in bus order.

        Every port is grouped before what is below it. So a gap anywhere above joins a node to its
        port, and alias bridges are gaps; without one, aliases and leaky siblings are left.
        """
        found: list[Join] = []
        for node in self.shape.nodes:
            above = self.shape.parent(node)
            if above:
                found.append((node, above, no(self.path_enabled(above))))
        for first, second in self._mates():
            related = either(self._aliases(first, second), self.leaky_siblings(first, second))
            found.append((first, second, related))
        return tuple(found)

    def isolation(self, port: int, *wanted: Isolation) -> Cond:
        """Whether `groups_v3.bus_isolation` of the bus behind *port* is one of *wanted*."""
        facts = self.tree.node[port]
        registers = self._registers(port, *BITS, "DSP_MT_RR")
        known = [{k: c for k, c in facts.kind.items() if k in BRIDGES}, registers]
        known.append(flag(facts.own_memory))
        table = local_rules.v3_bridge()
        bridge = look_up(table, known, lambda answer: answer in wanted)
        by_ports = look_up(table, known, lambda answer: answer is None)
        return either(bridge, both(by_ports, self._switch(port, wanted)))

    def _switch(self, port: int, wanted: tuple[Isolation, ...]) -> Cond:
        """What the first member that spoils the switch makes of it."""
        result: Cond = Isolation.ISOLATED in wanted
        table = local_rules.v3_switch_member()
        for member in reversed(self.shape.children(port)):
            known = self._switch_facts(member)
            spoils = look_up(table, known, lambda answer: answer is not None)
            hits = look_up(table, known, lambda answer: answer in wanted)
            # Members on a bus of their own (virtual functions) are not looked at.
            counted = no(self.tree.node[member].virtual)
            result = either(both(counted, hits), both(no(both(counted, spoils)), result))
        return result

    def _switch_facts(self, member: int) -> list[Fact]:
        facts = self.tree.node[member]
        has, all_set = facts.capability, facts.set(*BITS, *MEMORY_BITS)
        own = facts.set("USP_MT_RR")
        registers = {
            Registers.NONE: no(has),
            Registers.SET: both(has, all_set),
            Registers.OWN_ONLY: both(has, no(all_set), own),
            Registers.CLEAR: both(has, no(all_set), no(own)),
        }
        others = (self.tree.alias.get((member, o), False) for o in self.shape.siblings(member))
        return [facts.kind, flag(either(facts.ghost, *others)), registers]

    def v3_related(self, first: int, second: int) -> Cond:
        """Whether two nodes of a bus are in one `pci_reachable_set` directly."""
        node = self.tree.node
        facts = [flag(self.tree.device_of(first, second))]
        facts += [flag(node[one].virtual) for one in (first, second)]
        facts += [flag(node[one].multifunction) for one in (first, second)]
        facts += [flag(self.lax(one)) for one in (first, second)]
        share = look_up(local_rules.v3_share(), facts)
        return either(self._aliases(first, second), share)

    def lax(self, node: int) -> Cond:
        """`groups_v3.may_loop_back`."""
        facts = self.tree.node[node]
        known = [facts.kind, flag(facts.multifunction), self._registers(node, *BITS)]
        return self._kept(("lax", node), lambda: look_up(local_rules.v3_lax(), known))

    def marked(self, node: int) -> Cond:
        """Whether v3 marks the group of *node*: all that is below shares it."""

        def make() -> Cond:
            above = self.shape.parent(node)
            related = (self.v3_related(*sorted((node, o))) for o in self.shape.siblings(node))
            if not above:
                return either(*related)
            spoilt = self.isolation(above, *(i for i in Isolation if i is not Isolation.ISOLATED))
            return either(self.marked(above), spoilt, *related)

        return self._kept(("marked", node), make)

    @cached_property
    def v3(self) -> tuple[Join, ...]:
        """`groups_v3.V3Grouping`."""
        found: list[Join] = []
        for node in self.shape.nodes:
            above = self.shape.parent(node)
            if above:
                bridge = self.isolation(above, *(i for i in Isolation if i.joins_bridge))
                found.append((node, above, either(self.marked(above), bridge)))
        for first, second in self._mates():
            above = self.shape.parent(first)
            bus: Cond = False
            if above:
                shared = self.isolation(above, Isolation.PCI_BUS, Isolation.SWITCH_PORTS)
                bus = both(shared, self.tree.same_bus[first, second])
            found.append((first, second, either(bus, self.v3_related(first, second))))
        return tuple(found)

    def joins(self, grouping: str) -> tuple[Join, ...]:
        """The joins of ``linux`` or ``v3``."""
        return self.linux if grouping == "linux" else self.v3

    def pasid_allowed(self, node: int) -> Cond:
        """`acs.pasid_path_ok` of a function that is no virtual function."""
        return self.path_enabled(node, PASID_FLAGS)
