"""Leak channels: who can reach whom without the IOMMU noticing, and what would stop it.

Edges lead between requesters. Each says what it needs to be true of disputed hardware behaviour
(`requires`), which way it goes (`path`) and which ACS bits would cut it (`cuts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise

import networkx as nx

from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.acs import pci_acs_flags_enabled
from dmaproof.model.pcie.groups import bridge_alias, dma_aliases
from dmaproof.model.pcie.reach import Numbering, Pair, Reach
from dmaproof.model.pcie.routing import (
    NO_ASSUMPTION,
    Literals,
    MachineAcs,
    Rung,
    RungKind,
    ladder,
    opens,
    path_of,
    way_up,
)
from dmaproof.model.pcie.side_channels import side_edges, translated
from dmaproof.model.pcie.topology import ACS_BITS, Bdf, Device, Machine
from dmaproof.model.rules import rule

Assume = Mapping[str, bool]

PERMISSIVE: dict[str, bool] = {
    "spoof": True,
    "mfd_rid_honest": True,
    "mf_loopback": True,
    "rp_loopback": True,
    "rc_p2p": False,
    "deputy": True,
}
"""Every free assumption at its permissive value; those with a default keep it."""


NOT_OF_THE_FABRIC: dict[str, bool] = {"ats_honest": False}
"""Assumptions that edges need but that move no way of a request, at their permissive value."""

_DEFAULTS = PERMISSIVE | NOT_OF_THE_FABRIC


ANY_ADDRESS = "any host address"
"""Where translated requests lead (L5)."""


class Channel(StrEnum):
    """How a function reaches what is not its own."""

    PEER_TO_PEER = "peer-to-peer"
    MISROUTE = "misroute"
    SPOOF = "spoof"
    ALIAS = "alias"
    TRANSLATED = "translated request"
    UNPROTECTED_TARGET = "unprotected target"
    SHARED_CONTROL = "shared control"

    @property
    def leak(self) -> str:
        """Its number among the leak channels: L1 .. L5, L9, L10."""
        return _NUMBERS[self]


_NUMBERS = dict(zip(Channel, ("L1", "L2", "L3", "L4", "L5", "L9", "L10"), strict=True))

_IDENTITY = frozenset({Channel.SPOOF, Channel.ALIAS})
_CONNECTING = _IDENTITY | {Channel.PEER_TO_PEER}


@dataclass(frozen=True, order=True, slots=True)
class Cut:
    """An ACS bit (by letter) that would have to be on at *port*; with ``on=False`` off."""

    port: Bdf
    bits: str
    on: bool = True


@dataclass(frozen=True)
class Edge:
    """One leak between two requesters.

    Attributes:
        channel: how.
        source: the function that sends.
        target: whose BAR is reached, or whose requester id is used; None for an id that belongs
            to no other function, and for translated requests, which reach any host address.
        rid: the requester id the IOMMU sees (SPOOF, ALIAS, TRANSLATED), else None.
        requires: assumption literals the edge needs; empty: it needs none.
        path: the hops, source first.
        cuts: all of these together cut the edge; empty: ACS cannot.
        reason: the same in words.
        or_cuts: sets of which each would do instead of `cuts`.

    """

    channel: Channel
    source: Bdf
    target: Bdf | None
    rid: int | None
    requires: Literals
    path: tuple[Bdf, ...]
    cuts: tuple[Cut, ...]
    reason: str
    or_cuts: tuple[tuple[Cut, ...], ...] = ()

    @classmethod
    def cut_by_any(
        cls,
        ways: Sequence[tuple[Cut, ...]],
        channel: Channel,
        source: Bdf,
        target: Bdf | None,
        rid: int | None,
        requires: Literals,
        path: tuple[Bdf, ...],
        reason: str,
    ) -> Edge:
        """Return an edge that each of *ways* cuts, the first of them first."""
        first = ways[0] if ways else ()
        rest = tuple(ways[1:])
        return cls(channel, source, target, rid, requires, path, first, reason, rest)

    @property
    def ways_to_cut(self) -> tuple[tuple[Cut, ...], ...]:
        """The sets of bits of which each cuts the edge; empty: ACS cannot."""
        return (self.cuts, *self.or_cuts) if self.cuts else ()


@dataclass(frozen=True)
class SourceCheck:
    """What ports on the way up let through of the requester ids that a function may put in.

    Attributes:
        linked: the ports that could check, nearest first; none: the root complex puts ids in.
        first, last: the buses that every port with SV lets through.

    """

    linked: tuple[Device, ...]
    first: int
    last: int


def holds(requires: Literals, assume: Assume) -> bool:
    """Whether *assume* grants all literals; names it leaves out count as in `PERMISSIVE`."""
    return all(assume.get(name, _DEFAULTS.get(name)) == value for name, value in requires)


class Fabric:
    """The leak channels of one machine.

    Graphs are shared between calls and frozen: copy one to change it.
    Every answer grows when an assumption takes its permissive value. `assume` maps assumption
    names to values; names left out count as in `PERMISSIVE`.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.acs = MachineAcs(machine)
        self._graphs: dict[tuple[frozenset[str], frozenset[Channel]], nx.DiGraph] = {}
        self._reach: dict[frozenset[str], Reach] = {}
        self._ids: dict[Bdf, tuple[Bdf, ...]] = {}
        self._checks: dict[Bdf | None, SourceCheck | None] = {}

    @cached_property
    def numbering(self) -> Numbering:
        """The requesters by number."""
        return Numbering(self)

    @cached_property
    def _nodes(self) -> tuple[Bdf, ...]:
        return tuple(device.bdf for device in self.machine.functions)

    # -- all edges, whatever one assumes -------------------------------------------------------

    @cached_property
    def all_edges(self) -> tuple[Edge, ...]:
        """Every edge that some assumption allows, in a fixed order."""
        found: list[Edge] = []
        for source in self._nodes:
            for target in self._nodes:
                if source != target:
                    found.extend(self._routed(source, target))
            found.extend(self._shared(source))
            for target in self._nodes:
                found.extend(self._spoofed(source, target))
        return tuple(found)

    def edges_between(self, source: Bdf, target: Bdf) -> tuple[Edge, ...]:
        """Return the edges of `all_edges` from *source* to *target*."""
        if source == target:
            return ()
        shared = (edge for edge in self._shared(source) if edge.target == target)
        return (*self._routed(source, target), *shared, *self._spoofed(source, target))

    def tells_targets_apart(self, at: Bdf) -> bool:
        """Whether ACS at *at* may treat two branches of its bus differently (EC is on)."""
        return self.acs.reads_vector(at)

    @rule(
        "pcie.leak.peer-to-peer",
        "PCIe Base 6.12.3",
        "a request lands at a peer's BAR at the first rung of its way up that ACS leaves open",
    )
    def _routed(self, source: Bdf, target: Bdf) -> Iterator[Edge]:
        opened: list[tuple[Rung, Literals]] = []
        for rung in ladder(self.machine, source, target):
            requires = opens(self.acs, rung, target)
            if requires is not None:
                opened.append((rung, requires))
        for index, (rung, requires) in enumerate(opened):
            cuts = self._cuts(opened[index:], requires)
            path = path_of(self.machine, source, rung, target)
            reason = self._why_open(rung, target)
            for channel in (Channel.PEER_TO_PEER, Channel.MISROUTE):
                yield Edge(channel, source, target, None, requires, path, cuts, reason)
            if not requires:
                return

    def _cuts(self, opened: list[tuple[Rung, Literals]], granted: Literals) -> tuple[Cut, ...]:
        """Return what closes all rungs open under the literals *granted*; () if one cannot be."""
        needed = [rung for rung, requires in opened if requires <= granted]
        if any(not rung.bit for rung in needed):
            return ()
        return tuple(cut for rung in needed for cut in self._closing(rung))

    def _closing(self, rung: Rung) -> Iterator[Cut]:
        """Yield what closes *rung*: its bit on, and no egress vector that overrules it."""
        overruled = rung.bit == "RR" and self.acs.reads_vector(rung.at)
        if overruled:
            yield Cut(rung.at, "EC", on=False)
        acs = self.machine.device(rung.at).acs
        if not overruled or not pci_acs_flags_enabled(acs, ACS_BITS[rung.bit]):
            yield Cut(rung.at, rung.bit)

    def _why_open(self, rung: Rung, target: Bdf) -> str:
        device = self.machine.device(rung.at)
        goal = self.machine.device(target)
        if rung.kind is RungKind.CONVENTIONAL:
            return f"{device} and {goal} sit behind one conventional bridge, which has no ACS"
        lack = "has no ACS capability"
        if device.acs is not None:
            lack = f"has {rung.bit} off"
            if rung.bit == "RR" and device.acs.control & 0x20:
                lack = "has EC on and lets this peer through"
        return f"{device} {lack}: a request for {goal} {rung.kind}"

    def requester_ids(self, source: Bdf) -> tuple[Bdf, ...]:
        """Return the requester ids of *source* as addresses: its own, then its DMA aliases."""
        if source not in self._ids:
            aliases = dma_aliases(self.machine, source)
            self._ids[source] = tuple(dict.fromkeys(alias for _, alias in aliases))
        return self._ids[source]

    def rids(self, source: Bdf) -> tuple[int, ...]:
        """Return the requester ids of *source* in 16 bits, in the order of `requester_ids`."""
        return tuple(alias.rid for alias in self.requester_ids(source))

    @rule(
        "pcie.leak.alias",
        "drivers/pci/search.c pci_for_each_dma_alias",
        "functions that share a requester id share its context entry",
    )
    def _shared(self, source: Bdf) -> Iterator[Edge]:
        for device, alias in dma_aliases(self.machine, source):
            others = [user for user in self.numbering.users[alias] if user != source]
            if alias == source and not others:
                continue
            path = (source,) if device == source else self._path_up(source, device)
            reason = f"requests of {self.machine.device(source)} carry the requester id {alias}"
            if device != source:
                reason += f" of bridge {self.machine.device(device)}"
            targets: list[Bdf | None] = [*others] or [None]
            for other in targets:
                text = f"{reason}, which {self.machine.device(other)} uses too" if other else reason
                yield Edge(Channel.ALIAS, source, other, alias.rid, NO_ASSUMPTION, path, (), text)

    @rule(
        "pcie.leak.spoof",
        "PCIe Base 6.12.1.1, Source Validation",
        "a port with SV drops requests whose bus number is outside its range, nothing else",
    )
    def source_check(self, source: Bdf) -> SourceCheck | None:
        """Return what limits the requester ids *source* can put in; None: it can put in none."""
        parent = self.machine.parent(source)
        if self.machine.device(source).kind.has_link_below:
            return self._source_check(source)
        if parent not in self._checks:
            self._checks[parent] = self._source_check(source)
        return self._checks[parent]

    def _source_check(self, source: Bdf) -> SourceCheck | None:
        up = [self.machine.device(port) for port in way_up(self.machine, source)]
        if any(bridge_alias(self.machine, port) is not None for port in up[1:]):
            return None  # a bridge on the way writes its own requester id
        linked = tuple(port for port in up if port.kind.has_link_below)
        checking = [port for port in linked if self.acs.in_force(port.bdf, "SV", None)]
        return SourceCheck(
            linked,
            max((port.secondary or 0 for port in checking), default=0),
            min((port.subordinate or 0 for port in checking), default=0xFF),
        )

    def _spoofed(self, source: Bdf, user: Bdf) -> Iterator[Edge]:
        check = self.source_check(source) if source != user else None
        if check is None:
            return  # nobody poses as itself
        own = self.requester_ids(source)
        for rid in self.requester_ids(user):
            within = rid.domain == source.domain and check.first <= rid.bus <= check.last
            if within and rid not in own:
                edge = self._spoof_edge(source, user, rid.rid, check.linked)
                if edge is not None:
                    yield edge

    def _spoof_edge(
        self, source: Bdf, user: Bdf, rid: int, linked: tuple[Device, ...]
    ) -> Edge | None:
        machine = self.machine
        sibling = machine.package(source) == machine.package(user)
        if not linked and not sibling:
            return None  # integrated: the root complex itself puts the requester id in
        requires = {("spoof", True)} | ({("mfd_rid_honest", False)} if sibling else set())
        lax = [port for port in linked if not _in_range(port, rid >> 8)]
        ways = [(Cut(port.bdf, "SV"),) for port in lax]
        claim = f"{machine.device(source)} puts the requester id of {machine.device(user)} in"
        if lax:
            how = "has SV off" if lax[0].acs is not None else "has no ACS capability"
            reason = f"{claim}, and {lax[0]} {how}"
        elif linked:
            reason = f"{claim}: bus {rid >> 8:02x} is in the range SV checks at {linked[-1]}"
        else:
            reason = f"{claim}: no port checks it"
        up = tuple(way_up(machine, source))
        return Edge.cut_by_any(
            ways, Channel.SPOOF, source, user, rid, frozenset(requires), up, reason
        )

    def _path_up(self, source: Bdf, port: Bdf) -> tuple[Bdf, ...]:
        up = tuple(way_up(self.machine, source))
        return up[: up.index(port) + 1]

    def leak_graph(self, assume: Assume) -> nx.MultiDiGraph:
        """Return every leak edge that *assume* allows, of all channels, keyed by channel.

        Nodes are requesters; what is no function has a node named in words: `ANY_ADDRESS`, or a
        requester id of nobody. Each graph edge has the attributes ``edge`` and ``channel``. All
        pairs are asked: use `reach` for large machines.
        """
        graph = nx.MultiDiGraph()
        graph.add_nodes_from(self._nodes)
        every = [*self.all_edges]
        for source in self._nodes:
            every.extend(edge for edge in (translated(self, source),) if edge)
            for target in self._nodes:
                every.extend(side_edges(self, source, target))
        for edge in every:
            if holds(edge.requires, assume):
                beyond = ANY_ADDRESS
                if edge.channel is Channel.ALIAS:
                    beyond = f"requester id 0x{edge.rid:04x}"
                where = edge.target or beyond
                graph.add_edge(edge.source, where, edge=edge, channel=edge.channel)
        return graph

    # -- under given assumptions ---------------------------------------------------------------

    def edges(self, assume: Assume) -> list[Edge]:
        """Return the edges that *assume* allows."""
        return [edge for edge in self.all_edges if holds(edge.requires, assume)]

    def _graph(self, assume: Assume, channels: frozenset[Channel]) -> nx.DiGraph:
        allowed = frozenset(name for name in PERMISSIVE if assume.get(name, PERMISSIVE[name]))
        known = self._graphs.get((allowed, channels))
        if known is None:
            known = self._graphs[allowed, channels] = self._build(assume, channels)
        return known

    def _build(self, assume: Assume, channels: frozenset[Channel]) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(self._nodes)
        for edge in self.edges(assume):
            if edge.channel not in channels or edge.target is None:
                continue
            known = graph.get_edge_data(edge.source, edge.target)
            if known is None:
                graph.add_edge(edge.source, edge.target, edge=edge, edges=[edge])
                continue
            known["edges"].append(edge)
            if len(edge.requires) < len(known["edge"].requires):
                known["edge"] = edge
        return nx.freeze(graph)

    def p2p(self, assume: Assume) -> nx.DiGraph:
        """Return the graph "a request of f can end at g's BAR without passing the IOMMU".

        Each graph edge has attributes ``edge`` (the `Edge` that needs fewest assumptions) and
        ``edges`` (all of them).
        """
        return self._graph(assume, frozenset({Channel.PEER_TO_PEER}))

    def identity(self, assume: Assume) -> nx.DiGraph:
        """Return the graph "requests of f can carry a requester id of h" (spoof and alias)."""
        return self._graph(assume, _IDENTITY)

    def emits(self, assume: Assume) -> dict[Bdf, dict[int, Edge | None]]:
        """Return, for each requester, the requester ids its requests can carry at the IOMMU.

        Its own id maps to None, others to the edge that explains them. Ids are those of the
        function's own PCI domain.
        """
        found: dict[Bdf, dict[int, Edge | None]] = {
            source: {source.rid: None} for source in self._nodes
        }
        for edge in self.edges(assume):
            if edge.rid is not None:
                found[edge.source].setdefault(edge.rid, edge)
        return found

    def reach(self, assume: Assume) -> Reach:
        """Return the same relations without their edges, for machines of any size."""
        values = {name: assume.get(name, PERMISSIVE[name]) for name in PERMISSIVE}
        allowed = frozenset(name for name, value in values.items() if value)
        if allowed not in self._reach:
            self._reach[allowed] = Reach(self, values)
        return self._reach[allowed]

    def influence(self, assume: Assume) -> nx.DiGraph:
        """Return whom a function can make work for it: itself; with ``deputy``, its p2p closure."""
        return self._from_ranges(self.reach(assume).influences)

    def acts(self, assume: Assume) -> nx.DiGraph:
        """Return who sends under whose id: f, or a deputy f can reach, uses a requester id of h.

        Reflexive. The requester ids of h are its own and its DMA aliases: what is set up for h is
        set up under all of them.
        """
        return self._from_ranges(self.reach(assume).acts)

    def _from_ranges(self, reached: Callable[[int], ranges.Ranges]) -> nx.DiGraph:
        graph = nx.DiGraph()
        graph.add_nodes_from(self._nodes)
        for place, node in enumerate(self._nodes):
            others = ranges.members(reached(place))
            graph.add_edges_from((node, self._nodes[other]) for other in others)
        return graph

    def witness(self, source: Bdf, target: Bdf, assume: Assume) -> list[Edge]:
        """Return a shortest chain of edges that explains acts(source, target).

        Empty when source is target, or when acts does not hold (see `acts`).
        """
        if source == target:
            return []
        reach = self.reach(assume)
        goal = reach.number[target]
        deputies = assume.get("deputy", PERMISSIVE["deputy"])
        came: dict[int, int] = {}
        level = [reach.number[source]]
        unseen = ranges.minus(self.numbering.everyone, ranges.single(level[0]))
        while level:
            following: list[int] = []
            for at in level:
                peers = reach.peers(at) if deputies else ranges.EMPTY
                lands = ranges.contains(peers, goal)
                if lands or ranges.contains(reach.poses(at), goal):
                    return self._chain(at, goal, came, assume, lands=lands)
                fresh = ranges.common(peers, unseen)
                unseen = ranges.minus(unseen, fresh)
                came |= dict.fromkeys(ranges.members(fresh), at)
                following.extend(ranges.members(fresh))
            level = following
        return []

    def _chain(
        self, last: int, goal: int, came: Mapping[int, int], assume: Assume, *, lands: bool
    ) -> list[Edge]:
        """Return the edges of the way found to *last* and of its last hop, to *goal*."""
        hops = [last]
        while hops[-1] in came:
            hops.append(came[hops[-1]])
        nodes = [self._nodes[hop] for hop in reversed(hops)]
        peer = frozenset({Channel.PEER_TO_PEER})
        chain = [self.edge(*hop, assume, peer) for hop in pairwise(nodes)]
        channels = peer if lands else _IDENTITY
        return [*chain, self.edge(nodes[-1], self._nodes[goal], assume, channels)]

    def edge(
        self, source: Bdf, target: Bdf, assume: Assume, channels: frozenset[Channel] = _CONNECTING
    ) -> Edge:
        """Return the edge from *source* to *target* that needs the fewest assumptions.

        Raises:
            ValueError: no edge of *channels* that *assume* allows leads there.

        """
        allowed = [
            edge
            for edge in self.edges_between(source, target)
            if edge.channel in channels and holds(edge.requires, assume)
        ]
        return min(allowed, key=lambda edge: len(edge.requires))

    def crossings(self, home: Mapping[Bdf, int], assume: Assume) -> list[Pair]:
        """Return the pairs of acts that leave their group; none: the grouping is closed.

        Args:
            home: group id of each requester (`groups.group_of`).
            assume: values of the assumptions.

        """
        return [(f, h) for f, h in self.acts(assume).edges if home[f] != home[h]]

    def components(self, assume: Assume) -> list[tuple[Bdf, ...]]:
        """Return the sets of requesters that leak channels connect, in address order."""
        return self.reach(assume).components()

    def explained_components(self, assume: Assume) -> list[tuple[tuple[Bdf, ...], tuple[str, ...]]]:
        """Return the components over all devices with a reason for each member.

        Ports and bridges start no requests and stay alone, unless a bridge lends its requester id.
        """
        graph = nx.Graph()
        graph.add_nodes_from(device.bdf for device in self.machine.devices)
        for source, target in self.reach(assume).links:
            graph.add_edge(source, target, text=self.edge(source, target, assume).reason)
        for source in self._nodes:
            for alias in self.requester_ids(source):
                if alias in self.machine and not self.machine.device(alias).is_requester:
                    graph.add_edge(source, alias, text=f"{source} uses the requester id of {alias}")
        parts = sorted(sorted(part) for part in nx.connected_components(graph))
        return [(tuple(part), self._explain(graph, part)) for part in parts]

    def _explain(self, graph: nx.Graph, part: list[Bdf]) -> tuple[str, ...]:
        if len(part) == 1:
            device = self.machine.device(part[0])
            if device.is_requester:
                return ("alone: no leak channel leads to it or from it",)
            return ("alone: it starts no requests of its own",)
        why = {part[0]: "first of its component"}
        for known, member in nx.bfs_edges(graph, part[0]):
            why[member] = f"with {known}: {graph.edges[known, member]['text']}"
        return tuple(why[member] for member in part)


def _in_range(port: Device, bus: int) -> bool:
    return (port.secondary or 0) <= bus <= (port.subordinate or 0)
