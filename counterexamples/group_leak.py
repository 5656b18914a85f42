"""A machine whose groups leak: one way from group to group, hop by hop in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from dmaproof.engine.case import Case
from dmaproof.model.pcie.channels import Channel, Edge
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.topology import Machine

TRIES = 64
"""Ways that are looked at until one is certain, where a dump hides something."""


@dataclass(frozen=True)
class GroupLeak:
    """A function that acts as one of another group.

    Attributes:
        source: the function that sends.
        target: the one whose requester id its requests, or a deputy's, carry.
        groups: their groups.
        edges: the leak edges between them.
        says: the way hop by hop, one sentence each.
    """

    source: str
    target: str
    groups: tuple[int, int]
    edges: tuple[Edge, ...]
    says: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """The leak as JSON data."""
        return {
            "from": self.source,
            "to": self.target,
            "groups": list(self.groups),
            "assumptions": self.assumptions,
            "path": [
                {
                    "channel": str(edge.channel),
                    "leak": edge.channel.leak,
                    "from": str(edge.source),
                    "to": None if edge.target is None else str(edge.target),
                    "hops": [str(hop) for hop in edge.path],
                    "requires": {n: "on" if v else "off" for n, v in sorted(edge.requires)},
                    "reason": edge.reason,
                }
                for edge in self.edges
            ],
            "says": list(self.says),
        }

    @property
    def assumptions(self) -> dict[str, str]:
        """The literals that the way rests on."""
        needed = {name: value for edge in self.edges for name, value in edge.requires}
        if any(edge.channel is Channel.PEER_TO_PEER for edge in self.edges):
            needed["deputy"] = True
        return {name: "on" if value else "off" for name, value in sorted(needed.items())}

    def sentence(self) -> str:
        """The fact in one sentence."""
        first, second = self.groups
        needs = ", ".join(f"{name}={value}" for name, value in self.assumptions.items())
        rests = f" (rests on {needs})" if needs else ""
        return f"{self.source} of group {first} acts as {self.target} of group {second}{rests}"


def group_leak(case: Case) -> GroupLeak | None:
    """The first way that leaves a group of the machine, None if its groups are closed.

    Where the dump hides something, only a way that it does not hide counts.
    """
    home = case.group_of
    for number, (source, target) in enumerate(case.reach.crossings(home)):
        if number == TRIES:
            return None
        chain = case.chain((source, target))
        if case.unsure and not case.certain(chain):
            continue
        says = [sentence for edge in chain.edges for sentence in told(case.machine, edge)]
        return GroupLeak(
            case.name(source), case.name(target), (home[source], home[target]), chain.edges,
            tuple(says),
        )
    return None


def told(machine: Machine, edge: Edge) -> Iterator[str]:
    """Yield the hops of an edge as sentences."""
    def name(bdf: Bdf) -> str:
        return str(machine.device(bdf))

    if edge.target is None or edge.channel is Channel.ALIAS:
        yield edge.reason
        return
    if edge.channel is Channel.SPOOF:
        passed = ", ".join(name(port) for port in edge.path[1:])
        yield edge.reason
        yield (
            f"its requests pass {passed} and reach the IOMMU under requester id"
            f" 0x{edge.rid:04x} of {name(edge.target)}"
        )
        return
    yield f"{name(edge.source)} sends a request for a BAR of {name(edge.target)}"
    yield from _hops(machine, edge)
    yield (
        f"{name(edge.target)} does work for whoever writes its BAR: its own requests serve"
        f" {name(edge.source)}"
    )


def _hops(machine: Machine, edge: Edge) -> Iterator[str]:
    """Yield what each node on the way does with the request."""
    turned = False
    for here, after in pairwise(edge.path):
        at, to = machine.device(here), machine.device(after)
        if not turned and machine.parent(here) == after:
            yield f"it goes up from {at} to {to}"
            continue
        if not turned:
            turned = True
            yield f"{edge.reason}, so it goes on to {to}"
            continue
        yield f"it goes down from {at} to {to}"
