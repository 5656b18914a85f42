"""Guards: what each of them is needed for, or why it is not.

A guard of an action of a family is taken out of the action. Then some claim that held of a design
is refuted by a run of the mutant, or the guard is redundant, with a proof for each design that has
it: it follows from the action's other guards in every reachable state, or every claim that holds of
the design still holds of the mutant. Whatever is neither is a gap of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from dmaproof.counterexamples.study.table import ScenarioRow, table
from dmaproof.engine.candidates import Clause
from dmaproof.engine.explicit import Explorer
from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.engine.known import Known
from dmaproof.engine.reproof import Reproof
from dmaproof.engine.scenarios import Proved, goal_of
from dmaproof.model.logic.sets import ReplayError, Step, holds, replay
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Formula, and_, forall, implies, not_, or_
from dmaproof.model.scenario import (
    Claim,
    ClaimKind,
    Scenario,
    StudyDesign,
    always,
    builtin,
    builtins,
    refused,
)

QUICK, THOROUGH, SECONDS = 3_000, 100_000, 60.0
"""States that are visited of a mutant in one world, before and after proofs are tried; the time."""

PROOF_SECONDS = 60.0
"""Budget of one proof."""


@dataclass(frozen=True, order=True)
class Place:
    """A guard of an action of a family; several designs of the family may have it."""

    family: str
    action: str
    guard: str


@dataclass(frozen=True)
class Flip:
    """A run of the mutant that refutes what holds of the design.

    Attributes:
        world: which of the scenario's instances.
    """

    design: str
    claim: str
    world: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Needless:
    """Why a design does not need the guard.

    Attributes:
        how: ``implied`` by the action's other guards wherever a run leads, or ``proved``: every
            claim that holds of the design holds of the mutant.
        clauses: the invariant that proves it.
    """

    design: str
    how: str
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Finding:
    """What became of one guard.

    Attributes:
        flip: a claim that needs it; None: none was found.
        needless: for each design that has it, why not; empty after a flip.
        open: designs for which neither was found.
    """

    place: Place
    flip: Flip | None = None
    needless: tuple[Needless, ...] = ()
    open: tuple[str, ...] = ()


# -- what holds -----------------------------------------------------------------------------


@cache
def _rows() -> Mapping[tuple[str, str], tuple[tuple[str, str], ...]]:
    """What rows expect of (design, claim): (row, expected)."""
    found: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {}
    for row in table().rows:
        if isinstance(row, ScenarioRow):
            key = (row.design, row.claim)
            found[key] = (*found.get(key, ()), (row.id, row.expected))
    return found


def rows_of(design: str, claim: str) -> list[str]:
    """The ids of the rows about a claim of a design, each once."""
    return list(dict.fromkeys(row for row, _ in _rows().get((design, claim), ())))


def holding(design: StudyDesign) -> list[Claim]:
    """Claims of rows that more runs could refute: what always holds, and what never happens."""
    found = []
    for claim in design.scenario.claims.values():
        wanted = "refuted" if claim.kind is ClaimKind.CAN else "proved"
        if any(expected == wanted for _, expected in _rows().get((design.name, claim.id), ())):
            found.append(claim)
    return found


# -- mutants --------------------------------------------------------------------------------


def mutant(scenario: Scenario, action: str, guard: str) -> Scenario:
    """The scenario without a guard; what is claimed of refusals is claimed of the new action.

    Raises:
        KeyError: there is no such action or guard.
    """
    act = scenario.system.action(action).without_guard(guard)
    claims = {n: _of_mutant(c, act) for n, c in scenario.claims.items()}
    return replace(scenario, system=scenario.system.with_action(act), claims=claims)


def _of_mutant(claim: Claim, act: Action) -> Claim:
    if claim.action != act.name or claim.made is None:
        return claim
    return refused(claim.id, claim.says, act, claim.made, claim.errno)


def needed(act: Action, guard: str) -> Formula:
    """Wherever the other guards of an action hold, the guard holds or the step changes nothing."""
    mine = [g.condition for g in act.guards if g.name == guard]
    others = act.without_guard(guard)
    kept = []
    for update in act.updates:
        before, after = update.rel(*update.variables), update.after(update.variables)
        same = or_(and_(before, after), and_(not_(before), not_(after)))
        kept.append(forall(update.variables, same))
    return forall(act.params, implies(others.guard, or_(and_(*mine), and_(*kept))))


def flip(design: StudyDesign, action: str, guard: str, states: int = QUICK) -> Flip | None:
    """A shortest run of the mutant that refutes a claim of a row, in the first world with one."""
    changed = mutant(design.scenario, action, guard)
    names = [c.id for c in holding(design)]
    targets = {n: not_(goal_of(changed.claims[n])) for n in names}
    if not targets:
        return None
    for number, instance in enumerate(changed.instances):
        explorer = Explorer(changed.system, instance)
        found = explorer.look({"any": or_(*targets.values())}, max_states=states,
                              seconds=SECONDS)
        for steps in found.traces.values():
            end = replay(changed.system, instance, steps)[-1]
            claim = next(n for n, t in targets.items() if holds(t, instance, end, {}))
            return Flip(design.name, claim, number, tuple(steps))
    return None


def flips(found: Flip, place: Place) -> str:
    """Why a run does not show that a guard is needed; "" if it does."""
    design = builtin(found.design)
    if all(c.id != found.claim for c in holding(design)):
        return f"no row expects {found.claim} of {found.design} to hold"
    if not 0 <= found.world < len(design.scenario.instances):
        return f"{found.design} has no world {found.world}"
    instance = design.scenario.instances[found.world]
    changed = mutant(design.scenario, place.action, place.guard)
    try:
        end = replay(changed.system, instance, found.steps)[-1]
    except ReplayError as error:
        return f"the mutant does not run so: {error}"
    if holds(goal_of(changed.claims[found.claim]), instance, end, {}):
        return f"the run of the mutant does not refute {found.claim}"
    return ""


# -- redundant guards -----------------------------------------------------------------------


class Prover:
    """Proves of a design that it does not need a guard; keeps what is known of the design."""

    def __init__(self, design: StudyDesign, known: Known) -> None:
        """Take a design and where its invariants are looked up."""
        self.design, self.known = design, known
        self._reproof = Reproof(design.scenario.system)

    @cached_property
    def invariants(self) -> dict[str, tuple[Clause, ...]]:
        """An invariant for each claim of a row that holds for any number of everything."""
        found = {}
        for claim in holding(self.design):
            proof, _ = self.known.settle(self.design.scenario, claim, PROOF_SECONDS)
            if isinstance(proof, Proved):
                found[claim.id] = proof.invariant
        return found

    @cached_property
    def clauses(self) -> tuple[Clause, ...]:
        """All of them."""
        return tuple(dict.fromkeys(c for i in self.invariants.values() for c in i))

    def needless(self, action: str, guard: str) -> Needless | None:
        """Why the design does not need a guard; None if no reason was found."""
        goal = needed(self.design.scenario.system.action(action), guard)
        for clauses in ((), self.clauses):
            if _holds(self._reproof, clauses, goal):
                return Needless(self.design.name, "implied", clauses)
        changed = mutant(self.design.scenario, action, guard)
        proof = self._proved(changed)
        if proof is not None:
            return Needless(self.design.name, "proved", proof)
        implied = always("implied", f"{action} does not need {guard}", goal)
        found, _ = self.known.settle(self.design.scenario, implied, PROOF_SECONDS)
        if isinstance(found, Proved):
            return Needless(self.design.name, "implied", found.invariant)
        return None

    def _proved(self, changed: Scenario) -> tuple[Clause, ...] | None:
        """Clauses by which every claim of a row that holds of the design holds of a mutant."""
        goals = [goal_of(changed.claims[c.id]) for c in holding(self.design)]
        if _holds(Reproof(changed.system), self.clauses, and_(*goals)):
            return self.clauses
        found: list[Clause] = []
        for held in holding(self.design):
            proof, _ = self.known.settle(changed, changed.claims[held.id], PROOF_SECONDS)
            if not isinstance(proof, Proved):
                return None
            found += proof.invariant
        return tuple(dict.fromkeys(found))


def _holds(reproof: Reproof, clauses: Sequence[Clause], goal: Formula) -> bool:
    try:
        return reproof.holds(clauses, goal, Clock.seconds(PROOF_SECONDS))
    except GaveUp:
        return False


# -- all of them ----------------------------------------------------------------------------


def places(designs: Iterable[StudyDesign] = ()) -> dict[Place, list[StudyDesign]]:
    """Every guard of every family, with the designs that have it, those of most rows first."""
    found: dict[Place, list[StudyDesign]] = {}
    for design in designs or builtins().values():
        for act in design.scenario.system.actions:
            for name in dict.fromkeys(g.name for g in act.guards):
                found.setdefault(Place(design.family, act.name, name), []).append(design)
    for having in found.values():
        having.sort(key=lambda d: -len(holding(d)))
    return dict(sorted(found.items()))


def examine(
    place: Place, having: Sequence[StudyDesign], prover: Callable[[StudyDesign], Prover]
) -> Finding:
    """Look for a claim that needs a guard, for the proof that none does, and again for a claim."""
    for design in having:
        shown = flip(design, place.action, place.guard)
        if shown is not None:
            return Finding(place, shown)
    proofs, left = [], []
    for design in having:
        why = prover(design).needless(place.action, place.guard)
        if why is not None:
            proofs.append(why)
            continue
        shown = flip(design, place.action, place.guard, THOROUGH)
        if shown is not None:
            return Finding(place, shown)
        left.append(design.name)
    return Finding(place, None, tuple(proofs), tuple(left))
