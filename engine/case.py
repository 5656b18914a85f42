"""A machine under assumptions, as facts of the rule layer.

The fabric's edges come from networkx; premises are asked of the one or two functions that an edge
joins, because every premise speaks of pairs. So a machine with thousands of functions costs no more
than its kinds of pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import networkx as nx

from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.worlds import World
from dmaproof.model.logic.sets import holds
from dmaproof.model.pcie.acs import pasid_path_ok
from dmaproof.model.pcie.channels import Edge, Fabric
from dmaproof.model.pcie.device import Bdf, Device
from dmaproof.model.pcie.groups import Group, group_of, groups
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise

Pair = tuple[Bdf, ...]


@dataclass(frozen=True)
class Chain:
    """Functions of a machine that a search is about, in the order of a leak path.

    Attributes:
        functions: the first acts as the last; single or unrelated functions form chains too.
        edges: the edges along the path (none if there is no path).
    """

    functions: Pair
    edges: tuple[Edge, ...] = ()


class Case:
    """One machine, one grouping, one set of assumptions, for designs with or without ATS."""

    def __init__(
        self, machine: Machine, grouping: str, assumptions: Assumptions, *, ats: bool
    ) -> None:
        self.machine = machine
        self.grouping = grouping
        self.assumptions = assumptions
        self.ats = ats
        self.fabric = Fabric(machine)
        self._broken: dict[tuple[Premise, str, bool], Pair | None] = {}

    @cached_property
    def acts(self) -> nx.DiGraph:
        """acts(f, h), reflexive."""
        return self.fabric.acts(self.assumptions.fabric())

    @cached_property
    def p2p(self) -> nx.DiGraph:
        """p2p(f, g)."""
        return self.fabric.p2p(self.assumptions.fabric())

    @cached_property
    def influence(self) -> nx.DiGraph:
        """The deputies of each function, itself included."""
        return self.fabric.influence(self.assumptions.fabric())

    @cached_property
    def identity(self) -> nx.DiGraph:
        """Whose requester id a function's requests can carry, by spoofing or as an alias."""
        return self.fabric.identity(self.assumptions.fabric())

    @cached_property
    def groups(self) -> list[Group]:
        """The groups, by the chosen algorithm."""
        return groups(self.machine, self.grouping, self.assumptions.fabric())

    @cached_property
    def group_of(self) -> dict[Bdf, int]:
        """Group id of every device."""
        return group_of(self.groups)

    @cached_property
    def functions(self) -> tuple[Device, ...]:
        """The functions that can issue requests."""
        return self.machine.functions

    @cached_property
    def _mates(self) -> dict[int, list[Bdf]]:
        mates: dict[int, list[Bdf]] = {}
        for group in self.groups:
            mates[group.id] = list(group.members)
        return mates

    @cached_property
    def _path_ok(self) -> dict[Bdf, bool]:
        return {d.bdf: pasid_path_ok(self.machine, d.bdf) for d in self.functions}

    def name(self, function: Bdf) -> str:
        """How a trace calls a function."""
        return self.machine.device(function).label or str(function)

    def group_name(self, group: int) -> str:
        """How a trace calls a group."""
        return f"group {group}"

    def mates(self, function: Bdf) -> list[Bdf]:
        """The functions of a function's group, itself included."""
        members = self._mates[self.group_of[function]]
        known = {d.bdf for d in self.functions}
        return [m for m in members if m in known]

    # -- worlds -----------------------------------------------------------------------------

    def world(self, chosen: Iterable[Bdf], absent: frozenset[Bdf] = frozenset()) -> World:
        """The facts about some functions; a group with further members counts as crowded."""
        functions = tuple(chosen)
        inside = set(functions)
        names = {f: self.name(f) for f in functions}
        groups = {self.group_of[f] for f in functions}
        devices = {f: self.machine.device(f) for f in functions}
        pairs = [(f, h) for f in functions for h in functions if f != h]
        return World(
            functions=tuple(names[f] for f in functions),
            groups={names[f]: self.group_name(self.group_of[f]) for f in functions},
            influence=frozenset(
                (names[f], names[h]) for f, h in pairs if self.influence.has_edge(f, h)
            ),
            emits=frozenset((names[f], names[h]) for f, h in pairs if self._poses(f, h)),
            p2p=frozenset((names[f], names[h]) for f, h in pairs if self.p2p.has_edge(f, h)),
            ported=frozenset(
                self.group_name(g) for g in groups if self._crowd(g) - inside
            ),
            incapable=frozenset(names[f] for f in functions if devices[f].pasid is None),
            bad_path=frozenset(names[f] for f in functions if not self._path_ok[f]),
            raw=frozenset(names[f] for f in functions if self._raw(devices[f])),
            absent=frozenset(names[f] for f in absent),
        )

    def _crowd(self, group: int) -> frozenset[Bdf]:
        """Members that make a group large whatever a run does: with hot-add, functions do not."""
        members = frozenset(self._mates[group])
        if self.assumptions.effective("static_fabric"):
            return members
        return members - {d.bdf for d in self.functions}

    def _poses(self, function: Bdf, other: Bdf) -> bool:
        """A requester id of `other` can be on the requests of `function`, aliases included."""
        return bool(self.identity.has_edge(function, other))

    def raw(self, function: Bdf) -> bool:
        """Whether a function may send translated requests with addresses of its choice (L5)."""
        return self._raw(self.machine.device(function))

    def _raw(self, device: Device) -> bool:
        return self.ats and bool(device.ats) and not self.assumptions.effective("ats_honest")

    def pair_world(self, function: Bdf, other: Bdf) -> World:
        """Two functions with `acts` as one edge; names are abstract, so that alike pairs agree."""
        chosen = (function,) if function == other else (function, other)
        world = self.world(chosen)
        rename = dict(zip(world.functions, "AB", strict=False))
        group_names = {g: f"g{i}" for i, g in enumerate(dict.fromkeys(world.groups.values()))}
        acting = {
            (rename[self.name(f)], rename[self.name(h)])
            for f in chosen for h in chosen if f != h and self.acts.has_edge(f, h)
        }
        return World(
            functions=tuple(rename.values()),
            groups={rename[f]: group_names[g] for f, g in world.groups.items()},
            emits=frozenset(acting),
            p2p=frozenset((rename[a], rename[b]) for a, b in world.p2p),
            ported=frozenset(group_names[g] for g in world.ported),
            incapable=frozenset(rename[f] for f in world.incapable),
            bad_path=frozenset(rename[f] for f in world.bad_path),
            raw=frozenset(rename[f] for f in world.raw),
        )

    def _kind(self, device: Device) -> tuple[object, ...]:
        """All that a premise can ask of one function, its edges and its group's number apart."""
        group = self.group_of[device.bdf]
        return (device.pasid is None, self._path_ok[device.bdf], self._raw(device),
                min(len(self._mates[group]), 3), bool(self._crowd(group)))

    def _kinds(self) -> Iterator[tuple[Bdf, ...]]:
        """One function of each kind, and one more of another group where there is one."""
        kinds: dict[tuple[object, ...], list[Bdf]] = {}
        for device in self.functions:
            kinds.setdefault(self._kind(device), []).append(device.bdf)
        for alike in kinds.values():
            first = alike[0]
            elsewhere = [f for f in alike if self.group_of[f] != self.group_of[first]]
            yield (first, *elsewhere[:1])

    def _neighbours(self) -> Iterator[list[Bdf]]:
        """Of every group two functions of each kind: so every kind of pair inside a group."""
        chosen: dict[int, dict[tuple[object, ...], list[Bdf]]] = {}
        for device in self.functions:
            alike = chosen.setdefault(self.group_of[device.bdf], {})
            alike.setdefault(self._kind(device), []).append(device.bdf)
        for alike in chosen.values():
            yield [f for some in alike.values() for f in some[:2]]

    @cached_property
    def pairs(self) -> dict[World, Pair]:
        """Every kind of function and pair, with the first example: edges first, then the rest."""
        found: dict[World, Pair] = {}

        def note(f: Bdf, h: Bdf) -> None:
            found.setdefault(self.pair_world(f, h), (f,) if f == h else (f, h))

        for f, h in sorted({*self.acts.edges, *self.p2p.edges}):
            if f != h:
                note(f, h)
        samples = [f for kind in self._kinds() for f in kind]
        for f in samples:
            for h in samples:
                if f != h:
                    note(f, h)
        for near in self._neighbours():
            for f in near:
                for h in near:
                    if f != h:
                        note(f, h)
        for f in samples:
            note(f, f)
        return found

    def breaks(self, premise: Premise, model: Model) -> Pair | None:
        """None if the machine meets a premise, else a pair of functions that breaks it."""
        key = (premise, model.design.name, model.scheme.hot_add)
        if key not in self._broken:
            formula = premise_formula(premise, model)
            self._broken[key] = next(
                (pair for world, pair in self.pairs.items()
                 if not holds(formula, world.instance(1, 1, 1), {}, {})), None
            )
        return self._broken[key]

    def chain(self, pair: Pair) -> Chain:
        """A pair with the functions and edges that join it."""
        if len(pair) == 1:
            return Chain(pair)
        assume = self.assumptions.fabric()
        edges = tuple(self.fabric.witness(pair[0], pair[1], assume))
        between = [e.target for e in edges[:-1] if e.target is not None]
        ordered = dict.fromkeys([pair[0], *between, pair[1]])
        return Chain(tuple(ordered), edges)
