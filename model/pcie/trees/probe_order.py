"""Groups when devices are probed in any order.

Whoever is probed first founds a group, and the others join what they find. So a join also asks who
came before whom. The order is a condition per pair of nodes, known or a symbol, as in `rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, permutations

from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.trees.rules import Join, Reading

Before = Mapping[tuple[int, int], Cond]
"""For each ordered pair of nodes: the first is probed before the second."""


Classes = Mapping[tuple[int, int], Cond]
"""For each ordered pair of nodes of a bus: one group holds both, whoever is probed first."""


def _as_it_is(name: str, condition: Cond) -> Cond:
    return condition


@dataclass(frozen=True)
class Probing:
    """One order of probing a tree.

    Attributes:
        reading: the rules on the tree.
        before: the order.
        define: gives a condition a name of its own, which helps a solver.

    """

    reading: Reading
    before: Before
    define: Callable[[str, Cond], Cond] = _as_it_is
    _classes: dict[int, Classes] = field(default_factory=dict)

    def joins(self, grouping: str) -> tuple[Join, ...]:
        """Return the joins of ``linux`` or ``v3`` in this order.

        For ``linux`` no node may have an alias by a quirk: which aliased device is found first
        would need the whole search of the kernel.
        """
        return tuple(self._linux() if grouping == "linux" else self._v3())

    def order_axioms(self, grouping: str) -> Iterator[Cond]:
        """Yield what an order meets: it is one, and v3 defers what hangs below (EPROBE_DEFER)."""
        nodes, before = self.reading.shape.nodes, self.before
        for first, second in combinations(nodes, 2):
            yield no(both(before[first, second], before[second, first]))
            yield either(before[first, second], before[second, first])
        for first in nodes:
            for second in nodes:
                for third in nodes:
                    if len({first, second, third}) == 3:
                        chain = both(before[first, second], before[second, third])
                        yield either(no(chain), before[first, third])
        if grouping == "v3":
            for node in nodes:
                above = self.reading.shape.parent(node)
                if above:
                    yield before[above, node]
            yield from self._virtual_after_physical()
            yield from self._transitive()

    def _transitive(self) -> Iterator[Cond]:
        """Say what the definition of `Classes` implies: a solver would find out slowly."""
        for bus in (0, *self.reading.shape.nodes):
            related = self._related(bus)
            for first, second, third in permutations(self.reading.shape.children(bus), 3):
                chain = both(related[first, second], related[second, third])
                yield either(no(chain), related[first, third])

    def _virtual_after_physical(self) -> Iterator[Cond]:
        tree = self.reading.tree
        for (first, second), device in tree.same_device.items():
            for virtual, other in ((first, second), (second, first)):
                physical = both(device, tree.node[virtual].virtual, no(tree.node[other].virtual))
                yield either(no(physical), self.before[other, virtual])

    # -- Linux up to 7.0 ---------------------------------------------------------------------------

    def _gap(self, node: int) -> Cond:
        return no(self.reading.path_enabled(node))

    def _linux(self) -> Iterator[Join]:
        for node in self.reading.shape.nodes:
            found: Cond = False
            for port in self.reading.shape.above(node):
                hit = both(self._climbs_to(port), self.before[port, node])
                yield node, port, both(hit, no(found))
                found = either(found, hit)
            yield from self._friends(node, found)

    def _climbs_to(self, port: int) -> Cond:
        """Whether a device below looks at the group of *port*.

        First at every bridge that lends its id, then, above the last of them, at every port whose
        way to the root has a gap.
        """
        reading = self.reading
        lending = (reading.aliasing(other) for other in reading.shape.way_up(port))
        return both(self._gap(port), either(reading.aliasing(port), no(either(*lending))))

    def _friends(self, node: int, found: Cond) -> Iterator[Join]:
        """Look among the functions of the topmost device reached, in the order of functions."""
        reading, shape = self.reading, self.reading.shape
        for top in shape.way_up(node):
            here = no(found)
            if top != node:
                here = both(here, self._gap(top))
            parent = shape.parent(top)
            if parent:
                here = both(here, no(self._gap(parent)))
            taken: Cond = False
            for mate in shape.siblings(top):
                leaky = reading.leaky_siblings(*sorted((top, mate)))
                hit = both(leaky, self.before[mate, node])
                yield node, mate, both(here, hit, no(taken))
                taken = either(taken, hit)

    # -- the proposal of 2025 ----------------------------------------------------------------------

    def _v3(self) -> Iterator[Join]:
        """Groups above a node are whole when it is probed; on its bus it joins the first found."""
        reading, shape = self.reading, self.reading.shape
        for first, second, condition in reading.v3:
            if shape.parent(first) == second:
                yield first, second, condition
        for bus in (0, *shape.nodes):
            related = self._related(bus)
            for node in shape.children(bus):
                taken: Cond = False
                for mate in shape.siblings(node):
                    hit = both(related[node, mate], self.before[mate, node])
                    yield node, mate, both(hit, no(taken))
                    taken = either(taken, hit)

    def _related(self, bus: int) -> Classes:
        """Return the transitive closure of what puts two nodes of one bus together."""
        if bus in self._classes:
            return self._classes[bus]
        nodes = self.reading.shape.children(bus)
        linked: dict[tuple[int, int], Cond] = {}
        for first, second, condition in self.reading.v3:
            if first in nodes and second in nodes:
                linked[first, second] = linked[second, first] = condition
        for middle in nodes:
            for first, second in permutations(nodes, 2):
                if middle not in {first, second}:
                    way = both(linked[first, middle], linked[middle, second])
                    linked[first, second] = either(linked[first, second], way)
        for first, second in combinations(nodes, 2):
            named = self.define(f"related_{first}_{second}", linked[first, second])
            linked[first, second] = linked[second, first] = named
        self._classes[bus] = linked
        return linked
