"""Where the groups of a machine and its fabric components differ.

A component that reaches into several groups makes the kernel's promise false; a group that holds
several components promises less than the hardware gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmaproof.engine.assumptions import Assumptions
from dmaproof.model.pcie.channels import Edge, Fabric
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.groups import Group, group_of, groups
from dmaproof.model.pcie.topology import Machine
from dmaproof.reachability import Remedy, remedy


@dataclass(frozen=True)
class Leak:
    """A fabric component that is larger than each of its groups.

    Attributes:
        members: its functions.
        groups: the groups they are in.
        edge: a leak edge from one of these groups to another.
        remedies: the sets of bits of which each cuts this edge; empty: ACS cannot.

    """

    members: tuple[Bdf, ...]
    groups: tuple[int, ...]
    edge: Edge
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True)
class Coarse:
    """A group whose functions no leak channel connects.

    Attributes:
        group: its number.
        parts: its functions by component.

    """

    group: int
    parts: tuple[tuple[Bdf, ...], ...]


@dataclass(frozen=True)
class Overview:
    """What a machine's components and groups say of each other.

    Attributes:
        components: how many fabric components there are.
        groups: how many groups hold functions.
        leaks: components that are larger than their groups.
        coarse: groups that are larger than their components.

    """

    components: int
    groups: int
    leaks: tuple[Leak, ...]
    coarse: tuple[Coarse, ...]


def overview(machine: Machine, grouping: str, assumptions: Assumptions) -> Overview:
    """Compare the fabric components of *machine* with its groups."""
    assume = assumptions.fabric()
    return compared(machine, Fabric(machine), groups(machine, grouping, assume), assume)


def compared(
    machine: Machine, fabric: Fabric, found: list[Group], assume: dict[str, bool]
) -> Overview:
    """Compare the components of *fabric* under *assume* with the groups *found*."""
    home = group_of(found)
    components = fabric.components(assume)
    inside: dict[int, list[tuple[Bdf, ...]]] = {}
    for part in components:
        split: dict[int, list[Bdf]] = {}
        for member in part:
            split.setdefault(home[member], []).append(member)
        for group, members in split.items():
            inside.setdefault(group, []).append(tuple(members))
    crossing = _crossing_edges(fabric, assume, home)
    leaks = tuple(
        _leak(machine, part, home, crossing)
        for part in components
        if len({home[member] for member in part}) > 1
    )
    coarse = tuple(
        Coarse(group, tuple(parts)) for group, parts in sorted(inside.items()) if len(parts) > 1
    )
    return Overview(len(components), len(inside), leaks, coarse)


def _crossing_edges(
    fabric: Fabric, assume: dict[str, bool], home: dict[Bdf, int]
) -> dict[Bdf, Edge]:
    """Return for each function with a link to another group that edge."""
    found: dict[Bdf, Edge] = {}
    for source, target in fabric.reach(assume).links:
        if home[source] != home[target] and source not in found:
            found[source] = fabric.edge(source, target, assume)
    return found


def _leak(
    machine: Machine, part: tuple[Bdf, ...], home: dict[Bdf, int], crossing: dict[Bdf, Edge]
) -> Leak:
    # The links connect the component, so one of them leads from group to group.
    edge = next(crossing[member] for member in part if member in crossing)
    return Leak(
        part,
        tuple(sorted({home[member] for member in part})),
        edge,
        tuple(remedy(machine, cuts) for cuts in edge.ways_to_cut),
    )
