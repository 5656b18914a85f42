"""Machines whose dump leaves something out: what can be said of them all the same.

`model.pcie.undecided` bounds such a machine by two others: at best all that is unknown isolates, at
worst none of it does. Every leak of the best machine is there in any case, and every leak there can
be is one of the worst. So a premise that only asks for few edges and large groups is asked of the
worst edges and the finest groups; a run is searched among those functions alone about which the two
agree. What needs more than that is undecided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from dmaproof.engine.assumptions import Assumptions
from dmaproof.engine.case import Case, Chain, Pair
from dmaproof.engine.worlds import World
from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.acs import pasid_path_ok
from dmaproof.model.pcie.channels import Fabric
from dmaproof.model.pcie.device import Bdf, Device, Fact
from dmaproof.model.pcie.groups import Group
from dmaproof.model.pcie.topology import Machine
from dmaproof.model.pcie.undecided import bounds, decide, missing
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise

FEW_EDGES = frozenset(
    {Premise.NO_EDGES, Premise.CLOSED_GROUPING, Premise.NO_P2P, Premise.P2P_IN_GROUP}
)
"""Premises that fewer edges, larger groups and fewer functions that can be bound only help."""

_WIDTH = 20
_NAMED = 8


def case_of(
    machine: Machine, grouping: str, assumptions: Assumptions, *, ats: bool,
    like: Case | None = None,
) -> Case:
    """Return the case of a machine, whether or not its dump leaves something out."""
    if any(device.unknown for device in machine.devices):
        return HiddenCase(machine, grouping, assumptions, ats=ats, like=like)
    return Case(machine, grouping, assumptions, ats=ats, like=like)


class HiddenCase(Case):
    """A machine whose dump leaves something out; facts are those of the best machine."""

    def __init__(
        self, machine: Machine, grouping: str, assumptions: Assumptions, *, ats: bool,
        like: Case | None = None,
    ) -> None:
        """Take a machine under assumptions, as `Case` does."""
        known = like if isinstance(like, HiddenCase) else None
        self.best, self.worst = known.bounds if known else bounds(machine)
        super().__init__(machine, grouping, assumptions, ats=ats, like=like)
        self.fabric = known.fabric if known else Fabric(self.best)
        self.reach = self.fabric.reach(assumptions.fabric())
        self._decision = decide(machine, grouping, assumptions.fabric())

    @property
    def bounds(self) -> tuple[Machine, tuple[Machine, ...]]:
        """The best machine and the worst."""
        return self.best, self.worst

    @cached_property
    def groups(self) -> list[Group]:
        """The decided groups; of the others the finest there could be."""
        return self._decision.finest

    @cached_property
    def _path_ok(self) -> dict[Bdf, bool]:
        return {d.bdf: pasid_path_ok(self.best, d.bdf) for d in self.functions}

    @cached_property
    def _worst(self) -> tuple[_Worst, ...]:
        return tuple(_Worst(machine, self) for machine in self.worst)

    # -- what is certain --------------------------------------------------------------------

    @cached_property
    def sure(self) -> frozenset[Bdf]:
        """Functions about which, and between which, every fact is the same at best and worst."""
        open_ = {bdf for doubt in self._decision.doubts for bdf in doubt.members}
        for group in self.groups:
            inside = [self.machine.device(m) for m in group.members if m in self.reach.number]
            if not all(self._plain(device) for device in inside):
                open_.update(group.members)
        certain = [d.bdf for d in self.functions if d.bdf not in open_]
        chosen = ranges.of(self.reach.number[bdf] for bdf in certain)
        return frozenset(bdf for bdf in certain if self._agreed(bdf, chosen))

    def _plain(self, device: Device) -> bool:
        """Whether the facts about one function alone are certain."""
        if device.unknown - {Fact.ACS}:
            return False
        paths = {pasid_path_ok(each, device.bdf) for each in (self.best, *self.worst)}
        return len(paths) == 1

    def _agreed(self, bdf: Bdf, chosen: ranges.Ranges) -> bool:
        """Whether the edges from a function to the chosen ones are the same at best and worst."""
        place = self.reach.number[bdf]
        for worst in self._worst:
            for name in ("acts", "peers", "poses", "influences"):
                low, high = (getattr(each.reach, name)(place) for each in (self, worst))
                if ranges.common(low, chosen) != ranges.common(high, chosen):
                    return False
        return True

    @cached_property
    def unsure(self) -> str:
        """Why something about the machine is not certain; "" if nothing is."""
        if len(self.sure) == len(self.functions):
            return ""
        hiding = sorted(bdf for doubt in self._decision.doubts for bdf in doubt.hiding)
        reasons = list(missing(self.machine, hiding, _NAMED))
        silent = [d.bdf for d in self.functions if Fact.CAPABILITIES in d.unknown]
        if silent:
            more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
            reasons.append("PASID and ATS of these functions are not shown: "
                           + ", ".join(map(str, silent[:_NAMED])) + more)
        return "cannot be decided: " + "; ".join(reasons or ["the dump does not say enough"])

    def certain(self, chain: Chain) -> bool:
        """Whether a run on these functions is one on the machine, whatever it hides."""
        return all(function in self.sure for function in chain.functions)

    # -- what the engines ask ----------------------------------------------------------------

    @cached_property
    def _kind(self) -> dict[Bdf, tuple[object, ...]]:
        kinds = super()._kind
        return {bdf: (*kind, bdf in self.sure) for bdf, kind in kinds.items()}

    def _examples(self) -> Iterator[tuple[Bdf, Bdf]]:
        return (pair for pair in super()._examples() if set(pair) <= self.sure)

    @cached_property
    def pairs(self) -> dict[World, Pair]:
        """Kinds of pairs among the functions that are certain, and what joins them as well."""
        found = super().pairs
        return {world: pair for world, pair in found.items() if self.certain(self.chain(pair))}

    def breaks(self, premise: Premise, model: Model) -> Pair | None:
        """None if the machine meets a premise whatever its dump hides, else some functions."""
        if premise is Premise.NONE:
            return None
        if not self.unsure:
            return super().breaks(premise, model)
        lost = any(Fact.PORT_ABOVE in device.unknown for device in self.machine.devices)
        if premise in FEW_EDGES and not lost:
            broken = (worst.breaks(premise, model) for worst in self._worst)
            return next((pair for pair in broken if pair is not None), None)
        return (self.functions[0].bdf,) if self.functions else super().breaks(premise, model)


class _Worst(Case):
    """The worst machine, but with the groups and PASID paths of the best."""

    def __init__(self, machine: Machine, over: HiddenCase) -> None:
        able = [_able(over.machine.device(d.bdf), d) for d in machine.devices]
        super().__init__(Machine(machine.name, able), over.grouping, over.assumptions, ats=over.ats)
        self._over = over

    @cached_property
    def groups(self) -> list[Group]:
        """Those of the best machine."""
        return self._over.groups

    @cached_property
    def _path_ok(self) -> dict[Bdf, bool]:
        return self._over._path_ok


def _able(shown: Device, device: Device) -> Device:
    """A function that can do whatever its dump does not rule out."""
    if Fact.CAPABILITIES not in shown.unknown:
        return device
    return replace(device, pasid=_WIDTH, pasid_execute=True, pasid_privileged=True, ats=True)
