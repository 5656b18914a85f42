"""Verdicts about scenarios: search in small worlds, invariants for any number, re-checked.

The claims are first looked for in the small worlds with a small budget (most refutations are
short), then proved for any number of everything by inferred invariants, and only when that fails
searched to the end of the worlds. Nothing here is trusted by itself: a run is a candidate until it
has been replayed in the set reading (`counterexamples.runs`), and an invariant counts only after
every obligation of it, written as SMT-LIB text of its own, is refuted by z3 anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar

from dmaproof.engine import candidates as cd
from dmaproof.engine.candidates import Clause, Samples
from dmaproof.engine.explicit import Search, search
from dmaproof.engine.induction import Clock, GaveUp, Inductor
from dmaproof.engine.library import clause_of
from dmaproof.engine.reproof import Reproof
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Step
from dmaproof.model.logic.terms import (
    Eq,
    Formula,
    Kind,
    Rel,
    Sort,
    Term,
    Var,
    free_vars,
    not_,
    or_,
    relations,
)
from dmaproof.model.scenario import Claim, ClaimKind, Scenario

RUNS, LENGTH = 60, 60
QUICK_STATES, QUICK_SECONDS = 4_000, 2.0


@dataclass(frozen=True)
class Proved:
    """An inductive invariant that implies the goal, for any number of everything.

    Attributes:
        invariant: the clauses; none can be dropped.
        by_hand: those among them that inference would not have found by itself.
    """

    invariant: tuple[Clause, ...]
    by_hand: tuple[Clause, ...] = ()


@dataclass(frozen=True)
class Run:
    """A candidate run to a state, in one of the scenario's worlds.

    Attributes:
        world: which of `Scenario.instances`.
        steps: from the initial state.
    """

    world: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Open:
    """Neither found; says how far the engines came.

    Attributes:
        reason: in words.
        exhausted: no run exists in any of the small worlds (which proves nothing for others).
    """

    reason: str
    exhausted: bool = False


Found = Proved | Run | Open


def goal_of(claim: Claim) -> Formula:
    """What must always hold: the claim, or for `can` that it never happens."""
    return not_(claim.formula) if claim.kind is ClaimKind.CAN else claim.formula


def decide(scenario: Scenario, claim: Claim, seconds: float = 60.0) -> Found:
    """Look for a run that leaves the goal of *claim*, and for an invariant that keeps it.

    For `can` a run is the witness, and an invariant proves that there is none.

    Args:
        scenario: the system and its worlds.
        claim: one of its claims.
        seconds: budget of time for all engines together.
    """
    clock = Clock.seconds(seconds)
    goal = goal_of(claim)
    inference = Inference.of(scenario)
    quick = inference.quick_runs.get(goal)
    if quick is None and goal not in inference.goals:  # a claim that the scenario does not list
        quick, _ = _explore(scenario, goal, QUICK_STATES, min(QUICK_SECONDS, seconds / 4))
    if quick is not None:
        return quick
    try:
        proof = inference.prove(goal, clock)
        if isinstance(proof, Proved):
            return proof
        excuse = proof
    except GaveUp as error:
        excuse = str(error)
    left = clock.deadline - time.monotonic()
    if left <= 0:
        return Open(excuse)
    run, exhausted = _explore(scenario, goal, 400_000, left)
    if run is not None:
        return run
    return Open(excuse, exhausted)


def reach(scenario: Scenario, formula: Formula, seconds: float = 20.0) -> Run | None:
    """A shortest run to a state where a closed formula holds, in the first world that has one."""
    return _explore(scenario, not_(formula), 200_000, seconds)[0]


def _explore(
    scenario: Scenario, goal: Formula, max_states: int, seconds: float
) -> tuple[Run | None, bool]:
    """A shortest run out of *goal*; otherwise whether every world was searched to its end."""
    runs, exhausted = _explore_all(scenario, {"goal": goal}, max_states, seconds)
    return runs.get("goal"), exhausted


def _explore_all(
    scenario: Scenario, goals: Mapping[str, Formula], max_states: int, seconds: float
) -> tuple[dict[str, Run], bool]:
    """A shortest run out of each goal, where there is one; whether the worlds were exhausted."""
    deadline = time.monotonic() + seconds
    targets = {name: not_(goal) for name, goal in goals.items()}
    runs: dict[str, Run] = {}
    exhausted = True
    for number, instance in enumerate(scenario.instances):
        left = deadline - time.monotonic()
        if left <= 0:
            return runs, False
        found: Search = search(
            scenario.system, instance, targets, max_states=max_states, seconds=left
        )
        for name, steps in found.traces.items():
            runs[name] = Run(number, tuple(steps))
            del targets[name]
        exhausted = exhausted and found.exhausted
        if not targets:
            break
    return runs, exhausted


class Inference:
    """Infers invariants of one scenario; keeps what it has learned for further goals."""

    _known: ClassVar[dict[int, Inference]] = {}
    KEPT: ClassVar = 2
    """Scenarios that are remembered: a job asks all about one before it turns to the next."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self._inductor: Inductor | None = None
        self._alive: set[int] = set()
        self._found: set[Clause] = set()
        self._once: dict[str, str] = {}

    def once(self, name: str, make: Callable[[Scenario], str]) -> str:
        """A text about the scenario that is costly to make, made once."""
        if name not in self._once:
            self._once[name] = make(self.scenario)
        return self._once[name]

    @classmethod
    def of(cls, scenario: Scenario) -> Inference:
        """The inference of a scenario; the same object for the same scenario."""
        known = cls._known.pop(id(scenario), None)
        if known is None or known.scenario is not scenario:
            known = cls(scenario)
        cls._known[id(scenario)] = known  # the last one asked for comes last
        while len(cls._known) > cls.KEPT:
            del cls._known[next(iter(cls._known))]
        return known

    @cached_property
    def goals(self) -> tuple[Formula, ...]:
        """What the claims say must always hold, and that calls are never made as they say."""
        claims = self.scenario.claims.values()
        calls = [not_(c.when) for c in claims if c.when is not None]
        return tuple(dict.fromkeys([*map(goal_of, claims), *calls]))

    @cached_property
    def quick_runs(self) -> Mapping[Formula, Run]:
        """Runs out of the goals, as far as a small budget for all of them together reaches."""
        named = {str(i): goal for i, goal in enumerate(self.goals)}
        runs, _ = _explore_all(self.scenario, named, QUICK_STATES, QUICK_SECONDS)
        return {named[i]: run for i, run in runs.items()}

    @cached_property
    def reproof(self) -> Reproof:
        """Verifies invariants of the scenario."""
        return Reproof(self.scenario.system)

    def prove(self, goal: Formula, clock: Clock) -> Proved | str:
        """An invariant for *goal*, or why there is none.

        Raises:
            GaveUp: the solver did not answer, or time ran out.
        """
        if self._inductor is None:
            self._prepare(clock)
        assert self._inductor is not None
        inductor, alive = self._inductor, self._alive
        if inductor.safety(goal, alive, (), clock) is None:
            own = clause_of(goal)  # the goal itself, as a last candidate
            if own in inductor.clauses:
                return "no inductive invariant was found that implies it"
            inductor = Inductor(self.scenario.system, {}, [*inductor.clauses, own])
            last = len(inductor.clauses) - 1
            alive = inductor.inductive([last], alive, (), clock)
            if inductor.safety(goal, alive, (), clock) is None:
                return "no inductive invariant was found that implies it"
        kept = [inductor.clauses[i] for i in inductor.minimal(goal, alive, (), clock)]
        if not verified(self.scenario, kept, goal, clock):
            return "an invariant was found that the re-check does not confirm"
        by_hand = [c for c in kept if c not in self._found and c != clause_of(goal)]
        return Proved(tuple(kept), tuple(by_hand))

    def _prepare(self, clock: Clock) -> None:
        scenario = self.scenario
        samples = [
            cd.simulate(scenario.system, i, RUNS, LENGTH) for i in scenario.instances
        ]
        found = list(dict.fromkeys(
            c for terms in _frames(scenario) for c in _candidates(scenario, samples, terms)
        ))
        self._found = set(found)
        hand = [c for c in map(clause_of, scenario.invariants) if c not in self._found]
        goals = [clause_of(goal_of(c)) for c in scenario.claims.values()]
        every = list(dict.fromkeys([*_exclusive(scenario), *hand, *goals, *found]))
        self._found |= set(_exclusive(scenario)) | set(goals) - set(hand)
        inductor = Inductor(scenario.system, {}, every)
        self._alive = inductor.inductive(range(len(every)), set(), (), clock)
        self._inductor = inductor


def verified(
    scenario: Scenario, invariant: Sequence[Clause], goal: Formula, clock: Clock
) -> bool:
    """Whether z3 refutes every obligation of a proof, each written anew.

    Raises:
        GaveUp: time ran out, or the solver broke.
    """
    return Inference.of(scenario).reproof.holds(invariant, goal, clock)


def _frames(scenario: Scenario) -> list[tuple[Term, ...]]:
    if scenario.frames:
        return list(scenario.frames)
    variables: list[Term] = [Var(f"x.{s}", s) for s in scenario.system.sorts]
    made: list[Term] = []
    for fn in scenario.system.fns:
        choices = [[t for t in variables if t.sort == s] for s in fn.sorts]
        made += [fn(*args) for args in product(*choices)]
    return [(*variables, *made)]


def _atoms(scenario: Scenario, terms: Sequence[Term]) -> list[Formula]:
    """Every relation, stretch of a program and equation over the terms of a frame."""
    by_sort: dict[Sort, list[Term]] = {}
    for term in terms:
        by_sort.setdefault(term.sort, []).append(term)
    staged = {r for life in scenario.stages for r in life}
    symbols: list[tuple[Rel, ...]] = [
        (r,) for r in scenario.system.rels if r not in staged
    ]
    symbols += [tuple(life[i:j]) for life in scenario.stages
                for i in range(len(life)) for j in {i + 1, len(life)}]
    found: list[Formula] = []
    for rels in dict.fromkeys(symbols):
        for args in product(*(by_sort.get(s, []) for s in rels[0].sorts)):
            found.append(or_(*(r(*args) for r in rels)))
    for same in by_sort.values():
        found += [Eq(a, b) for i, a in enumerate(same) for b in same[i + 1 :]]
    return list(dict.fromkeys(f for f in found if free_vars(f)))


def _candidates(
    scenario: Scenario, samples: Sequence[Samples], terms: Sequence[Term]
) -> Iterable[Clause]:
    pool = [x for a in _atoms(scenario, terms) for x in (a, not_(a))]
    variables = sorted({x for a in pool for x in free_vars(a)}, key=lambda x: x.name)
    table = [cd._truths(p, variables, samples) for p in pool]
    for clause in cd._search(pool, table, None, None, samples, variables, scenario.size):
        # What no action changes is a fact of the small worlds, not an invariant.
        if any(r.kind is not Kind.STATIC for r in relations(clause.matrix)):
            yield clause


def _exclusive(scenario: Scenario) -> list[Clause]:
    """A call stands at one place at a time."""
    found = []
    for life in scenario.stages:
        xs = tuple(Var(f"X{i}", s) for i, s in enumerate(life[0].sorts))
        for i, stage in enumerate(life[:-1]):
            later = or_(*(r(*xs) for r in life[i + 1 :]))
            found.append(Clause((not_(stage(*xs)), not_(later))))
    return found


def unfired(scenario: Scenario, max_states: int = 50_000, seconds: float = 20.0) -> set[str]:
    """Actions that no reachable state of the worlds allows (as far as the budget reaches)."""
    missing = {a.name for a in scenario.system.actions}
    for instance in scenario.instances:
        ground = GroundSystem(scenario.system, instance)
        successors = ground.compile_successors()
        seen, level = {ground.initial}, [ground.initial]
        deadline = time.monotonic() + seconds
        while level and missing and len(seen) < max_states and time.monotonic() < deadline:
            following = []
            for state in level:
                for number, after in successors(state):
                    missing.discard(ground.actions[number].name)
                    if after not in seen:
                        seen.add(after)
                        following.append(after)
            level = following
    return missing
