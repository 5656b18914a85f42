"""The computed groups beside the kernel's own, and a reason for every difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from itertools import islice

import networkx as nx

from dmaproof.model.pcie.acs import REQ_ACS_FLAGS, acs_quirk, pci_acs_enabled
from dmaproof.model.pcie.channels import PERMISSIVE, Fabric
from dmaproof.model.pcie.groups import LinuxGrouping
from dmaproof.model.pcie.topology import Bdf, Device, Machine, PortKind
from dmaproof.model.pcie.undecided import ISOLATING, Decision, Doubt, bounds, decide

Blocks = frozenset[frozenset[Bdf]]

UNDISPUTED: dict[str, bool] = {name: name in {"mfd_rid_honest", "deputy"} for name in PERMISSIVE}
"""No disputed way through the fabric is open: what leaks under these leaks in any case. Deputies
count, because memory of another function is reached with or without its help."""

_MAX_LEAKS = 1000


class Cause(StrEnum):
    """Why computed and recorded groups differ."""

    HIDDEN = "hidden-capability"
    QUIRK = "quirk"
    OVERRIDE = "override-patch"
    ORDER = "probe-order"
    COVERAGE = "not-covered"
    REMOVAL = "hot-removal"
    UNKNOWN = "unexplained"


@dataclass(frozen=True)
class Difference:
    """Functions that the kernel groups otherwise, or whose groups are not decided.

    Attributes:
        cause: which kind of reason.
        kernel: the kernel's groups of them.
        computed: the computed ones; where undecided, those at best.
        reason: in words.

    """

    cause: Cause
    kernel: tuple[tuple[Bdf, ...], ...]
    computed: tuple[tuple[Bdf, ...], ...]
    reason: str


@dataclass(frozen=True)
class Leak:
    """A way out of one of the kernel's groups.

    Attributes:
        source: the function that gets out.
        target: the function it acts as, or reaches.
        groups: the kernel's group numbers of both.
        path: the hops.
        reason: in words.

    """

    source: Bdf
    target: Bdf
    groups: tuple[int, int]
    path: tuple[Bdf, ...]
    reason: str


@dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        same: kernel groups that were computed exactly so.
        differences: the rest; cause `HIDDEN` means undecided and not contradicted.
        uncovered: functions without a group of the kernel's: its IOMMU does not cover them.
        leaks: ways out of the kernel's groups, one for each pair of groups.

    """

    same: tuple[tuple[Bdf, ...], ...]
    differences: tuple[Difference, ...]
    uncovered: tuple[Bdf, ...]
    leaks: tuple[Leak, ...]

    @property
    def contradicted(self) -> bool:
        """Whether some groups differ, whatever the reason."""
        return any(d.cause is not Cause.HIDDEN for d in self.differences)

    @property
    def undecided(self) -> bool:
        """Whether some groups could not be decided."""
        return any(d.cause is Cause.HIDDEN for d in self.differences)


@dataclass(frozen=True)
class _Variant:
    """A machine on which the kernel's rule could have come out as recorded."""

    cause: Cause
    reason: str
    decision: Decision


def compare(
    machine: Machine, recorded: Mapping[Bdf, int], assume: Mapping[str, bool] | None = None
) -> Comparison:
    """Set Linux's grouping as computed beside *recorded*.

    Args:
        machine: the topology.
        recorded: the kernel's group number of each function; functions that are not in the
            machine are left out.
        assume: assumptions for leaks; default grants nothing that is disputed.

    """
    known = {bdf: number for bdf, number in recorded.items() if bdf in machine}
    work = _Work(machine, known)
    return Comparison(
        same=tuple(sorted(tuple(sorted(block)) for block in work.same)),
        differences=tuple(work.differences()),
        uncovered=tuple(d.bdf for d in machine.devices if d.bdf not in known),
        leaks=tuple(leaks(machine, known, assume or UNDISPUTED)),
    )


class _Work:
    """One comparison."""

    def __init__(self, machine: Machine, recorded: Mapping[Bdf, int]) -> None:
        self.machine = machine
        self.recorded = recorded
        self.decision = decide(machine)
        groups: dict[int, set[Bdf]] = {}
        for bdf, number in recorded.items():
            groups.setdefault(number, set()).add(bdf)
        self.kernel: Blocks = frozenset(frozenset(members) for members in groups.values())

    def _inside(self, members: Iterable[Bdf]) -> frozenset[Bdf]:
        return frozenset(bdf for bdf in members if bdf in self.recorded)

    @cached_property
    def same(self) -> Blocks:
        decided = {self._inside(group.members) for group in self.decision.groups}
        return self.kernel & decided

    def differences(self) -> Iterator[Difference]:
        for region in self._regions():
            kernel = [block for block in self.kernel if block <= region]
            doubts = [d for d in self.decision.doubts if region & self._inside(d.members)]
            cause, reason = self._explain(region, kernel, doubts)
            yield Difference(
                cause,
                tuple(sorted(tuple(sorted(block)) for block in kernel)),
                tuple(sorted(self._computed(region))),
                reason,
            )

    def _regions(self) -> list[frozenset[Bdf]]:
        """Functions that must be looked at together, in address order; what agrees is left out."""
        graph = nx.Graph()
        computed = [self._inside(group.members) for group in self.decision.groups]
        computed += [self._inside(doubt.members) for doubt in self.decision.doubts]
        for block in [*(self.kernel - self.same), *(b for b in computed if b not in self.same)]:
            nx.add_path(graph, sorted(block)) if len(block) > 1 else graph.add_nodes_from(block)
        parts = [frozenset(part) for part in nx.connected_components(graph)]
        return sorted(parts, key=min)

    def _computed(self, region: frozenset[Bdf]) -> Iterator[tuple[Bdf, ...]]:
        blocks = [group.members for group in self.decision.groups]
        blocks += [part for doubt in self.decision.doubts for part in doubt.parts]
        for block in blocks:
            inside = self._inside(block) & region
            if inside:
                yield tuple(sorted(inside))

    def _explain(
        self, region: frozenset[Bdf], kernel: list[frozenset[Bdf]], doubts: list[Doubt]
    ) -> tuple[Cause, str]:
        if doubts and self._fits(self.decision, region, kernel):
            return Cause.HIDDEN, "; ".join(doubt.reason for doubt in doubts)
        for variant in self._variants:
            if self._fits(variant.decision, region, kernel):
                return variant.cause, variant.reason
        if self._only_joined(region, kernel) and self._missing:
            gone = ", ".join(map(str, self._missing[:8]))
            return Cause.REMOVAL, (
                "the kernel joins what nothing here joins, and its group numbers have gaps "
                f"({gone}): what joined them was removed while the machine ran"
            )
        return Cause.UNKNOWN, "no known reason: another kernel's rule, or a damaged dump"

    def _fits(
        self, decision: Decision, region: frozenset[Bdf], kernel: list[frozenset[Bdf]]
    ) -> bool:
        """Whether the kernel's groups in *region* are as decided, or within the bounds."""
        home = {bdf: block for block in kernel for bdf in block}
        for group in decision.groups:
            inside = self._inside(group.members) & region
            if inside and inside not in kernel:
                return False
        for doubt in decision.doubts:
            for bdf in self._inside(doubt.members) & region:
                if not home[bdf] <= set(doubt.members):
                    return False
            for part in doubt.parts:
                inside = self._inside(part) & region
                if inside and not inside <= home[min(inside)]:
                    return False
        return True

    def _only_joined(self, region: frozenset[Bdf], kernel: list[frozenset[Bdf]]) -> bool:
        """Whether the kernel's groups are the computed ones or unions of them."""
        return all(any(set(part) <= block for block in kernel) for part in self._computed(region))

    @cached_property
    def _missing(self) -> list[int]:
        """Group numbers below the highest that no function has."""
        numbers = set(self.recorded.values())
        return [n for n in range(min(max(numbers, default=0), 100_000)) if n not in numbers]

    # -- other machines, other kernels ----------------------------------------------------------

    @cached_property
    def _variants(self) -> list[_Variant]:
        return [*self._uncovered(), *self._without_quirks(), *self._overridden(), *self._late()]

    def _without_quirks(self) -> Iterator[_Variant]:
        reasons: dict[str, list[Bdf]] = {}
        for device in self.machine.devices:
            quirk = acs_quirk(self.machine, device)
            if quirk is not None:
                reasons.setdefault(quirk.reason, []).append(device.bdf)
        everything = [bdf for places in reasons.values() for bdf in places]
        choices = list(reasons.items())
        if len(choices) > 1:
            choices.append(("all quirks", everything))
        for reason, places in choices:
            plain = {bdf: replace(self.machine.device(bdf), vendor=0) for bdf in places}
            named = ", ".join(map(str, places[:4])) + (" ..." if len(places) > 4 else "")
            text = f"the kernel groups as if it did not know the quirk of {named}: {reason}"
            if "integrated endpoints" in reason:
                text += " (known since Linux 5.8)"
            yield _Variant(Cause.QUIRK, text, decide(self._with(plain)))

    def _overridden(self) -> Iterator[_Variant]:
        choices = (
            ("downstream", _DOWNSTREAM),
            ("multifunction", _MULTIFUNCTION),
            ("downstream,multifunction", _DOWNSTREAM | _MULTIFUNCTION),
        )
        for option, kinds in choices:
            changed = {
                device.bdf: replace(device, acs=ISOLATING, unknown=frozenset())
                for device in self.machine.devices
                if device.kind in kinds
                and self._leaks(device)
                and (device.multifunction or device.kind in _DOWNSTREAM)
            }
            if changed:
                text = (
                    "the kernel splits what ACS does not allow to split: as with the patch and "
                    f"option pcie_acs_override={option}, under which groups promise nothing"
                )
                yield _Variant(Cause.OVERRIDE, text, decide(self._with(changed)))

    def _leaks(self, device: Device) -> bool:
        return device.acs is None and not pci_acs_enabled(self.machine, device, REQ_ACS_FLAGS)

    def _uncovered(self) -> Iterator[_Variant]:
        """The rule again, for the functions that have a group alone."""
        order = tuple(bdf for bdf in self.machine.enumeration if bdf in self.recorded)
        if self.decision.doubts or not order or len(order) == len(self.machine.devices):
            return
        yield _Variant(
            Cause.COVERAGE,
            "no IOMMU covers some of the functions between these (they have no group), and the "
            "kernel's rule passes over them",
            Decision(tuple(LinuxGrouping(self.machine, order).run()), ()),
        )

    def _late(self) -> Iterator[_Variant]:
        """The rule again, functions in the order of their group numbers."""
        if self.decision.doubts or not self.recorded:
            return
        order = {bdf: place for place, bdf in enumerate(self.machine.enumeration)}
        late = sorted(self.recorded, key=lambda bdf: (self.recorded[bdf], order[bdf]))
        rest = [bdf for bdf in order if bdf not in self.recorded]
        groups = LinuxGrouping(self.machine, (*late, *rest)).run()
        yield _Variant(
            Cause.ORDER,
            "the kernel found these functions in another order than that of their buses (hot-plug, "
            "or a unit that came up late), and its groups depend on it",
            Decision(tuple(groups), ()),
        )

    def _with(self, changed: Mapping[Bdf, Device]) -> Machine:
        devices = (changed.get(device.bdf, device) for device in self.machine.devices)
        return Machine(self.machine.name, devices)


_DOWNSTREAM = frozenset({PortKind.ROOT_PORT, PortKind.DOWNSTREAM})
_MULTIFUNCTION = frozenset(
    {
        PortKind.ENDPOINT,
        PortKind.UPSTREAM,
        PortKind.LEGACY_ENDPOINT,
        PortKind.RC_INTEGRATED_ENDPOINT,
    }
)


def leaks(
    machine: Machine, recorded: Mapping[Bdf, int], assume: Mapping[str, bool]
) -> Iterator[Leak]:
    """Yield ways out of the kernel's groups, one for each pair of groups.

    What a dump leaves out counts as isolating, so that every leak is there in any case.
    """
    best = bounds(machine)[0] if any(d.unknown for d in machine.devices) else machine
    fabric = Fabric(best)
    # A function without a group counts as a group of its own, which nobody looks at.
    home = {d.bdf: recorded.get(d.bdf, -1 - place) for place, d in enumerate(best.functions)}
    seen: set[tuple[int, int]] = set()
    for source, target in islice(fabric.reach(assume).crossings(home), _MAX_LEAKS):
        pair = (home[source], home[target])
        if min(pair) < 0 or pair in seen:
            continue
        seen.add(pair)
        chain = fabric.witness(source, target, assume)
        path = tuple(hop for edge in chain for hop in edge.path)
        yield Leak(source, target, pair, path, "; ".join(edge.reason for edge in chain))
