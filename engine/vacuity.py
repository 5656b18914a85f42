"""Guards against vacuity: a proof about actions that never fire proves nothing.

For a theorem's premise there must be finite instances that satisfy the axioms of the system and the
premise, in which a function can be bound, and in which every action fires from a reachable state.
Runs are searched on the full system: the core, of which theorems are proved, allows every run of
it, so what fires here fires there.

Silence that is right by definition is listed with its reason (`_excuse`), and counts only if the
action fires where the premise does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dmaproof.engine.premises import bindable, premise_formula
from dmaproof.engine.worlds import SAMPLES, World
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance, holds
from dmaproof.model.logic.terms import exists
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise

BUDGET = 1_500
"""States of one instance: many times what the smallest ones have."""

COUNTS = (1, 1, 1)
"""Containers, PASIDs (besides none) and spaces of an instance."""

_AB = ("A", "B")
_TOGETHER = {"A": "g", "B": "g"}

SMALL: tuple[World, ...] = (
    # One function, which is plugged in late where that is possible: it meets every premise that
    # lets something be bound.
    World(("A",), {"A": "g"}, absent=frozenset("A")),
    World(_AB, {"A": "gA", "B": "gB"}),
    World(_AB, _TOGETHER, incapable=frozenset("B")),
    World(_AB, _TOGETHER),
    World(_AB, {"A": "gA", "B": "gB"}, incapable=frozenset("B")),
    # Machines on which nothing can be bound, by one fact each.
    World(("A",), {"A": "g"}, incapable=frozenset("A")),
    World(("A",), {"A": "g"}, bad_path=frozenset("A")),
    World(("A",), {"A": "g"}, ported=frozenset("g")),
)


_ONE_GROUP = (
    Premise.ONE_GROUP, Premise.ONE_FUNCTION, Premise.SINGLE_GROUP, Premise.SINGLE_FUNCTION
)
"""Premises under which all functions that can be bound share a group."""


@dataclass(frozen=True)
class Vacuity:
    """What became of the actions under a premise.

    Attributes:
        premise: the premise.
        met: some instance satisfies the axioms and the premise.
        bindable: in one of those a function can be bound.
        never: actions that fire in none of them, in the order of the system.
        excused: those of `never` that need not fire, with the reason.
        states: how many states were visited to find that out.
    """

    premise: Premise
    met: bool
    bindable: bool
    never: tuple[str, ...]
    excused: Mapping[str, str] = field(default_factory=dict)
    states: int = 0

    @property
    def silent(self) -> tuple[str, ...]:
        """Actions that never fire, without an excuse."""
        return tuple(name for name in self.never if name not in self.excused)

    @property
    def reason(self) -> str:
        """Why a theorem under the premise would be empty; "" if it would not."""
        point = self.premise is Premise.NOTHING_BINDABLE
        if not self.met and not point:
            return "vacuous: no instance satisfies the axioms and the premise"
        if self.silent:
            return f"vacuous: action {self.silent[0]} never fires"
        if not self.bindable and not point:
            return "vacuous: no function can be bound where the premise holds"
        return ""

    def __bool__(self) -> bool:
        return bool(self.reason)


class Witnesses:
    """Instances of one model, and the actions that were seen to fire in each."""

    def __init__(self, model: Model, worlds: tuple[World, ...] = (*SMALL, *SAMPLES)) -> None:
        """Lay out the instances; they are explored when a premise asks for them.

        Args:
            model: the model of a design.
            worlds: where to look, smallest first.
        """
        self.model = model
        self.names = tuple(act.name for act in model.system.actions)
        self._worlds = worlds
        self._fired: dict[int, frozenset[str]] = {}
        self.states = 0

    @cached_property
    def instances(self) -> list[Instance]:
        """The instances that satisfy the axioms of the system."""
        axioms = self.model.system.axioms.values()
        made = (w.instance(*COUNTS) for w in self._worlds)
        return [i for i in made if all(holds(a, i, {}, {}) for a in axioms)]

    def fired(self, number: int) -> frozenset[str]:
        """The actions that fire in a reachable state of an instance, within the budget."""
        if number not in self._fired:
            ground = GroundSystem(self.model.system, self.instances[number])
            self._fired[number] = self._explore(ground)
        return self._fired[number]

    def _explore(self, ground: GroundSystem) -> frozenset[str]:
        """Breadth first, until every action has fired or nothing is left."""
        successors = ground.compile_successors()
        names = [act.name for act in ground.actions]
        missing = set(names)
        fired: set[str] = set()
        seen = {ground.initial}
        queue = [ground.initial]
        for state in queue:
            for number, after in successors(state):
                fired.add(names[number])
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
            if missing == fired or len(seen) > BUDGET:
                break
        self.states += len(seen)
        return frozenset(fired)

    def under(self, premise: Premise) -> Vacuity:
        """Look for runs in which every action fires, on instances that meet a premise."""
        formula = premise_formula(premise, self.model)
        meeting = [n for n, i in enumerate(self.instances) if holds(formula, i, {}, {})]
        missing = set(self.names)
        excused = self._excused(premise, missing) if not meeting else {}
        for number in meeting:
            missing -= self.fired(number)
            excused = self._excused(premise, missing)
            if missing == excused.keys():
                break
        never = tuple(n for n in self.names if n in missing)
        can = exists((v.F1,), bindable(self.model, v.F1))
        able = any(holds(can, self.instances[n], {}, {}) for n in meeting)
        return Vacuity(premise, bool(meeting), able, never, excused, self.states)

    def _excused(self, premise: Premise, missing: set[str]) -> dict[str, str]:
        excuses = {n: e for n in missing if (e := _excuse(self.model, premise, n))}
        alive = self._anywhere(set(excuses)) if premise is not Premise.NONE else set(excuses)
        return {n: e for n, e in excuses.items() if n in alive}

    def _anywhere(self, wanted: set[str]) -> set[str]:
        """Those of some actions that fire on any instance at all, or need not."""
        if not wanted:
            return wanted
        anywhere = self.under(Premise.NONE)
        return wanted - set(anywhere.silent)


def check_vacuity(
    model: Model, premise: Premise, witnesses: Witnesses | None = None
) -> Vacuity:
    """Find out whether a theorem of a model under a premise would be about nothing.

    Args:
        model: the model of a design.
        premise: the premise of the theorem.
        witnesses: what was explored before of the same model.
    """
    return (witnesses or Witnesses(model)).under(premise)


def _excuse(model: Model, premise: Premise, name: str) -> str:
    """Why an action need not fire under a premise; "" if it must."""
    design = model.design
    if premise is Premise.NOTHING_BINDABLE:
        return "where nothing can be bound, no call enters and nothing follows from one"
    if name == "join.visit":
        if design.guards.singleton_container:
            return "the one group that a container may hold joins before its first bind"
        if premise in _ONE_GROUP:
            return "the one group that can be bound joins before its first bind"
        if design.interface.table == "iommu":
            return "what joins finds the entry in the table that all share"
    return ""
