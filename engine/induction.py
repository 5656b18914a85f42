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
from functools import cached_property
from typing import Any

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.engine.scripts import Scripts, broken, hold, premise
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, not_

Expr = Any
Context = Any

z3.set_param("memory_max_size", 4096)  # MiB a process: a query that needs more has run away


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
        """Return a clock that runs out after *limit* seconds."""
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

    def __init__(self, what: str, script: Iterable[str], apart: Context) -> None:
        self.what = what
        self.solver = z3.SimpleSolver(ctx=apart)
        self.solver.from_string("\n".join(script))

    def core(self, assumptions: Mapping[str, Expr], clock: Clock) -> frozenset[str] | None:
        """Names of assumptions that suffice for unsatisfiability, or None if satisfiable.

        Raises:
            GaveUp: the solver did not answer.
        """
        self.solver.set("timeout", clock.left_ms(self.what))
        try:
            result = self.solver.check(list(assumptions.values()))
        except z3.Z3Exception as error:  # out of memory, above all
            raise GaveUp(f"z3 fails at {self.what} ({error})") from None
        if result == z3.unknown:
            raise GaveUp(f"z3 answers unknown at {self.what} ({self.solver.reason_unknown()})")
        if result == z3.sat:
            return None
        used = {x.get_id() for x in self.solver.unsat_core()}  # printing names is slow
        return frozenset(n for n, e in assumptions.items() if e.get_id() in used)

    def some(
        self, labels: Mapping[int, Expr], assumptions: Mapping[str, Expr], clock: Clock
    ) -> tuple[set[int], frozenset[str]]:
        """Return some of the *labels* that can be true; if none can, the core of the proof.

        Raises:
            GaveUp: the solver did not answer.
        """
        self.solver.push()
        try:
            self.solver.add(z3.Or(list(labels.values())))
            core = self.core(assumptions, clock)
            if core is not None:
                return set(), core
            model = self.solver.model()
            return {i for i, x in labels.items() if z3.is_true(model[x])}, frozenset()
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
        """Prepare the queries.

        Args:
            system: the transition system.
            premises: closed formulas over facts, by name.
            clauses: candidates; their places are their numbers.

        Raises:
            ValueError: a name of the system cannot be written in SMT-LIB.
        """
        self.system = system
        self.clauses = list(clauses)
        self._scripts = Scripts(system, premises, self.clauses)
        # A context of its own: what else the process has asked changes neither the time nor the
        # answer, and the memory of the queries ends with them.
        self._apart = z3.Context()
        self._names = {name: self._label(premise(name)) for name in premises}
        self._names |= {str(i): self._label(hold(i)) for i in range(len(self.clauses))}
        self._broken = [self._label(broken(i)) for i in range(len(self.clauses))]
        self._touched = [self._scripts.touched(act) for act in system.actions]
        self._steps: dict[int, _Query] = {}
        self._safety: dict[Formula, _Query] = {}
        # (clause, action) -> sets of names that suffice for survival, sets that do not.
        self._known: dict[
            tuple[int, int], tuple[list[frozenset[str]], list[frozenset[str]]]
        ] = {}

    def _label(self, name: str) -> Expr:
        return z3.Bool(name, self._apart)

    def _step(self, number: int) -> _Query:
        if number not in self._steps:
            act = self.system.actions[number]
            script = self._scripts.consecution(act, self._touched[number])
            self._steps[number] = _Query(f"consecution by {act.name}", script, self._apart)
        return self._steps[number]

    @cached_property
    def _first(self) -> _Query:
        script = self._scripts.initiation(range(len(self.clauses)))
        return _Query("initiation", script, self._apart)

    def _labels(self, numbers: Iterable[int]) -> dict[int, Expr]:
        return {i: self._broken[i] for i in numbers}

    def _under(self, premises: Iterable[str], alive: Iterable[int]) -> dict[str, Expr]:
        names = [*premises, *(str(i) for i in sorted(alive))]
        return {n: self._names[n] for n in names}

    def starting(self, numbers: Iterable[int], premises: Sequence[str], clock: Clock) -> set[int]:
        """Return those of some clauses that hold initially.

        Raises:
            GaveUp: the solver did not answer.
        """
        alive = set(numbers)
        while alive:
            failing, _ = self._first.some(self._labels(alive), self._under(premises, ()), clock)
            if not failing:
                break
            alive -= failing
        return alive

    def inductive(
        self, candidates: Iterable[int], given: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> set[int]:
        """Return the largest subset of *candidates* that is inductive together with *given*.

        Args:
            candidates: numbers of clauses that may be dropped.
            given: numbers of clauses known to be invariant.
            premises: names of premises assumed.
            clock: the deadline.

        Raises:
            GaveUp: the solver did not answer.
        """
        known = set(given)
        alive = self.starting(candidates, premises, clock)
        rests_on: dict[int, frozenset[str]] = {}
        changed = True
        while changed:
            changed = False
            for number, touched in enumerate(self._touched):
                names = {str(i) for i in known | alive} | set(premises)
                if number in rests_on and rests_on[number] <= names:
                    continue  # the last proof still stands
                while asked := [i for i in touched if i in alive]:
                    under = self._under(premises, known | alive)
                    failing, core = self._step(number).some(self._labels(asked), under, clock)
                    if not failing:
                        rests_on[number] = core
                        break
                    alive -= failing
                    changed = True
        return alive

    def safety(
        self, goal: Formula, alive: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> frozenset[str] | None:
        """Return what a closed *goal* rests on, or None when it does not follow.

        Raises:
            GaveUp: the solver did not answer.
        """
        query = self._safety.get(goal)
        if query is None:
            contrary = smtlib.assertion(not_(goal), "the contrary of the goal")
            script = [*self._scripts.state(), contrary]
            query = self._safety[goal] = _Query("safety", script, self._apart)
        return query.core(self._under(premises, alive), clock)

    def minimal(
        self, goal: Formula, alive: set[int], premises: Sequence[str], clock: Clock
    ) -> list[int]:
        """Return a subset of *alive* that proves *goal* and from which no clause can be dropped.

        Raises:
            GaveUp: the solver did not answer.
        """
        return _Minimiser(self, goal, premises, clock).run(alive)

    def consecution(
        self, clause: int, action: int, alive: Iterable[int], premises: Sequence[str], clock: Clock
    ) -> frozenset[str] | None:
        """Return what a clause's survival of an action rests on; None when it does not survive."""
        if clause not in self._touched[action]:
            return frozenset()
        under = self._under(premises, alive)
        names = frozenset(under)
        proofs, failures = self._known.setdefault((clause, action), ([], []))
        for core in proofs:
            if core <= names:
                return core
        if any(names <= weak for weak in failures):
            return None
        failing, core = self._step(action).some(self._labels([clause]), under, clock)
        if failing:
            failures.append(names)
            return None
        proofs.append(core)
        return core


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
