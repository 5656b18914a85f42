"""Replay of what z3 found, on the machine it describes, by the rules that read real machines.

Nothing of the symbolic reading of the rules is used: groups come from the grouping algorithms,
edges from the leak channels, ACS answers from the kernel's questions. What does not replay is no
refutation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from dmaproof.engine.fabric.conditions import CONDITIONS, holds
from dmaproof.engine.fabric.questions import QUESTIONS
from dmaproof.engine.fabric.theorems import ShapeTheorem
from dmaproof.engine.fabric.workbench import Example
from dmaproof.model.pcie import acs, groups
from dmaproof.model.pcie.channels import Edge, Fabric
from dmaproof.model.pcie.conditions import Cond
from dmaproof.model.pcie.groups import LinuxGrouping, group_of
from dmaproof.model.pcie.groups_v3 import V3Grouping
from dmaproof.model.pcie.routing import MachineAcs
from dmaproof.model.pcie.topology import Bdf, Machine
from dmaproof.model.pcie.trees.local_rules import BridgeId
from dmaproof.model.pcie.trees.rules import Join, Reading

_GROUPING = {"linux": LinuxGrouping, "v3": V3Grouping}


class MachineReading(Reading):
    """The rules as the concrete code answers them about one machine."""

    def __init__(self, example: Example, assume: Mapping[str, bool]) -> None:
        drawing = example.drawing
        super().__init__(drawing.tree(), assume)
        self.machine, self.place = drawing.machine("counterexample")
        self._acs = MachineAcs(self.machine)
        self.fabric = Fabric(self.machine)
        self._p2p = self.fabric.p2p(assume)
        self._identity = self.fabric.identity(assume)
        self.home = {name: self._homes(name, ()) for name in _GROUPING}
        order = tuple(self.place[node] for node in example.order)
        self.probed = {name: self._homes(name, order) for name in _GROUPING}

    def _homes(self, grouping: str, order: tuple[Bdf, ...]) -> dict[Bdf, int]:
        return group_of(_GROUPING[grouping](self.machine, order).run())

    def enabled(self, node: int, flags: int = acs.REQ_ACS_FLAGS) -> Cond:
        """`acs.pci_acs_enabled`."""
        return acs.pci_acs_enabled(self.machine, self.machine.device(self.place[node]), flags)

    def path_enabled(self, node: int, flags: int = acs.REQ_ACS_FLAGS) -> Cond:
        """`acs.pci_acs_path_enabled`."""
        return acs.pci_acs_path_enabled(self.machine, self.place[node], flags)

    def pasid_allowed(self, node: int) -> Cond:
        """`acs.pasid_path_ok`."""
        return acs.pasid_path_ok(self.machine, self.place[node])

    def in_force(self, at: int, bit: str, towards: int) -> Cond:
        """`routing.MachineAcs.in_force`."""
        target = self.place[towards] if towards else None
        return self._acs.in_force(self.place[at], bit, target)

    def requesters(self, *nodes: int) -> Cond:
        """`Device.is_requester`."""
        return all(self.machine.device(self.place[node]).is_requester for node in nodes)

    def peer_to_peer(self, source: int, target: int) -> Cond:
        """`Fabric.p2p`."""
        return self._p2p.has_edge(self.place[source], self.place[target])

    def aliasing(self, node: int, *ids: BridgeId) -> Cond:
        """`groups.bridge_alias`, whatever id it is."""
        device = self.machine.device(self.place[node])
        return device.is_bridge and groups.bridge_alias(self.machine, device) is not None

    def shares_id(self, first: int, second: int) -> Cond:
        """Whether `groups.dma_aliases` of the two have an id in common."""
        ids = (
            {alias for _, alias in groups.dma_aliases(self.machine, self.place[node])}
            for node in (first, second)
        )
        return not set.isdisjoint(*ids)

    def identity(self, source: int, owner: int) -> Cond:
        """`Fabric.identity`."""
        return self._identity.has_edge(self.place[source], self.place[owner])

    def joins(self, grouping: str) -> tuple[Join, ...]:
        """Pairs that the algorithm puts into one group."""
        return self.same(self.home[grouping])

    @cached_property
    def linux(self) -> tuple[Join, ...]:
        """Pairs that Linux puts into one group."""
        return self.same(self.home["linux"])

    def same(self, home: Mapping[Bdf, int]) -> tuple[Join, ...]:
        """Pairs of neighbours with whether they have one *home*."""
        return tuple((a, b, home[self.place[a]] == home[self.place[b]]) for a, b in self.joinable)


class MachineQuery:
    """What a question asks, answered by a machine."""

    def __init__(self, reading: MachineReading) -> None:
        self._reading = reading

    @property
    def reading(self) -> Reading:
        """The rules on the machine."""
        return self._reading

    def _same(self, home: Mapping[Bdf, int], first: int, second: int) -> bool:
        place = self._reading.place
        return home[place[first]] == home[place[second]]

    def apart(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in different groups."""
        return not self._same(self._reading.home[grouping], first, second)

    def alone(self, grouping: str, node: int) -> Cond:
        """Whether a node is the only member of its group."""
        home = self._reading.home[grouping]
        return list(home.values()).count(home[self._reading.place[node]]) == 1

    def together(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in one group."""
        return not self.apart(grouping, first, second)

    def probed_apart(self, grouping: str, first: int, second: int) -> Cond:
        """Whether two nodes are in different groups after probing in the example's order."""
        return not self._same(self._reading.probed[grouping], first, second)

    def probed_joins(self, grouping: str) -> tuple[Join, ...]:
        """Pairs that this order puts into one group."""
        return self._reading.same(self._reading.probed[grouping])


@dataclass(frozen=True)
class Counterexample:
    """A machine that violates a theorem, replayed.

    Attributes:
        machine: the machine.
        order: the order of probing that it needs; () for bus order.
        groups: its groups by the theorem's grouping.
        leaks: leaks between groups: (source, target, chain of edges).

    """

    machine: Machine
    order: tuple[Bdf, ...]
    groups: tuple[tuple[Bdf, ...], ...]
    leaks: tuple[tuple[Bdf, Bdf, tuple[Edge, ...]], ...]


def confirm(theorem: ShapeTheorem, example: Example) -> Counterexample | None:
    """Return what *example* shows, None if it does not violate *theorem* after all."""
    reading = MachineReading(example, theorem.assume)
    query = MachineQuery(reading)
    conditions = (holds(name, reading) for name in theorem.where if name in CONDITIONS)
    violated = QUESTIONS[theorem.question](query, theorem.grouping)
    if violated is not True or not all(met is True for met in conditions):
        return None
    home = (reading.probed if example.order else reading.home)[theorem.grouping]
    members: dict[int, list[Bdf]] = {}
    for bdf, group in sorted(home.items()):
        members.setdefault(group, []).append(bdf)
    machine = Machine(theorem.id, reading.machine.devices)
    fabric, assume = reading.fabric, theorem.assume
    return Counterexample(
        machine=machine,
        order=tuple(reading.place[node] for node in example.order),
        groups=tuple(tuple(inside) for inside in members.values()),
        leaks=tuple(
            (source, target, tuple(fabric.witness(source, target, assume)))
            for source, target in sorted(fabric.crossings(home, assume))
        ),
    )
