"""Inductive invariants over uninterpreted sorts: proofs for any number of everything.

Candidates that are not inductive are dropped until none is left to drop (Houdini); what remains is
an inductive invariant, and safety is asked of it. Every hypothesis is a z3 assumption, so an
unsatisfiable core says which clauses a step of the proof rests on; that drives the minimisation.
`unknown` never counts as a proof.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.model.logic.smt import Uninterpreted
from dmaproof.model.logic.system import Action, System, initially, weakest_precondition
from dmaproof.model.logic.terms import TRUE, Formula, not_

Expr = Any


class GaveUp(Exception):
    """The solver answered unknown, or time ran out; says at which obligation."""


@dataclass
class Clock:
    """A deadline shared by many queries.

    Attributes:
        deadline: `time.monotonic()` value after which nothing is started.
    """

    deadline: float

    @classmethod
    def seconds(cls, limit: float) -> Clock:
        """A clock that runs out after *limit* seconds."""
        return cls(time.monotonic() + limit)

    def left_ms(self, what: str) -> int:
        """Milliseconds left.

        Raises:
            GaveUp: none are.
        """
        left = int((self.deadline - time.monotonic()) * 1000)
        if left <= 0:
            raise GaveUp(f"time ran out at {what}")
        return left


class _Query:
    """A solver with named assumptions."""

    def __init__(self, what: str, background: Iterable[Expr]) -> None:
        self.what = what
        self.solver = z3.Solver()
        self.solver.add(list(background))

    def core(self, assumptions: Mapping[str, Expr], clock: Clock) -> frozenset[str] | None:
        """Names of assumptions that suffice for unsatisfiability, or None if satisfiable.

        Raises:
            GaveUp: the solver did not answer.
        """
        self.solver.set("timeout", clock.left_ms(self.what))
        result = self.solver.check(list(assumptions.values()))
        if result == z3.unknown:
            raise GaveUp(f"z3 answers unknown at {self.what} ({self.solver.reason_unknown()})")
        if result == z3.sat:
            return None
        used = {str(x) for x in self.solver.unsat_core()}
        return frozenset(n for n, e in assumptions.items() if str(e) in used)


class _Step(_Query):
    """Consecution by one action."""

    def __init__(self, owner: Inductor, act: Action) -> None:
        super().__init__(f"consecution by {act.name}", owner.background)
        reading = owner.reading
        params = reading.constants(act.params, "")
        for guard in act.guards:
            self.solver.add(reading.formula(guard.condition, params))
        self.breaks: dict[int, Expr] = {}
        for i, clause in enumerate(owner.clauses):
            after = weakest_precondition(act, clause.matrix)
            if after == clause.matrix:
                continue  # the action does not touch it
            values = {**params, **owner.skolem[i]}
            broken = z3.Bool(f"break!{i}")
            self.solver.add(z3.Implies(broken, reading.formula(not_(after), values)))
            self.breaks[i] = broken

    def broken_by(
        self, asked: Sequence[int], assumptions: Mapping[str, Expr], clock: Clock
    ) -> tuple[set[int], frozenset[str]]:
        """Some of the clauses *asked* that the action breaks; if none, the core of the proof."""
        self.solver.push()
        try:
            self.solver.add(z3.Or([self.breaks[i] for i in asked]))
            core = self.core(assumptions, clock)
            if core is not None:
                return set(), core
            model = self.solver.model()
            return {i for i in asked if z3.is_true(model[self.breaks[i]])}, frozenset()
        finally:
            self.solver.pop()


class Inductor:
    """Clauses, premises and the queries about them.

    Clauses are named by their number, premises by their name; a set of names that a query is asked
    under is a set of assumptions.
    """

    def __init__(
        self, system: System, premises: Mapping[str, Formula], clauses: Sequence[Clause]
    ) -> None:
        self.system = system
        self.reading = Uninterpreted()
        self.premises = dict(premises)
        self.clauses = list(clauses)
        self._names: dict[str, Expr] = {}
        self.background: list[Expr] = [
            self.reading.formula(a, {}) for a in system.axioms.values()
        ]
        for name, formula in premises.items():
            self._assume(name, formula)
        for i, clause in enumerate(self.clauses):
            self._assume(str(i), clause.closed)
        self.skolem = [self.reading.constants(c.variables, "sk!") for c in self.clauses]
        self._steps = [_Step(self, act) for act in system.actions]
        self._safety: dict[Formula, _Query] = {}

    def _assume(self, name: str, formula: Formula) -> None:
        literal = self._names[name] = z3.Bool(f"hold!{name}")
        self.background.append(z3.Implies(literal, self.reading.formula(formula, {})))

    def _under(self, premises: Iterable[str], alive: Iterable[int]) -> dict[str, Expr]:
        names = [*premises, *(str(i) for i in sorted(alive))]
        return {n: self._names[n] for n in names}

    def starts(self, clause: Clause, premises: Iterable[str], clock: Clock) -> bool:
        """Whether a clause holds initially; a candidate is given up when that is not plain."""
        first = initially(self.system, clause.matrix)
        if first == TRUE:
            return True
        query = _Query("initiation", self.background)
        values = self.reading.constants(clause.variables, "sk!")
        query.solver.add(self.reading.formula(not_(first), values))
        try:
            return query.core(self._under(premises, ()), clock) is not None
        except GaveUp:
            return False

    def inductive(
        self, candidates: Iterable[int], given: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> set[int]:
        """The largest subset of *candidates* that is inductive together with *given*.

        Args:
            candidates: numbers of clauses that may be dropped.
            given: numbers of clauses known to be invariant.
            premises: names of premises assumed.
            clock: the deadline.

        Raises:
            GaveUp: the solver did not answer.
        """
        known = set(given)
        alive = {i for i in candidates if self.starts(self.clauses[i], premises, clock)}
        rests_on: dict[int, frozenset[str]] = {}
        changed = True
        while changed:
            changed = False
            for number, step in enumerate(self._steps):
                names = {str(i) for i in known | alive} | set(premises)
                if number in rests_on and rests_on[number] <= names:
                    continue  # the last proof still stands
                asked = [i for i in step.breaks if i in alive]
                while asked:
                    broken, core = step.broken_by(
                        asked, self._under(premises, known | alive), clock
                    )
                    if not broken:
                        rests_on[number] = core
                        break
                    alive -= broken
                    changed = True
                    asked = [i for i in asked if i in alive]
        return alive

    def safety(
        self, goal: Formula, alive: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> frozenset[str] | None:
        """What a closed *goal* rests on, or None when it does not follow.

        Raises:
            GaveUp: the solver did not answer.
        """
        query = self._safety.get(goal)
        if query is None:
            query = self._safety[goal] = _Query("safety", self.background)
            query.solver.add(self.reading.formula(not_(goal), {}))
        return query.core(self._under(premises, alive), clock)

    def minimal(
        self, goal: Formula, alive: set[int], premises: Sequence[str], clock: Clock
    ) -> list[int]:
        """A subset of *alive* that proves *goal* and from which no clause can be dropped.

        Raises:
            GaveUp: the solver did not answer.
        """
        return _Minimiser(self, goal, premises, clock).run(alive)

    def consecution(
        self, clause: int, action: int, alive: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> frozenset[str] | None:
        """What a clause's survival of an action rests on; None when it does not survive."""
        step = self._steps[action]
        if clause not in step.breaks:
            return frozenset()
        broken, core = step.broken_by([clause], self._under(premises, alive), clock)
        return None if broken else core


class _Minimiser:
    """Closes a core of clauses under consecution, then drops what can be dropped."""

    def __init__(
        self, inductor: Inductor, goal: Formula, premises: Sequence[str], clock: Clock
    ) -> None:
        self.inductor = inductor
        self.goal = goal
        self.premises = premises
        self.clock = clock
        self.actions = range(len(inductor.system.actions))
        self.cores: dict[tuple[int, int], frozenset[str]] = {}  # (clause, action); (-1, 0): safety

    def _ask(self, query: tuple[int, int], kept: Iterable[int]) -> frozenset[str] | None:
        clause, action = query
        if clause < 0:
            return self.inductor.safety(self.goal, kept, self.premises, self.clock)
        return self.inductor.consecution(clause, action, kept, self.premises, self.clock)

    def run(self, alive: set[int]) -> list[int]:
        kept = self._closure(alive)
        changed = True
        while changed:
            changed = False
            # Long clauses first: what remains is easier to read.
            for clause in sorted(kept, key=lambda i: (-len(self.inductor.clauses[i].literals), -i)):
                if self._droppable(clause, kept):
                    kept.discard(clause)
                    changed = True
        return sorted(kept)

    def _closure(self, alive: set[int]) -> set[int]:
        core = self._ask((-1, 0), alive)
        if core is None:
            raise ValueError("the goal does not follow from the clauses")
        self.cores[-1, 0] = core
        kept: set[int] = set()
        todo = self._clauses(core)
        while todo:
            kept |= todo
            more: set[int] = set()
            for clause in sorted(todo):
                for action in self.actions:
                    found = self._ask((clause, action), kept | more)
                    if found is None:
                        found = self._ask((clause, action), alive)
                    if found is None:
                        raise ValueError("the clauses are not inductive")
                    self.cores[clause, action] = found
                    more |= self._clauses(found) - kept
            todo = more
        return kept

    def _clauses(self, core: frozenset[str]) -> set[int]:
        return {int(n) for n in core if n.isdigit()}

    def _droppable(self, clause: int, kept: set[int]) -> bool:
        rest = kept - {clause}
        fresh: dict[tuple[int, int], frozenset[str]] = {}
        for query, core in self.cores.items():
            if query[0] == clause or (query[0] >= 0 and query[0] not in rest):
                continue
            if str(clause) in core:
                found = self._ask(query, rest)
                if found is None:
                    return False
                fresh[query] = found
        self.cores.update(fresh)
        return True
