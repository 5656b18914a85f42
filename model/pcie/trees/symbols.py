"""A shape whose facts are symbols: one z3 formula speaks of every machine of that shape.

Kinds, slots, ACS capability and control bits, multifunction flags, SR-IOV, aliases and memory of
bridges are Boolean constants; `Symbols.axioms` keeps them to what a PCIe tree can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import Any

import z3

from dmaproof.model.pcie.conditions import Cond, both, either, no
from dmaproof.model.pcie.groups_v3 import DSP_MT_RR, ENHANCED, USP_MT_RR
from dmaproof.model.pcie.topology import ACS_BITS, Acs, PortKind
from dmaproof.model.pcie.trees.drawings import Drawing, Setting
from dmaproof.model.pcie.trees.local_rules import BELOW, BRIDGES, KINDS, ONE_SLOT
from dmaproof.model.pcie.trees.rules import BITS, MEMORY_BITS, Node, Tree, implies
from dmaproof.model.pcie.trees.shapes import Shape

PHYSICAL = (PortKind.ENDPOINT, PortKind.RC_INTEGRATED_ENDPOINT)
"""Kinds that can have virtual functions, and be some."""
LETTERS = (*BITS, "EC")


@dataclass
class Symbols:
    """The symbols of one shape.

    Attributes:
        shape: the tree.
        context: z3 context of all terms.

    """

    shape: Shape
    context: z3.Context
    _own_bus: dict[int, Cond] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tree = self._tree()
        self.axioms: tuple[Cond, ...] = tuple(a for a in self._axioms() if a is not True)

    def symbol(self, name: str, *nodes: int) -> z3.BoolRef:
        """Return the Boolean constant *name* of *nodes*."""
        text = "_".join([name, *map(str, nodes)])
        return z3.Bool(text, self.context)

    def _kinds(self, node: int) -> tuple[PortKind, ...]:
        above = self.shape.parent(node)
        inner = {kind for bridge, kinds in BELOW.items() if bridge is not None for kind in kinds}
        allowed = set(BELOW[None]) if not above else inner
        if self.shape.children(node):
            allowed &= set(BRIDGES)
        return tuple(kind for kind in KINDS if kind in allowed)

    def _node(self, node: int) -> Node:
        def name(text: str) -> z3.BoolRef:
            return self.symbol(text, node)

        kinds = {kind: name(f"is-{kind}") for kind in self._kinds(node)}
        leaf = not self.shape.children(node)
        bridge = either(*(term for kind, term in kinds.items() if kind in BRIDGES))
        physical = any(kind in kinds for kind in PHYSICAL)
        virtual = name("virtual") if leaf and physical and self.shape.siblings(node) else False
        self._own_bus[node] = both(virtual, name("own-bus"))
        return Node(
            kind=kinds,
            capability=name("acs"),
            can={bit: name(f"can-{bit}") for bit in LETTERS},
            on={bit: name(f"on-{bit}") for bit in LETTERS},
            enhanced=name("enhanced"),
            memory={bit: name(f"on-{bit}") for bit in MEMORY_BITS},
            multifunction=name("multifunction"),
            virtual=virtual,
            own_memory=both(bridge, name("own-memory")),
            ghost=name("ghost"),
            pasid=name("pasid"),
        )

    def _mates(self) -> Iterator[tuple[int, int]]:
        for node in (0, *self.shape.nodes):
            yield from combinations(self.shape.children(node), 2)

    def _tree(self) -> Tree:
        node = {number: self._node(number) for number in self.shape.nodes}
        mates = list(self._mates())
        ordered = [*mates, *((b, a) for a, b in mates)]
        device = {pair: self.symbol("one-device", *pair) for pair in mates}
        own = self._own_bus
        return Tree(
            shape=self.shape,
            node=node,
            same_device=device,
            same_bus={
                (a, b): either(both(no(own[a]), no(own[b])), both(own[a], own[b], device[a, b]))
                for a, b in mates
            },
            alias={pair: self.symbol("alias", *pair) for pair in ordered},
            same_ghost={(a, b): both(node[a].ghost, node[b].ghost) for a, b in mates},
            vector={pair: self.symbol("vector", *pair) for pair in ordered},
        )

    # -- what a tree of PCIe can be ----------------------------------------------------------------

    def _axioms(self) -> Iterator[Cond]:
        for node in self.shape.nodes:
            yield from self._of_node(node)
        for bus in (0, *self.shape.nodes):
            yield from self._of_bus(bus)

    def _of_node(self, node: int) -> Iterator[Cond]:
        facts, above = self.tree.node[node], self.shape.parent(node)
        kinds = list(facts.kind.values())
        yield either(*kinds)
        yield from (no(both(one, other)) for one, other in combinations(kinds, 2))
        if above:
            for bridge, term in self.tree.node[above].kind.items():
                yield implies(term, facts.is_a(*BELOW[bridge]))
        express = facts.is_a(*(kind for kind in KINDS if kind.is_pcie))
        yield implies(facts.capability, express)
        yield implies(facts.pasid, both(facts.is_a(*PHYSICAL), no(facts.virtual)))
        yield implies(facts.can["EC"], facts.is_a(PortKind.ROOT_PORT, PortKind.DOWNSTREAM))
        yield from self._of_virtual(node)

    def _of_virtual(self, node: int) -> Iterator[Cond]:
        facts, tree = self.tree.node[node], self.tree
        if facts.virtual is False:
            return
        owners = (
            both(
                no(tree.node[other].virtual),
                tree.device_of(node, other),
                *(
                    implies(facts.kind[kind], tree.node[other].is_a(kind))
                    for kind in PHYSICAL
                    if kind in facts.kind
                ),
            )
            for other in self.shape.siblings(node)
        )
        quirks = [facts.multifunction, facts.ghost]
        for other in self.shape.siblings(node):
            quirks += [tree.alias[node, other], tree.alias[other, node]]
        yield implies(facts.virtual, both(facts.is_a(*PHYSICAL), either(*owners)))
        yield implies(facts.virtual, no(either(*quirks)))

    def _of_bus(self, bus: int) -> Iterator[Cond]:
        tree, children = self.tree, self.shape.children(bus)
        linked = tree.node[bus].is_a(*ONE_SLOT) if bus else False
        for first, second in combinations(children, 2):
            device = tree.same_device[first, second]
            yield implies(linked, device)
            one, two = tree.node[first], tree.node[second]
            several = both(device, no(one.virtual), no(two.virtual))
            yield implies(several, both(one.multifunction, two.multifunction))
            mine, other = self._own_bus[first], self._own_bus[second]
            alike = either(both(mine, other), both(no(mine), no(other)))
            yield implies(both(device, one.virtual, two.virtual), alike)
        for a, b, c in permutations(children, 3):
            if a < c:
                chain = both(tree.device_of(a, b), tree.device_of(b, c))
                yield implies(chain, tree.device_of(a, c))

    # -- from a model to a machine -----------------------------------------------------------------

    def drawing(self, model: z3.ModelRef) -> Drawing:
        """Return the settings that *model* describes."""

        def true(condition: Cond) -> bool:
            if isinstance(condition, bool):
                return condition
            return bool(z3.is_true(model.eval(condition, model_completion=True)))

        settings = tuple(self._setting(node, true) for node in self.shape.nodes)
        return Drawing(self.shape, settings)

    def _setting(self, node: int, true: Any) -> Setting:  # noqa: ANN401
        facts, tree = self.tree.node[node], self.tree
        mates = self.shape.siblings(node)
        slot = min([node, *(other for other in mates if true(tree.device_of(node, other)))])
        kind = next(kind for kind, term in facts.kind.items() if true(term))
        return Setting(
            kind=kind,
            slot=slot,
            acs=self._acs(facts, true) if true(facts.capability) else None,
            multifunction=true(facts.multifunction),
            virtual=true(facts.virtual),
            own_bus=true(self._own_bus[node]),
            own_memory=true(facts.own_memory),
            ghost=true(facts.ghost),
            aliases=frozenset(other for other in mates if true(tree.alias[node, other])),
            redirects=frozenset(other for other in mates if true(tree.vector[node, other])),
            pasid=true(facts.pasid),
        )

    @staticmethod
    def _acs(facts: Node, true: Any) -> Acs:  # noqa: ANN401
        capability = sum(ACS_BITS[bit] for bit in LETTERS if true(facts.can[bit]))
        control = sum(ACS_BITS[bit] for bit in LETTERS if true(facts.on[bit]))
        memory = {"DSP_MT_RR": DSP_MT_RR, "USP_MT_RR": USP_MT_RR}
        control |= sum(bit for name, bit in memory.items() if true(facts.memory[name]))
        return Acs(capability | (ENHANCED if true(facts.enhanced) else 0), control)
