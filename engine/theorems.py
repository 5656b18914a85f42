"""Theorems: a property of a design, for any number of everything, under a named premise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dmaproof.engine import candidates as cd
from dmaproof.engine.candidates import Clause, Samples
from dmaproof.engine.induction import Clock, GaveUp, Inductor
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.worlds import SAMPLES
from dmaproof.model.logic.sets import holds
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise, Property, PropertyKind

RUNS, LENGTH = 60, 60
"""Simulated runs a world, and their length: about 1,500 states where there are that many."""


@dataclass(frozen=True)
class Theorem:
    """What was proved, and the inductive invariant that proves it.

    Attributes:
        invariant: clauses, each closed universally; none can be dropped.
    """

    design: str
    property: str
    premise: Premise
    hot_add: bool
    invariant: tuple[Clause, ...]

    @property
    def name(self) -> str:
        """Identifier in verdicts and certificates."""
        dynamic = "+hot-add" if self.hot_add else ""
        return f"{self.design}{dynamic}/{self.property}/{self.premise}"


@dataclass(frozen=True)
class NotProved:
    """Why there is no theorem.

    Attributes:
        reason: the obligation that failed, or the solver's excuse.
        gave_up: the solver did not answer (as against: the invariant found is too weak).
    """

    reason: str
    gave_up: bool


def safe_goal(prop: Property, model: Model) -> Formula:
    """What must always hold: the property, or for a `can` property that it never happens."""
    formula = prop.formula(model)
    return not_(formula) if prop.kind is PropertyKind.CAN else formula


class Prover:
    """Proves properties of one design.

    The invariant of software and caches is inferred once; what rests on a premise about the machine
    is added for each premise.
    """

    def __init__(self, model: Model, seconds: float = 60.0) -> None:
        self.model = model
        self.system = model.core
        self.seconds = seconds
        self._alive: dict[Premise, set[int]] = {}

    @cached_property
    def _samples(self) -> list[Samples]:
        return [
            cd.simulate(self.system, w.instance(2, 1, 2), RUNS, LENGTH) for w in SAMPLES
        ]

    @cached_property
    def _base(self) -> list[Clause]:
        found = cd.candidates(self.model, self.system, self._samples, cd.base_frames())
        return [*cd.exclusive(self.model), *found]

    @cached_property
    def _linked(self) -> dict[Premise, list[Clause]]:
        found = {}
        for premise in (Premise.CLOSED_GROUPING, Premise.NO_EDGES):
            formula = premise_formula(premise, self.model)
            samples = [s for s in self._samples if holds(formula, s.ground.instance, {}, {})]
            found[premise] = cd.candidates(
                self.model, self.system, samples, [cd.link_frame()]
            )
        return found

    @cached_property
    def _inductor(self) -> Inductor:
        clauses = list(dict.fromkeys([*self._base, *(c for x in self._linked.values() for c in x)]))
        premises = {p.value: premise_formula(p, self.model) for p in Premise}
        return Inductor(self.system, premises, clauses)

    def _invariant(self, premise: Premise, clock: Clock) -> set[int]:
        """Numbers of the inductive clauses under a premise."""
        if premise not in self._alive:
            number = {c: i for i, c in enumerate(self._inductor.clauses)}
            if premise in self._linked:
                given = self._invariant(Premise.NONE, clock)
                more = [number[c] for c in self._linked[premise]]
                found = self._inductor.inductive(more, given, [premise.value], clock)
                self._alive[premise] = given | found
            elif premise is Premise.NONE:
                base = [number[c] for c in self._base]
                self._alive[premise] = self._inductor.inductive(base, (), (), clock)
            else:
                self._alive[premise] = self._invariant(Premise.NONE, clock)
        return self._alive[premise]

    def prove(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        """Prove a property under a premise, or say why that failed."""
        clock = Clock.seconds(self.seconds)
        goal = safe_goal(prop, self.model)
        names: Sequence[str] = () if premise is Premise.NONE else (premise.value,)
        try:
            alive = self._invariant(premise, clock)
            if self._inductor.safety(goal, alive, names, clock) is None:
                return NotProved("no inductive invariant was found that implies it", False)
            kept = self._inductor.minimal(goal, alive, names, clock)
        except GaveUp as error:
            return NotProved(str(error), True)
        clauses = tuple(self._inductor.clauses[i] for i in kept)
        return Theorem(
            self.model.design.name, prop.id, premise, self.model.scheme.hot_add, clauses
        )
