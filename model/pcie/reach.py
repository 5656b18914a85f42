"""Who reaches whom on a machine of any size, under given assumptions.

The leak edges of `channels` are pairs of functions, and there may be a hundred million of them.
Here the same relations are kept as ranges of requesters: a request that climbs through a port can
be called back to the port's own side, to its neighbours on the bus or, at the root, to the rest of
the machine, and each of these is one range or a few. What holds for a port holds for everything
that climbs through it, so the work grows with the ports and functions, not with their pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.ranges import EMPTY, Ranges, Reaching
from dmaproof.model.pcie.routing import ADDRESS_ROUTER, Tlp, opens
from dmaproof.model.pcie.topology import Bdf

if TYPE_CHECKING:
    from dmaproof.model.pcie.channels import Fabric

Pair = tuple[Bdf, Bdf]


class Numbering:
    """Requesters by number, and the sets of them that a machine's tree makes.

    Args:
        fabric: the leak channels of the machine.

    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self.machine = fabric.machine
        self.nodes: tuple[Bdf, ...] = tuple(device.bdf for device in self.machine.functions)
        self.number: dict[Bdf, int] = {bdf: place for place, bdf in enumerate(self.nodes)}
        self.everyone: Ranges = ((0, len(self.nodes)),) if self.nodes else EMPTY
        self._buses: dict[tuple[int, int, int], Ranges] = {}

    @cached_property
    def below(self) -> dict[Bdf, Ranges]:
        """The requesters at and below each function, port and bridge."""
        found: dict[Bdf, Ranges] = {}
        # Bus numbers grow downwards, so the reverse of address order meets children first.
        for device in reversed(self.machine.devices):
            own = ranges.single(self.number[device.bdf]) if device.is_requester else EMPTY
            inside = [found[child] for child in self.machine.children(device.bdf)]
            found[device.bdf] = ranges.union([own, *inside]) if inside else own
        return found

    @cached_property
    def packages(self) -> dict[tuple[int, int, int], Ranges]:
        """The requesters at and below the functions of each piece of silicon."""
        return {
            package: ranges.union(self.below[bdf] for bdf in members)
            for package, members in self.machine.packages.items()
        }

    @cached_property
    def siblings(self) -> dict[tuple[int, int, int], Ranges]:
        """The requesters that are functions of each piece of silicon."""
        return {
            package: ranges.of(self.number[bdf] for bdf in members if bdf in self.number)
            for package, members in self.machine.packages.items()
        }

    @cached_property
    def users(self) -> dict[Bdf, tuple[Bdf, ...]]:
        """Requesters that use each requester id, as their own or as an alias."""
        users: dict[Bdf, list[Bdf]] = {}
        for source in self.nodes:
            for rid in self._fabric.requester_ids(source):
                users.setdefault(rid, []).append(source)
        return {rid: tuple(members) for rid, members in users.items()}

    @cached_property
    def sharing(self) -> dict[Bdf, Ranges]:
        """The requesters that use each requester id which several use."""
        return {
            rid: ranges.of(self.number[user] for user in users)
            for rid, users in self.users.items()
            if len(users) > 1
        }

    @cached_property
    def _users_of_bus(self) -> dict[tuple[int, int], Ranges]:
        found: dict[tuple[int, int], set[int]] = {}
        for rid, users in self.users.items():
            found.setdefault(rid.segment_bus, set()).update(self.number[user] for user in users)
        return {bus: ranges.of(users) for bus, users in found.items()}

    def users_of(self, domain: int, first: int, last: int) -> Ranges:
        """Return the requesters with a requester id on buses *first* to *last* of *domain*."""
        key = (domain, first, last)
        if key not in self._buses:
            buses = self._users_of_bus
            self._buses[key] = ranges.union(
                buses[domain, bus] for bus in range(first, last + 1) if (domain, bus) in buses
            )
        return self._buses[key]


class Reach:
    """The leak relations of one machine under one set of assumptions.

    Args:
        fabric: the leak channels.
        allowed: which assumption literals count as granted.

    """

    def __init__(self, fabric: Fabric, assume: Mapping[str, bool]) -> None:
        self._fabric = fabric
        self._numbering = fabric.numbering
        self._assume = assume
        self._machine = fabric.machine
        self._climbing: dict[Bdf, Ranges] = {}
        self._opened: dict[Bdf, Ranges] = {}

    @property
    def nodes(self) -> tuple[Bdf, ...]:
        """The requesters, by number."""
        return self._numbering.nodes

    @property
    def number(self) -> Mapping[Bdf, int]:
        """The number of each requester."""
        return self._numbering.number

    # -- peer-to-peer ------------------------------------------------------------------------

    def opened(self, node: Bdf) -> Ranges:
        """Return the requesters to whose BARs a request leaves its way up at *node*.

        The request may come from *node* itself or from anything below it.
        """
        known = self._opened.get(node)
        if known is None:
            open_there = [part for part in self._classes(node) if self._lands(node, part)]
            known = self._opened[node] = ranges.union(open_there)
        return known

    def _classes(self, node: Bdf) -> Iterator[Ranges]:
        """Yield sets of targets that routing and ACS cannot tell apart at *node*."""
        machine, numbering = self._machine, self._numbering
        own = numbering.below[node]
        parent = machine.parent(node)
        around = numbering.below[parent] if parent is not None else numbering.everyone
        around = ranges.minus(around, own)
        if parent is not None and parent in numbering.number:
            around = ranges.minus(around, ranges.single(numbering.number[parent]))
        yield own
        if self._fabric.tells_targets_apart(node):
            bus = machine.children(parent) if parent is not None else self._roots
            for branch in bus:
                yield ranges.common(numbering.below[branch], around)
            return
        mates = ranges.common(numbering.packages[machine.package(node)], around)
        yield mates
        yield ranges.minus(around, mates)

    @cached_property
    def _roots(self) -> tuple[Bdf, ...]:
        return tuple(d.bdf for d in self._machine.devices if self._machine.on_root(d))

    def _lands(self, node: Bdf, targets: Ranges) -> bool:
        """Whether a request through *node* for one of *targets*, and so for all, lands there."""
        target = next(
            (self.nodes[t] for t in ranges.members(targets) if self.nodes[t] != node), None
        )
        if target is None:
            return False
        for rung in ADDRESS_ROUTER.rungs(self._machine, node, Tlp(node), target):
            requires = opens(self._fabric.acs, rung, target)
            if requires is not None and self._granted(requires):
                return True
        return False

    def _granted(self, requires: Iterable[tuple[str, bool]]) -> bool:
        return all(self._assume[name] == value for name, value in requires)

    def _above(self, node: Bdf) -> Ranges:
        """Return the targets of a request from below *node*, there or further up."""
        known = self._climbing.get(node)
        if known is None:
            parent = self._machine.parent(node)
            above = self._above(parent) if parent is not None else EMPTY
            known = self._climbing[node] = ranges.union([self.opened(node), above])
        return known

    def peers(self, place: int) -> Ranges:
        """Return whose BARs requests of a requester can end at, itself left out."""
        return ranges.minus(self._above(self.nodes[place]), ranges.single(place))

    # -- identities --------------------------------------------------------------------------

    @cached_property
    def _poses(self) -> list[Ranges]:
        return [self._posing(place, source) for place, source in enumerate(self.nodes)]

    def poses(self, place: int) -> Ranges:
        """Return whose requester ids requests of a requester can carry, itself left out."""
        return self._poses[place]

    def _posing(self, place: int, source: Bdf) -> Ranges:
        sharing = self._numbering.sharing
        ids = self._fabric.requester_ids(source)
        shared = [sharing[rid] for rid in ids if rid in sharing]
        found = ranges.union([*shared, self._spoofed(source)])
        return ranges.minus(found, ranges.single(place)) if found else found

    def _spoofed(self, source: Bdf) -> Ranges:
        if not self._assume["spoof"]:
            return EMPTY
        check = self._fabric.source_check(source)
        if check is None:
            return EMPTY
        numbering = self._numbering
        users = numbering.users_of(source.domain, check.first, check.last)
        siblings = numbering.siblings[self._machine.package(source)]
        parts = []
        if check.linked:
            parts.append(ranges.minus(users, siblings))
        if not self._assume["mfd_rid_honest"]:
            parts.append(ranges.common(users, siblings))
        return ranges.union(parts)

    # -- closures ----------------------------------------------------------------------------

    @cached_property
    def _graph(self) -> Reaching:
        graph = Reaching(len(self.nodes))
        ports: dict[Bdf, int] = {}
        if not self._assume["deputy"]:
            return graph
        for place, source in enumerate(self.nodes):
            graph.edge_to(place, self.opened(source))
            at, node = self._machine.parent(source), place
            while at is not None and self._above(at):
                new = at not in ports
                if new:
                    ports[at] = graph.node()
                    graph.edge_to(ports[at], self.opened(at))
                graph.edge(node, ports[at])
                if not new:
                    break
                node = ports[at]
                at = self._machine.parent(at)
        return graph

    @cached_property
    def _influenced(self) -> list[Ranges]:
        return self._graph.gather([ranges.single(place) for place in range(len(self.nodes))])

    def influences(self, place: int) -> Ranges:
        """Return whom a requester can make work for it, itself included."""
        return self._influenced[place]

    @cached_property
    def _acting(self) -> list[Ranges]:
        own = [
            ranges.union([ranges.single(place), poses]) for place, poses in enumerate(self._poses)
        ]
        return self._graph.gather(own)

    def acts(self, place: int) -> Ranges:
        """Return under whose requester ids a requester or its deputies send, itself included."""
        return self._acting[place]

    def crossing(self, home: Mapping[Bdf, int]) -> Pair | None:
        """Return the first pair of acts that leaves its group, None if the grouping is closed."""
        return next(self.crossings(home), None)

    def crossings(self, home: Mapping[Bdf, int]) -> Iterator[Pair]:
        """Yield for each requester that acts for a function of another group the first such pair.

        Args:
            home: group of each requester.

        """
        members: dict[int, list[int]] = {}
        for place, bdf in enumerate(self.nodes):
            members.setdefault(home[bdf], []).append(place)
        inside = {group: ranges.of(places) for group, places in members.items()}
        for place, bdf in enumerate(self.nodes):
            outside = ranges.minus(self.acts(place), inside[home[bdf]])
            if outside:
                yield bdf, self.nodes[outside[0][0]]

    # -- components --------------------------------------------------------------------------

    @cached_property
    def links(self) -> tuple[Pair, ...]:
        """Pairs joined by a leak edge, first to second, that together connect every component.

        A spanning forest of the leak graph: one pair fewer than a component has members.
        """
        joined = (
            (place, ranges.union([self._above(node), self._poses[place]]))
            for place, node in enumerate(self.nodes)
        )
        forest = ranges.forest(len(self.nodes), joined)
        return tuple((self.nodes[first], self.nodes[second]) for first, second in forest)

    def components(self) -> list[tuple[Bdf, ...]]:
        """Return the sets of requesters that leak channels connect, each in address order."""
        near: dict[Bdf, list[Bdf]] = {}
        for first, second in self.links:
            near.setdefault(first, []).append(second)
            near.setdefault(second, []).append(first)
        seen: set[Bdf] = set()
        found = []
        for start in self.nodes:
            if start in seen:
                continue
            seen.add(start)
            part = [start]
            for member in part:
                fresh = [other for other in near.get(member, ()) if other not in seen]
                seen.update(fresh)
                part.extend(fresh)
            found.append(tuple(sorted(part)))
        return found
