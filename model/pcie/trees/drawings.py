"""Concrete settings of a shape, and the machine they make.

A `Drawing` says of every node of a shape what it is. It can be read as a `rules.Tree` of plain
truth values and be built as a `Machine` with addresses, buses and registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations

from dmaproof.model.pcie.groups_v3 import DSP_MT_RR, ENHANCED, USP_MT_RR
from dmaproof.model.pcie.topology import ACS_BITS, Acs, Bdf, Device, Machine, PortKind, Sriov
from dmaproof.model.pcie.trees import local_rules
from dmaproof.model.pcie.trees.local_rules import BRIDGES
from dmaproof.model.pcie.trees.rules import BITS, Node, Tree
from dmaproof.model.pcie.trees.shapes import Shape

_MEMORY = {"DSP_MT_RR": DSP_MT_RR, "USP_MT_RR": USP_MT_RR}
_NAMES = {
    PortKind.ROOT_PORT: "RP",
    PortKind.UPSTREAM: "USP",
    PortKind.DOWNSTREAM: "DSP",
    PortKind.PCIE_TO_PCI_BRIDGE: "BR",
    PortKind.PCI_TO_PCIE_BRIDGE: "RBR",
    PortKind.CONVENTIONAL_BRIDGE: "CBR",
}
_IDS = {
    PortKind.ROOT_PORT: (0x1B36, 0x000C),
    PortKind.UPSTREAM: (0x104C, 0x8232),
    PortKind.DOWNSTREAM: (0x104C, 0x8233),
    PortKind.PCIE_TO_PCI_BRIDGE: (0x1B36, 0x000E),
    PortKind.CONVENTIONAL_BRIDGE: (0x1B36, 0x0001),
    PortKind.CONVENTIONAL: (0x1B36, 0x0005),
}
"""Ids of QEMU's devices of each kind; no quirk knows them."""
_FUNCTION = (0x1B36, 0x0010)
PASID_WIDTH = 20


@dataclass(frozen=True)
class Setting:
    """What one node is.

    Attributes:
        kind: its kind.
        slot: nodes of a bus with one slot number are functions of one device.
        acs: its ACS registers; the egress vector is told by `redirects`.
        multifunction: the multifunction bit of its header.
        virtual: it is a virtual function of the first function of its slot that can have some.
        own_bus: a virtual function has a bus number of its own (an SR-IOV virtual bus).
        own_memory: a bridge has memory of its own.
        ghost: it uses the requester id of a function that is not there, the same on all its bus.
        aliases: nodes of the bus whose requester ids it uses.
        redirects: nodes of the bus towards which its egress vector sends requests up.
        pasid: it has a PASID capability.

    """

    kind: PortKind
    slot: int = 0
    acs: Acs | None = None
    multifunction: bool = False
    virtual: bool = False
    own_bus: bool = False
    own_memory: bool = False
    ghost: bool = False
    aliases: frozenset[int] = frozenset()
    redirects: frozenset[int] = frozenset()
    pasid: bool = False


@dataclass(frozen=True)
class Drawing:
    """A shape with a setting for each of its nodes (in the order of `Shape.nodes`)."""

    shape: Shape
    settings: tuple[Setting, ...]

    def __getitem__(self, node: int) -> Setting:
        return self.settings[node - 1]

    def one_device(self, first: int, second: int) -> bool:
        """Whether two nodes of a bus are functions of one device, virtual ones included."""
        return self[first].slot == self[second].slot

    def _several(self, node: int) -> bool:
        return any(
            self.one_device(node, other) and not self[other].virtual
            for other in self.shape.siblings(node)
        )

    def multifunction(self, node: int) -> bool:
        """Whether the kernel sees *node* as one of several functions."""
        here = self[node]
        return not here.virtual and (here.multifunction or self._several(node))

    def tree(self) -> Tree:
        """Return the drawing as a tree of plain truth values."""
        mates = [
            pair
            for node in (0, *self.shape.nodes)
            for pair in combinations(self.shape.children(node), 2)
        ]
        ordered = [*mates, *((second, first) for first, second in mates)]
        return Tree(
            shape=self.shape,
            node={node: self._node(node) for node in self.shape.nodes},
            same_device={(a, b): self.one_device(a, b) for a, b in mates},
            same_bus={(a, b): self._one_bus(a, b) for a, b in mates},
            alias={(a, b): b in self[a].aliases for a, b in ordered},
            same_ghost={(a, b): self[a].ghost and self[b].ghost for a, b in mates},
            vector={(a, b): b in self[a].redirects for a, b in ordered},
        )

    def _one_bus(self, first: int, second: int) -> bool:
        a, b = self[first], self[second]
        return a.own_bus == b.own_bus and (not a.own_bus or self.one_device(first, second))

    def _node(self, node: int) -> Node:
        here = self[node]
        acs = here.acs or Acs(0, 0)
        return Node(
            kind={here.kind: True},
            capability=here.acs is not None,
            can={name: bool(acs.capability & ACS_BITS[name]) for name in (*BITS, "EC")},
            on={name: bool(acs.control & ACS_BITS[name]) for name in (*BITS, "EC")},
            enhanced=bool(acs.capability & ENHANCED),
            memory={name: bool(acs.control & bit) for name, bit in _MEMORY.items()},
            multifunction=self.multifunction(node),
            virtual=here.virtual,
            own_memory=here.own_memory,
            ghost=here.ghost,
            pasid=here.pasid,
        )

    def machine(self, name: str) -> tuple[Machine, Mapping[int, Bdf]]:
        """Return the machine, and where each node is in it."""
        builder = _Builder(self)
        builder.lay_out()
        devices = [builder.device(node) for node in self.shape.nodes]
        return Machine(name, devices), dict(builder.place)


class _Builder:
    """Numbers buses depth first, slots and functions in the order of the nodes."""

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.shape = drawing.shape
        self.place: dict[int, Bdf] = {}
        self.buses: dict[int, tuple[int, int]] = {}
        self.next_bus = 1

    def lay_out(self) -> None:
        """Give every node an address."""
        self._bus(0, 0)
        self._virtual(0, 0)  # above all other buses: no bridge leads there

    def _bus(self, node: int, number: int) -> None:
        children = [c for c in self.shape.children(node) if not self.drawing[c].virtual]
        linked = bool(node) and self.drawing[node].kind in local_rules.ONE_SLOT
        slots = list(dict.fromkeys(self.drawing[child].slot for child in children))
        used: dict[int, int] = {}
        for child in children:
            slot = self.drawing[child].slot
            device = 0 if linked else slots.index(slot) + 1
            self.place[child] = Bdf(0, number, device, used.setdefault(slot, 0))
            used[slot] += 1
        if node:
            self._virtual(node, number)
        for child in children:
            if self.drawing[child].kind in BRIDGES:
                first = self._new_bus()
                self._bus(child, first)
                self.buses[child] = (first, self.next_bus - 1)

    def _new_bus(self) -> int:
        self.next_bus += 1
        return self.next_bus - 1

    def _virtual(self, node: int, number: int) -> None:
        """Place virtual functions: far up on their bus, or on a bus of their own."""
        virtual = [c for c in self.shape.children(node) if self.drawing[c].virtual]
        for rank, slot in enumerate(dict.fromkeys(self.drawing[child].slot for child in virtual)):
            members = [child for child in virtual if self.drawing[child].slot == slot]
            start = number << 8 | 0x80 + 16 * rank
            if self.drawing[members[0]].own_bus:
                start = self._new_bus() << 8
            for index, member in enumerate(members):
                self.place[member] = Bdf.from_rid(start + index)

    def _physical(self, node: int) -> int:
        """Return the node whose virtual function *node* is."""
        drawing = self.drawing
        return next(
            other
            for other in self.shape.siblings(node)
            if drawing.one_device(node, other)
            and not drawing[other].virtual
            and drawing[other].kind is drawing[node].kind
        )

    def _sriov(self, node: int) -> Sriov | None:
        places = sorted(
            self.place[other].rid
            for other in self.shape.siblings(node)
            if self.drawing[other].virtual and self._physical(other) == node
        )
        if not places:
            return None
        return Sriov(True, len(places), len(places), places[0] - self.place[node].rid, 1)

    def device(self, node: int) -> Device:
        """Return the device record of *node*."""
        here, bdf = self.drawing[node], self.place[node]
        vendor, ident = _IDS.get(here.kind, _FUNCTION)
        record = Device(
            bdf=bdf,
            kind=here.kind,
            vendor=vendor,
            device=ident,
            class_code=0x0604 if here.kind in BRIDGES else 0x0200,
            multifunction=here.multifunction,
            acs=self._acs(node),
            aliases=self._aliases(node),
            port_number=self._number(node),
            own_memory=here.own_memory,
            label=self._label(node),
        )
        if here.kind in BRIDGES:
            first, last = self.buses[node]
            return replace(record, header_type=1, secondary=first, subordinate=last)
        if here.pasid and not here.virtual:
            record = replace(record, pasid=PASID_WIDTH, pasid_execute=True, pasid_privileged=True)
        return replace(record, sriov=None if here.virtual else self._sriov(node))

    def _number(self, node: int) -> int:
        """Port number: the place on the bus, so that it is an index into egress vectors."""
        return self.shape.children(self.shape.parent(node)).index(node)

    def _acs(self, node: int) -> Acs | None:
        here = self.drawing[node]
        if here.acs is None:
            return None
        vector = sum(1 << self._number(other) for other in here.redirects)
        return replace(here.acs, egress=vector)

    def _aliases(self, node: int) -> frozenset[Bdf]:
        found = {self.place[other] for other in self.drawing[node].aliases}
        if self.drawing[node].ghost:
            # A slot that `_bus` never gives to a node.
            found.add(Bdf(0, self.place[node].bus, 31, 7))
        return frozenset(found)

    def _label(self, node: int) -> str:
        kinds: Iterable[PortKind] = (setting.kind for setting in self.drawing.settings)
        alike = [
            other
            for other, kind in enumerate(kinds, 1)
            if _NAMES.get(kind) == _NAMES.get(self.drawing[node].kind)
        ]
        rank = alike.index(node)
        name = _NAMES.get(self.drawing[node].kind)
        if name is None:
            return chr(ord("A") + rank)
        return name if len(alike) == 1 else f"{name}{rank + 1}"
