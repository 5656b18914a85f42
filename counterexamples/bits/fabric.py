"""How a request travels: peer-to-peer hops, and the requester id under which it arrives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.channels import Channel, Edge, Fabric, holds
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.machine_json import to_json
from dmaproof.model.pcie.reach import Reach
from dmaproof.model.pcie.routing import Decision, MachineAcs, Router, Tlp, opens, way_up
from dmaproof.model.pcie.topology import Machine

_PEER = frozenset({Channel.PEER_TO_PEER})
_POSING = frozenset({Channel.SPOOF, Channel.ALIAS})


def way(reach: Reach, source: Bdf, goal: Bdf) -> list[Bdf]:
    """Return a shortest chain of peer-to-peer hops from one function to another; [] without."""
    start, end = reach.number[source], reach.number[goal]
    came: dict[int, int] = {}
    unseen = ranges.minus(ranges.of(range(len(reach.nodes))), ranges.single(start))
    level = [start]
    while level and end not in came:
        following: list[int] = []
        for at in level:
            fresh = ranges.common(reach.peers(at), unseen)
            unseen = ranges.minus(unseen, fresh)
            came |= dict.fromkeys(ranges.members(fresh), at)
            following.extend(ranges.members(fresh))
        level = following
    if end != start and end not in came:
        return []
    chain = [end]
    while chain[-1] != start:
        chain.append(came[chain[-1]])
    return [reach.nodes[n] for n in reversed(chain)]


def topology_of(
    machine: Machine, reach: Reach, functions: Iterable[Bdf], influence: Iterable[tuple[Bdf, Bdf]]
) -> dict[str, object]:
    """Return the part of a machine that decides about the requests of some functions, as data.

    Args:
        machine: the whole machine.
        reach: its leak relations.
        functions: those the trace is about.
        influence: pairs of them of which the first makes the second work for it.
    """
    wanted = dict.fromkeys(functions)
    for source, goal in influence:
        if not ranges.contains(reach.peers(reach.number[source]), reach.number[goal]):
            wanted.update(dict.fromkeys(way(reach, source, goal)))
    found: dict[str, object] = json.loads(to_json(machine.restrict(wanted)))
    return found


@dataclass(frozen=True)
class Travelled:
    """A request's way, decided node by node.

    Attributes:
        nodes: the nodes it passed, its source first.
        decision: what the last of them did: sent it to a BAR (a rung), or on to the IOMMU.
        requires: the assumptions that the last decision needs.
    """

    nodes: tuple[Bdf, ...]
    decision: Decision
    requires: frozenset[tuple[str, bool]] = frozenset()

    @property
    def lands(self) -> bool:
        """Whether it ended at a BAR."""
        return self.decision.rung is not None


def travel(
    machine: Machine, tlp: Tlp, target: Bdf, assume: Mapping[str, bool], router: Router
) -> Travelled:
    """Route a request for a function's BAR, from its source up, as each node decides."""
    acs = MachineAcs(machine)
    passed = []
    for node in way_up(machine, tlp.source):
        passed.append(node)
        for rung in router.rungs(machine, node, tlp, target):
            requires = opens(acs, rung, target)
            if requires is not None and holds(requires, assume):
                return Travelled(tuple(passed), Decision(rung), requires)
    return Travelled(tuple(passed), Decision(None))


def chain(
    fabric: Fabric, assume: Mapping[str, bool], source: Bdf, emitter: Bdf
) -> list[Edge] | None:
    """Return the peer-to-peer edges by which one function makes another work; None without."""
    if source == emitter:
        return []
    if not assume.get("deputy", True):
        return None
    nodes = way(fabric.reach(assume), source, emitter)
    return [fabric.edge(*hop, assume, _PEER) for hop in pairwise(nodes)] or None


def posing(fabric: Fabric, assume: Mapping[str, bool], emitter: Bdf, owner: Bdf) -> dict[Bdf, Edge]:
    """Return the requester ids of *owner* that *emitter*'s requests can carry, with their edges."""
    found: dict[Bdf, Edge] = {}
    for edge in fabric.edges_between(emitter, owner):
        if edge.channel in _POSING and edge.rid is not None and holds(edge.requires, assume):
            found.setdefault(Bdf.from_rid(edge.rid, emitter.domain), edge)
    return found
