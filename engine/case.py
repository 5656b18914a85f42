"""A machine under assumptions, as facts of the rule layer.

The fabric says who reaches whom (`model.pcie.reach`); premises are asked of the one or two
functions that an edge joins, because every premise speaks of pairs. So a machine with thousands of
functions costs no more than its kinds of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.pairs import joined_pairs
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.worlds import World
from dmaproof.model.logic.sets import holds
from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.acs import pasid_path_ok
from dmaproof.model.pcie.channels import Edge, Fabric
from dmaproof.model.pcie.device import Bdf, Device
from dmaproof.model.pcie.groups import Group, group_of, groups
from dmaproof.model.pcie.side_channels import translated
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
        self, machine: Machine, grouping: str, assumptions: Assumptions, *, ats: bool,
        like: Case | None = None,
    ) -> None:
        """Take a machine under assumptions.

        Args:
            machine: the topology.
            grouping: the algorithm that makes its groups.
            assumptions: a value for each.
            ats: the design switches ATS on.
            like: a case of the same machine and grouping, whose fabric is used again.
        """
        self.machine = machine
        self.grouping = grouping
        self.assumptions = assumptions
        self.ats = ats
        self.fabric: Fabric = like.fabric if like else Fabric(machine)
        self.reach = self.fabric.reach(assumptions.fabric())
        self._like = like
        self._broken: dict[tuple[Premise, str, bool], Pair | None] = {}

    @property
    def unsure(self) -> str:
        """Why something about the machine is not certain; "" if nothing is (`engine.hidden`)."""
        return ""

    def certain(self, chain: Chain) -> bool:
        """Whether the facts about a chain are certain."""
        return True

    def acts(self, function: Bdf, other: Bdf) -> bool:
        """acts(f, h), reflexive."""
        number = self.reach.number
        return ranges.contains(self.reach.acts(number[function]), number[other])

    def p2p(self, function: Bdf, other: Bdf) -> bool:
        """p2p(f, g)."""
        number = self.reach.number
        return ranges.contains(self.reach.peers(number[function]), number[other])

    @cached_property
    def groups(self) -> list[Group]:
        """The groups, by the chosen algorithm."""
        if self._like is not None and self.grouping != "components":
            return self._like.groups  # no assumption matters to the kernel
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

    def mates(self, function: Bdf, limit: int | None = None) -> list[Bdf]:
        """The functions of a function's group, itself included.

        Args:
            function: one of them.
            limit: of a group with more functions than this only the first two of each kind; None:
                always all.
        """
        members = self._mates[self.group_of[function]]
        mates = [m for m in members if m in self.reach.number]
        if limit is None or len(mates) <= limit:
            return mates
        alike: dict[tuple[object, ...], list[Bdf]] = {}
        for mate in mates:
            alike.setdefault(self._kind[mate], []).append(mate)
        return [mate for some in alike.values() for mate in some[:2]]

    # -- worlds -----------------------------------------------------------------------------

    def world(self, chosen: Iterable[Bdf], absent: frozenset[Bdf] = frozenset()) -> World:
        """The facts about some functions; a group with further members counts as crowded."""
        functions = tuple(chosen)
        inside = set(functions)
        names = {f: self.name(f) for f in functions}
        groups = {self.group_of[f] for f in functions}
        devices = {f: self.machine.device(f) for f in functions}
        reach = self.reach
        return World(
            functions=tuple(names[f] for f in functions),
            groups={names[f]: self.group_name(self.group_of[f]) for f in functions},
            influence=self._among(names, reach.influences),
            # A requester id of h can be on the requests of f, aliases included.
            emits=self._among(names, reach.poses),
            p2p=self._among(names, reach.peers),
            ported=frozenset(
                self.group_name(g) for g in groups if self._crowd(g) - inside
            ),
            incapable=frozenset(names[f] for f in functions if devices[f].pasid is None),
            bad_path=frozenset(names[f] for f in functions if not self._path_ok[f]),
            raw=frozenset(names[f] for f in functions if self._raw(devices[f])),
            absent=frozenset(names[f] for f in absent),
        )

    def _among(
        self, names: dict[Bdf, str], reached: Callable[[int], ranges.Ranges]
    ) -> frozenset[tuple[str, str]]:
        """The pairs of a relation among some functions, by name."""
        nodes, number = self.reach.nodes, self.reach.number
        chosen = ranges.of(number[f] for f in names)
        return frozenset(
            (names[f], names[nodes[h]])
            for f in names
            for h in ranges.members(ranges.common(reached(number[f]), chosen))
            if nodes[h] != f
        )

    def _crowd(self, group: int) -> frozenset[Bdf]:
        """Members that make a group large whatever a run does: with hot-add, functions do not."""
        members = frozenset(self._mates[group])
        if self.assumptions.effective("static_fabric"):
            return members
        return members - {d.bdf for d in self.functions}

    def raw(self, function: Bdf) -> bool:
        """Whether a function may send translated requests with addresses of its choice (L5)."""
        return self._raw(self.machine.device(function))

    def _raw(self, device: Device) -> bool:
        if not self.ats or self.assumptions.effective("ats_honest"):
            return False
        return translated(self.fabric, device.bdf) is not None

    def pair_world(self, function: Bdf, other: Bdf) -> World:
        """Two functions with `acts` as one edge; names are abstract, so that alike pairs agree."""
        chosen = (function,) if function == other else (function, other)
        world = self.world(chosen)
        rename = dict(zip(world.functions, "AB", strict=False))
        group_names = {g: f"g{i}" for i, g in enumerate(dict.fromkeys(world.groups.values()))}
        acting = {
            (rename[self.name(f)], rename[self.name(h)])
            for f in chosen for h in chosen if f != h and self.acts(f, h)
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

    @cached_property
    def _kind(self) -> dict[Bdf, tuple[object, ...]]:
        """All that a premise can ask of each function, its edges and its group's number apart."""
        large = {g: (min(len(self._mates[g]), 3), bool(self._crowd(g))) for g in self._mates}
        return {
            d.bdf: (d.pasid is None, self._path_ok[d.bdf], self._raw(d),
                    *large[self.group_of[d.bdf]])
            for d in self.functions
        }

    def _kinds(self) -> Iterator[tuple[Bdf, ...]]:
        """One function of each kind, and one more of another group where there is one."""
        kinds: dict[tuple[object, ...], list[Bdf]] = {}
        for device in self.functions:
            kinds.setdefault(self._kind[device.bdf], []).append(device.bdf)
        for alike in kinds.values():
            first = alike[0]
            elsewhere = [f for f in alike if self.group_of[f] != self.group_of[first]]
            yield (first, *elsewhere[:1])

    def _neighbours(self) -> Iterator[list[Bdf]]:
        """Of every group two functions of each kind: so every kind of pair inside a group."""
        chosen: dict[int, dict[tuple[object, ...], list[Bdf]]] = {}
        for device in self.functions:
            alike = chosen.setdefault(self.group_of[device.bdf], {})
            alike.setdefault(self._kind[device.bdf], []).append(device.bdf)
        for alike in chosen.values():
            yield [f for some in alike.values() for f in some[:2]]

    @cached_property
    def pairs(self) -> dict[World, Pair]:
        """Every kind of function and pair, with the first example: edges first, then the rest."""
        found: dict[World, Pair] = {}
        seen: set[tuple[object, ...]] = set()
        for f, h in self._examples():
            key = (self._kind[f], self._kind[h], self.group_of[f] == self.group_of[h], f == h,
                   *(ask(*pair) for ask in (self.acts, self.p2p) for pair in ((f, h), (h, f))))
            if key not in seen:
                seen.add(key)
                found.setdefault(self.pair_world(f, h), (f,) if f == h else (f, h))
        return found

    def _examples(self) -> Iterator[tuple[Bdf, Bdf]]:
        """Pairs of functions, so that every kind of pair is there; (f, f) is f alone."""
        nodes = self.reach.nodes
        joined = joined_pairs(
            [self._kind[f] for f in nodes], [self.group_of[f] for f in nodes],
            self.reach.acts, self.reach.peers,
        )
        yield from ((nodes[f], nodes[h]) for f, h in joined)
        samples = [f for kind in self._kinds() for f in kind]
        for near in (samples, *self._neighbours()):
            yield from ((f, h) for f in near for h in near if f != h)
        yield from ((f, f) for f in samples)

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
