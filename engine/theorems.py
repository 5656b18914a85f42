"""Theorems: a property of a design, for any number of everything, under a named premise."""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from dmaproof.engine import candidates as cd
from dmaproof.engine.candidates import Clause, Samples
from dmaproof.engine.induction import Clock, GaveUp, Inductor
from dmaproof.engine.library import NOTHING, Hints, hints
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.recheck import Claim, verified
from dmaproof.engine.worlds import SAMPLES
from dmaproof.model.errors import InputError
from dmaproof.model.logic.sets import holds
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise, Property, PropertyKind
from dmaproof.properties.registry import find

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

    @builtins.property
    def name(self) -> str:
        """Identifier in verdicts and certificates."""
        return theorem_name(self.design, self.property, self.premise, self.hot_add)


def theorem_name(design: str, prop: str, premise: Premise, hot_add: bool) -> str:
    """Return the identifier of a theorem."""
    return f"{design}{'+hot-add' if hot_add else ''}/{prop}/{premise}"


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
    """Return what must always hold: the property, or for a `can` property that it never happens."""
    formula = prop.formula(model)
    return not_(formula) if prop.kind is PropertyKind.CAN else formula


_SHARED = (Premise.NONE, Premise.CLOSED_GROUPING, Premise.NO_EDGES)
"""Premises served by one set of queries: the invariant of software and caches holds without any,
and what an edge premise adds is about links only. Other premises narrow the machine so far that
more holds of the software, too; each has candidates of its own."""


class _Family:
    """The candidates and queries for some premises."""

    def __init__(
        self, prover: Prover, clauses: list[Clause], premises: tuple[Premise, ...]
    ) -> None:
        known = {p.value: premise_formula(p, prover.model) for p in premises}
        self.inductor = Inductor(prover.system, known, list(dict.fromkeys(clauses)))
        self.number = {c: i for i, c in enumerate(self.inductor.clauses)}
        self.alive: dict[Premise, set[int]] = {}

    def inductive(
        self, premise: Premise, clauses: list[Clause], given: set[int], clock: Clock
    ) -> set[int]:
        """Numbers of the inductive ones among *clauses*, with those *given*."""
        if premise not in self.alive:
            more = [self.number[c] for c in clauses]
            names = names_of(premise)
            self.alive[premise] = given | self.inductor.inductive(more, given, names, clock)
        return self.alive[premise]


def names_of(premise: Premise) -> tuple[str, ...]:
    """Return the assumption that stands for a premise in queries."""
    return () if premise is Premise.NONE else (premise.value,)


class Prover:
    """Proves properties of one design."""

    def __init__(self, model: Model, seconds: float = 60.0, *, use_library: bool = True) -> None:
        """Prepare; nothing is computed before the first question.

        Args:
            model: the model of the design.
            seconds: time for one theorem.
            use_library: try the known invariants before inference (see `engine.library`).
        """
        self.model = model
        self.system = model.core
        self.seconds = seconds
        self.use_library = use_library
        self._narrow: dict[Premise, _Family] = {}

    @cached_property
    def _samples(self) -> list[Samples]:
        return [
            cd.simulate(self.system, w.instance(2, 1, 2), RUNS, LENGTH) for w in SAMPLES
        ]

    def _meeting(self, premise: Premise) -> list[Samples]:
        """Return the simulated states of worlds that meet a premise."""
        formula = premise_formula(premise, self.model)
        return [s for s in self._samples if holds(formula, s.ground.instance, {}, {})]

    @cached_property
    def _base(self) -> list[Clause]:
        found = cd.candidates(self.model, self.system, self._samples, cd.base_frames())
        return [*cd.exclusive(self.model), *found]

    @cached_property
    def _linked(self) -> dict[Premise, list[Clause]]:
        frames = [cd.link_frame()]
        return {
            p: cd.candidates(self.model, self.system, self._meeting(p), frames)
            for p in _SHARED if p is not Premise.NONE
        }

    @cached_property
    def _shared(self) -> _Family:
        linked = [c for found in self._linked.values() for c in found]
        return _Family(self, [*self._base, *linked], _SHARED)

    def _alive(self, premise: Premise, clock: Clock) -> tuple[Inductor, set[int]]:
        """Return the queries for a premise, and the numbers of the inductive clauses."""
        if premise in _SHARED:
            alive = self._shared.inductive(Premise.NONE, self._base, set(), clock)
            if premise is not Premise.NONE:
                alive = self._shared.inductive(premise, self._linked[premise], alive, clock)
            return self._shared.inductor, alive
        # What holds of the software on every machine helps on a narrow one, even where a shorter
        # clause, which only looks true in the few worlds that meet the premise, hides it.
        wide, known = self._alive(Premise.NONE, clock)
        general = [wide.clauses[i] for i in sorted(known)]
        if premise not in self._narrow:
            frames = [*cd.base_frames(), *cd.narrow_frames(self.model), cd.link_frame()]
            found = cd.candidates(self.model, self.system, self._meeting(premise), frames)
            self._narrow[premise] = _Family(self, [*general, *found], (premise,))
        family = self._narrow[premise]
        given = {family.number[c] for c in general}
        more = [c for c in family.inductor.clauses if family.number[c] not in given]
        return family.inductor, family.inductive(premise, more, given, clock)

    @cached_property
    def _hints(self) -> Hints:
        return hints(self.model) if self.use_library else NOTHING

    @cached_property
    def _verified(self) -> dict[tuple[str, str], tuple[Clause, ...]]:
        """Return the hints of the library that z3 verifies: (property, premise) -> invariant."""
        keys = list(self._hints.theorems)
        claims = [
            Claim(clauses, Premise(premise), safe_goal(find(prop), self.model))
            for (prop, premise), clauses in self._hints.theorems.items()
        ]
        try:
            good = verified(self.model, claims, Clock.seconds(self.seconds))
        except (ValueError, InputError):  # no hint of this project: it costs time only
            return {}
        return {k: c.clauses for k, c, ok in zip(keys, claims, good, strict=True) if ok}

    def _known(self, prop: Property, premise: Premise) -> Theorem | NotProved | None:
        """Return what the library knows of a question; None if nothing that stands up."""
        key = (prop.id, premise.value)
        if key in self._hints.unproved:
            return NotProved("no inductive invariant that implies it is known", False)
        if key not in self._hints.theorems or key not in self._verified:
            return None
        return self._theorem(prop, premise, self._verified[key])

    def _theorem(self, prop: Property, premise: Premise, clauses: Iterable[Clause]) -> Theorem:
        design, hot_add = self.model.design.name, self.model.scheme.hot_add
        return Theorem(design, prop.id, premise, hot_add, tuple(clauses))

    def known(self, prop: Property, premise: Premise) -> Theorem | None:
        """Return what the library proves of a question, without inference."""
        found = self._known(prop, premise)
        return found if isinstance(found, Theorem) else None

    def prove(self, prop: Property, premise: Premise) -> Theorem | NotProved:
        """Prove a property under a premise, or say why that failed."""
        known = self._known(prop, premise)
        if known is not None:
            return known
        goal = safe_goal(prop, self.model)
        clock = Clock.seconds(self.seconds)
        names = names_of(premise)
        try:
            inductor, alive = self._alive(premise, clock)
            if inductor.safety(goal, alive, names, clock) is None:
                return NotProved("no inductive invariant was found that implies it", False)
            kept = inductor.minimal(goal, alive, names, clock)
        except GaveUp as error:
            return NotProved(str(error), True)
        return self._theorem(prop, premise, (inductor.clauses[i] for i in kept))
