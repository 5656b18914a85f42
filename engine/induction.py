"""Inductive invariants over uninterpreted sorts: proofs for any number of everything.

The candidates that are not inductive are dropped until none is left to drop (Houdini); what remains
is an inductive invariant, and safety is asked of it. z3 decides each step; `unknown` never counts as
a proof.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.model.logic.smt import Uninterpreted
from dmaproof.model.logic.system import Action, System, initially, weakest_precondition
from dmaproof.model.logic.terms import TRUE, Formula, free_vars, not_

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


class _Step:
    """The consecution of all clauses by one action."""

    def __init__(self, houdini: Houdini, act: Action) -> None:
        self.act = act
        self.houdini = houdini
        self.solver = z3.Solver()
        self.solver.add(houdini.background)
        reading = houdini.reading
        params = reading.constants(act.params, "")
        for guard in act.guards:
            self.solver.add(reading.formula(guard.condition, params))
        self.breaks: dict[int, Expr] = {}
        for i, clause in enumerate(houdini.clauses):
            self.solver.add(houdini.implied[i])
            after = weakest_precondition(act, clause.matrix)
            if after == clause.matrix:
                continue  # the action does not touch it
            values = {**params, **houdini.skolem[i]}
            broken = z3.Bool(f"break!{i}")
            self.solver.add(z3.Implies(broken, reading.formula(not_(after), values)))
            self.breaks[i] = broken
        self.used: set[int] | None = None  # clauses that the last proof rested on

    def drop(self, alive: set[int], clock: Clock) -> bool:
        """Take clauses that the action breaks out of *alive*; whether there were any."""
        if self.used is not None and self.used <= alive:
            return False  # the last proof still stands
        dropped = False
        hold = self.houdini.hold
        while True:
            asked = [i for i in self.breaks if i in alive]
            if not asked:
                self.used = set()
                return dropped
            self.solver.set("timeout", clock.left_ms(self.act.name))
            self.solver.push()
            self.solver.add(z3.Or([self.breaks[i] for i in asked]))
            result = self.solver.check([hold[i] for i in sorted(alive)])
            if result == z3.unsat:
                core = {str(x) for x in self.solver.unsat_core()}
                self.used = {i for i in alive if str(hold[i]) in core}
                self.solver.pop()
                return dropped
            if result == z3.unknown:
                reason = self.solver.reason_unknown()
                self.solver.pop()
                raise GaveUp(f"z3 answers unknown at {self.act.name} ({reason})")
            model = self.solver.model()
            broken = {i for i in asked if z3.is_true(model[self.breaks[i]])}
            self.solver.pop()
            alive -= broken
            dropped = True


class Houdini:
    """Candidates and the queries about them; symbols and hypotheses are shared by all queries."""

    def __init__(
        self,
        system: System,
        premises: Iterable[Formula],
        clauses: Sequence[Clause],
        given: Sequence[Clause] = (),
    ) -> None:
        """Prepare the queries.

        Args:
            system: the transition system.
            premises: assumed besides its axioms.
            clauses: the candidates.
            given: clauses that are known to be invariant.
        """
        assumed = [*system.axioms.values(), *premises, *(c.closed for c in given)]
        self.system = system
        self.reading = Uninterpreted()
        self.background = [self.reading.formula(a, {}) for a in assumed]
        self.clauses = [c for c in clauses if self._starts(c)]
        self.hold = [z3.Bool(f"hold!{i}") for i in range(len(self.clauses))]
        self.implied = [
            z3.Implies(h, self.reading.formula(c.closed, {}))
            for h, c in zip(self.hold, self.clauses, strict=True)
        ]
        self.skolem = [self.reading.constants(c.variables, "sk!") for c in self.clauses]

    def _starts(self, clause: Clause) -> bool:
        """Whether a clause holds initially."""
        first = initially(self.system, clause.matrix)
        if first == TRUE:
            return True
        solver = z3.Solver()
        solver.set("timeout", 2000)
        solver.add(self.background)
        values = self.reading.constants(clause.variables, "sk!")
        solver.add(self.reading.formula(not_(first), values))
        return bool(solver.check() == z3.unsat)  # a candidate may be given up on unknown

    def run(self, clock: Clock) -> list[Clause]:
        """The largest inductive subset of the candidates.

        Raises:
            GaveUp: the solver did not answer.
        """
        alive = set(range(len(self.clauses)))
        steps = [_Step(self, act) for act in self.system.actions]
        changed = True
        while changed:
            changed = False
            for step in steps:
                if step.drop(alive, clock):
                    changed = True
        return [self.clauses[i] for i in sorted(alive)]


def entailed(hypotheses: Iterable[Formula], goal: Formula, clock: Clock, what: str) -> bool:
    """Whether *goal* (free variables universal) follows.

    Raises:
        GaveUp: the solver did not answer.
    """
    if goal == TRUE:
        return True
    reading = Uninterpreted()
    solver = z3.Solver()
    solver.set("timeout", clock.left_ms(what))
    solver.add([reading.formula(h, {}) for h in hypotheses])
    names = reading.constants(sorted(free_vars(goal), key=lambda x: x.name), "sk!")
    solver.add(reading.formula(not_(goal), names))
    result = solver.check()
    if result == z3.unknown:
        raise GaveUp(f"z3 answers unknown at {what} ({solver.reason_unknown()})")
    return bool(result == z3.unsat)
