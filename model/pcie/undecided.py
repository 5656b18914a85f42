"""Groups of machines whose dump leaves something out: what is decided all the same.

What is unknown about a function stands for all it could be. Two machines bound that: in the one
every unknown port and function isolates, in the other none does. The kernel's rule joins more where
less isolates (`pci_acs_enabled` only ever keeps functions apart), so every group the machine could
have lies between the two. A group that both agree on is decided, whatever the dump hides; of the
rest only the bounds are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import networkx as nx

from dmaproof.model.pcie import quirks, ranges
from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, pci_acs_enabled
from dmaproof.model.pcie.channels import Fabric
from dmaproof.model.pcie.groups import Group, groups
from dmaproof.model.pcie.topology import Acs, Bdf, Device, Fact, Machine, PortKind

UNKNOWN_CLASS = 0xFF
"""Base class of what answers ones, and of names that no table has."""
ISOLATING = Acs(0x5F, 0x1D)
LEAKING = Acs(0x5F, 0)
_ISOLATION = frozenset({Fact.IDS, Fact.KIND, Fact.ACS, Fact.PHYSFN})
"""What says whether a function isolates."""
_DOUBTFUL = _ISOLATION | {Fact.PORT_ABOVE, Fact.ALIASES}

_CAUSES: tuple[tuple[frozenset[Fact], str], ...] = (
    (frozenset({Fact.KIND, Fact.ACS}), "these functions hide their capabilities"),
    (frozenset({Fact.PORT_ABOVE}), "the dump does not list the port above these functions"),
    (
        frozenset({Fact.PHYSFN}),
        "the dump does not show whether, and of which function, these are virtual functions",
    ),
    (
        frozenset({Fact.ALIASES}),
        "the requester ids that these use are in their own memory (Switchtec NTB)",
    ),
    (frozenset({Fact.IDS}), "quirks of these functions are unknown without their ids"),
)


@dataclass(frozen=True)
class Doubt:
    """Functions whose groups cannot be decided.

    Attributes:
        members: all of them; at worst they are one group, and with nobody else.
        parts: the groups they form at best.
        hiding: the functions among them, or the ports above, of which something is missing that
            matters.
        reason: what is missing, in words.

    """

    members: tuple[Bdf, ...]
    parts: tuple[tuple[Bdf, ...], ...]
    hiding: tuple[Bdf, ...]
    reason: str


@dataclass(frozen=True)
class Decision:
    """The groups of a machine, as far as its dump decides them.

    Attributes:
        groups: those that are the same whatever the dump leaves out.
        doubts: the rest.

    """

    groups: tuple[Group, ...]
    doubts: tuple[Doubt, ...]

    @property
    def finest(self) -> list[Group]:
        """All groups, those that are undecided as fine as they could be; numbered anew."""
        parts = {group.members: group.why for group in self.groups}
        for doubt in self.doubts:
            parts |= {part: (doubt.reason,) * len(part) for part in doubt.parts}
        listed = sorted(parts.items())
        return [Group(number, members, why) for number, (members, why) in enumerate(listed)]

    def doubt_about(self, bdf: Bdf) -> Doubt | None:
        """Return the doubt that *bdf* is part of, None if its group is decided."""
        return next((doubt for doubt in self.doubts if bdf in doubt.members), None)


def decide(
    machine: Machine, algorithm: str = "linux", assume: Mapping[str, bool] | None = None
) -> Decision:
    """Return the groups of *machine* that are the same whatever its dump leaves out.

    Args:
        machine: the topology.
        algorithm: as for `groups`.
        assume: as for `groups`.

    Raises:
        InputError: unknown algorithm.

    """
    if not any(device.unknown & _DOUBTFUL for device in machine.devices):
        return Decision(tuple(groups(machine, algorithm, assume)), ())
    best, worst = bounds(machine)
    finest = groups(best, algorithm, assume)
    if algorithm == "v3":
        finest, joined = _by_trees(machine, finest)
    else:
        joined = [group.members for each in worst for group in groups(each, algorithm, assume)]
    coarsest = _merged(machine, worst[0], joined)
    home = {member: group for group in finest for member in group.members}
    decided: list[Group] = []
    doubts: list[Doubt] = []
    for block in coarsest:
        parts = {home[member].id: home[member] for member in block}
        lost = any(Fact.PORT_ABOVE in machine.device(member).unknown for member in block)
        if len(parts) == 1 and not lost:  # a port that is not listed can be a member, too
            decided.append(next(iter(parts.values())))
        else:
            doubts.append(_doubt(machine, best, worst[0], block, parts.values()))
    decided.sort(key=lambda group: group.id)
    numbered = (replace(group, id=number) for number, group in enumerate(decided))
    return Decision(tuple(numbered), tuple(doubts))


def _by_trees(machine: Machine, found: list[Group]) -> tuple[list[Group], list[tuple[Bdf, ...]]]:
    """Bound groups by whole trees: where something is unknown, anything can be in its tree.

    The proposal of 2025 asks for more than isolation (whether there is a capability at all, what
    else a switch has), so no one machine keeps most apart, nor joins most.
    """
    graph = nx.Graph()
    for device in machine.devices:
        graph.add_node(device.bdf)
        near = (machine.parent(device.bdf), device.real_dma, device.physfn, *device.aliases)
        for other in (*near, *machine.slots[device.bdf.slot]):
            if other in machine:
                graph.add_edge(device.bdf, other)
    trees = [set(part) for part in nx.connected_components(graph)]
    open_ = [
        tree
        for tree in trees
        if len(tree) > 1 and any(machine.device(bdf).unknown & _DOUBTFUL for bdf in tree)
    ]
    finest = [group for group in found if not any(group.members[0] in tree for tree in open_)]
    coarsest = [group.members for group in finest]
    for tree in open_:
        coarsest.append(tuple(sorted(tree)))
        finest += [Group(-1, (bdf,), ("",)) for bdf in sorted(tree)]
    return [replace(g, id=n) for n, g in enumerate(finest)], coarsest


def bounds(machine: Machine) -> tuple[Machine, tuple[Machine, ...]]:
    """Return *machine* with all that is unknown isolating, and with none of it isolating.

    Of the latter there are two where a bridge may be a port or lead to conventional PCI: the rules
    join other things at the one than at the other, and the bound is both together. Nothing is
    unknown in what is returned.
    """
    best = Machine(
        machine.name, [_isolating(machine, d) if d.unknown else d for d in machine.devices]
    )
    open_ = any(d.is_bridge and Fact.KIND in d.unknown for d in machine.devices)
    kinds = (PortKind.CONVENTIONAL_BRIDGE, PortKind.ROOT_PORT)
    worst = tuple(
        Machine(machine.name, [_leaking(d, kind) if d.unknown else d for d in machine.devices])
        for kind in (kinds if open_ else kinds[:1])
    )
    return best, worst


def settled(
    machine: Machine, source: Bdf, target: Bdf, assume: Mapping[str, bool]
) -> Machine | None:
    """Return a machine without unknowns that answers whether *source* acts as *target*.

    None where the answer depends on what the dump leaves out.
    """
    if not any(device.unknown for device in machine.devices):
        return machine
    best, worst = bounds(machine)
    if _acts(best, source, target, assume):
        return best  # every leak of the best machine is there in any case
    chained = {source, target, *machine.ancestors(source), *machine.ancestors(target)}
    lost = any(Fact.PORT_ABOVE in machine.device(bdf).unknown for bdf in chained)
    if lost or any(_acts(each, source, target, assume) for each in worst):
        return None
    return worst[0]


def _acts(machine: Machine, source: Bdf, target: Bdf, assume: Mapping[str, bool]) -> bool:
    reach = Fabric(machine).reach(assume)
    first, second = (reach.number.get(bdf) for bdf in (source, target))
    if first is None or second is None:
        return False
    return ranges.contains(reach.acts(first), second)


def _isolating(machine: Machine, device: Device) -> Device:
    kind, acs = device.kind, device.acs
    if Fact.KIND in device.unknown:
        if device.is_bridge:
            kind = _isolating_bridge(machine, device)
        else:
            on_root = machine.on_root(device)
            kind = PortKind.RC_INTEGRATED_ENDPOINT if on_root else PortKind.ENDPOINT
    elif Fact.IDS in device.unknown and not kind.is_pcie and not device.is_bridge:
        kind = PortKind.ENDPOINT  # a quirk could vouch for it
    if device.unknown & _ISOLATION and kind.is_pcie:
        acs = ISOLATING
    return replace(device, kind=kind, acs=acs, unknown=frozenset())


def _isolating_bridge(machine: Machine, device: Device) -> PortKind:
    """What keeps most apart: a root port, or a switch port where those beside it or below are."""

    def switch(places: Iterable[Bdf]) -> bool:
        near = map(machine.device, places)
        return any(d.kind is PortKind.DOWNSTREAM and Fact.KIND not in d.unknown for d in near)

    if switch(machine.children(device.bdf)):
        return PortKind.UPSTREAM
    beside = switch(machine.buses[device.bdf.segment_bus])
    return PortKind.DOWNSTREAM if beside else PortKind.ROOT_PORT


def _leaking(device: Device, bridge: PortKind) -> Device:
    kind, acs, vendor = device.kind, device.acs, device.vendor
    if Fact.KIND in device.unknown:
        if not device.is_bridge:
            kind = PortKind.ENDPOINT
        elif _surely_root_port(device):
            kind = PortKind.ROOT_PORT
        else:
            kind = bridge
    if device.unknown & _ISOLATION:
        acs = LEAKING if kind.is_pcie else None
    if Fact.IDS in device.unknown:
        vendor = 0
    aliases = device.aliases
    if Fact.ALIASES in device.unknown:
        aliases |= quirks.whole_bus(device.bdf)
    return replace(
        device,
        kind=kind,
        acs=acs,
        vendor=vendor,
        own_memory=device.own_memory or device.is_bridge,
        aliases=aliases,
        unknown=frozenset(),
    )


def _surely_root_port(device: Device) -> bool:
    """Whether the ids alone say so: those that quirks are about."""
    if device.vendor == quirks.INTEL:
        return device.device in quirks.INTEL_PCH_ROOT_PORTS | quirks.WIDE_ACS_ROOT_PORTS
    return quirks.listed(quirks.VOUCHED_PORTS, device)


def _merged(
    machine: Machine, worst: Machine, found: Iterable[tuple[Bdf, ...]]
) -> list[tuple[Bdf, ...]]:
    """Join what overlaps, and groups that ports which the dump does not list could join.

    Such a port can leak, which joins all that is below it, and sit in any slot whose functions do
    not isolate, or it is a bridge of which the dump has no buses; a VMD segment whose owner is not
    known can belong to any VMD.
    """
    graph = nx.Graph()
    for members in found:
        graph.add_nodes_from(members)
        nx.add_path(graph, members)
    owners = [d.bdf for d in machine.devices if quirks.is_vmd(d)]
    segments: dict[int, list[Device]] = {}
    for device in machine.devices:
        segments.setdefault(device.bdf.domain, []).append(device)
    for segment, inside in sorted(segments.items()):
        open_ = [d.bdf for d in inside if Fact.PORT_ABOVE in d.unknown]
        lost = [below for bdf in open_ for below in machine.subtree(bdf)]
        if not lost:
            continue
        near = [
            d.bdf
            for d in inside
            if _without_buses(d)
            or (d.multifunction and not pci_acs_enabled(worst, worst.device(d.bdf), REQ_ACS_FLAGS))
        ]
        far = owners if segment >= quirks.FIRST_VMD_SEGMENT else []
        nx.add_path(graph, [*lost, *near, *far])
    return sorted(tuple(sorted(part)) for part in nx.connected_components(graph))


def _without_buses(device: Device) -> bool:
    """Whether it is or may be a bridge to a bus that the dump does not tell."""
    bridge = device.is_bridge or device.class_code >> 8 == UNKNOWN_CLASS
    return bridge and device.secondary is None and Fact.KIND in device.unknown


def _doubt(
    machine: Machine,
    best: Machine,
    worst: Machine,
    block: tuple[Bdf, ...],
    parts: Iterable[Group],
) -> Doubt:
    hiding = tuple(bdf for bdf in block if _matters(machine, best, worst, bdf))
    if not hiding:
        # Components have no ports, but what a port above hides decides about them.
        near = {bdf for member in block for bdf in (member, *machine.ancestors(member))}
        hiding = tuple(sorted(bdf for bdf in near if machine.device(bdf).unknown & _DOUBTFUL))
    reasons = list(missing(machine, hiding))
    return Doubt(
        members=block,
        parts=tuple(sorted(group.members for group in parts)),
        hiding=hiding,
        reason="cannot be decided: " + "; ".join(reasons),
    )


def _matters(machine: Machine, best: Machine, worst: Machine, bdf: Bdf) -> bool:
    device = machine.device(bdf)
    if device.unknown & {Fact.PORT_ABOVE, Fact.ALIASES}:
        return True
    if not device.unknown & _DOUBTFUL:
        return False
    answers = {pci_acs_enabled(bound, bound.device(bdf), REQ_ACS_FLAGS) for bound in (best, worst)}
    return len(answers) == 2


def missing(machine: Machine, hiding: Iterable[Bdf], limit: int = 1000) -> Iterator[str]:
    """Say in words what is missing about some functions, cause by cause.

    Args:
        machine: the topology.
        hiding: the functions.
        limit: how many of them are named for each cause.

    """
    left = list(hiding)
    for facts, text in _CAUSES:
        named = [bdf for bdf in left if machine.device(bdf).unknown & facts]
        if named:
            more = f" and {len(named) - limit} more" if len(named) > limit else ""
            yield f"{text}: {', '.join(map(str, named[:limit]))}{more}"
        left = [bdf for bdf in left if bdf not in named]
