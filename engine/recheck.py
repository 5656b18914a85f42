"""Verify given invariants: that the clauses are inductive, and that they imply the goals.

Many claims about one model are verified together. Each obligation is one SMT-LIB script in which a
Boolean a claim says "this claim is the one that fails"; if z3 refutes that some claim fails, all
hold, and what it learned about one claim served the others. Nothing is taken over from where the
clauses came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.engine.induction import Clock, Context, GaveUp
from dmaproof.engine.premises import premise_formula
from dmaproof.engine.scripts import Scripts, broken, hold, premise, under
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.terms import Formula, not_
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise


@dataclass(frozen=True)
class Claim:
    """An invariant and what it is said to prove.

    Attributes:
        clauses: together inductive under the premise.
        premise: about the machine.
        goal: a closed formula that they imply.

    """

    clauses: tuple[Clause, ...]
    premise: Premise
    goal: Formula


def verified(model: Model, claims: Sequence[Claim], clock: Clock) -> list[bool]:
    """Return for each claim whether it holds; what the solver leaves open does not.

    Raises:
        ValueError: a name of the model cannot be written in SMT-LIB.

    """
    if not claims:
        return []
    try:
        together = Clock.seconds(clock.left_ms("the known invariants") / 2000)
    except GaveUp:
        return [False] * len(claims)
    if _hold(model, claims, together):  # in half the time: the rest is for each by itself
        return [True] * len(claims)
    if len(claims) == 1:
        return [False]
    return [_hold(model, [claim], clock) for claim in claims]


def _hold(model: Model, claims: Sequence[Claim], clock: Clock) -> bool:
    """Whether all claims hold, as far as z3 can tell."""
    obligations = _Obligations(model, claims)
    apart = z3.Context()  # the time does not depend on what else was asked
    try:
        return all(_unsatisfiable(s, clock, apart) for s in obligations.all())
    except GaveUp:
        return False


def _unsatisfiable(script: str, clock: Clock, apart: Context) -> bool:
    solver = z3.SimpleSolver(ctx=apart)  # twice as fast here as the solver that may pick a strategy
    solver.set("timeout", clock.left_ms("the known invariants"))
    try:
        solver.from_string(script)
    except z3.Z3Exception as error:
        raise ValueError(f"z3 cannot read an obligation: {error}") from None
    try:
        return bool(solver.check() == z3.unsat)
    except z3.Z3Exception as error:  # out of memory, above all
        raise GaveUp(f"z3 fails at a known invariant ({error})") from None


class _Obligations:
    """What some claims amount to."""

    def __init__(self, model: Model, claims: Sequence[Claim]) -> None:
        self.system = model.core
        self.claims = claims
        clauses = list(dict.fromkeys(c for claim in claims for c in claim.clauses))
        numbers = {c: i for i, c in enumerate(clauses)}
        # Looked up once: a clause's hash walks through all of it.
        self.numbers = [[numbers[c] for c in claim.clauses] for claim in claims]
        self._count = len(clauses)
        premises = {c.premise.value: premise_formula(c.premise, model) for c in claims}
        self.scripts = Scripts(self.system, premises, clauses)

    def all(self) -> list[str]:
        """Write every obligation: initiation, consecution by each action, safety."""
        # Every clause is asked initially, those over facts alone, too: no action breaks them.
        every = range(self._count)
        found = [self._some_breaks(self.scripts.initiation(every), every, assumed=False)]
        for act in self.system.actions:
            asked = self.scripts.touched(act)
            found.append(
                self._some_breaks(self.scripts.consecution(act, asked), asked, assumed=True)
            )
        return [*(f for f in found if f), self._safety()]

    def _safety(self) -> str:
        lines = self.scripts.state()
        fails = []
        for claim, numbers in zip(self.claims, self.numbers, strict=True):
            contrary = smtlib.text(not_(claim.goal))
            fails.append(f"(and {' '.join(self._assumed(claim, numbers))} {contrary})")
        return _one_of(lines, fails)

    def _some_breaks(self, lines: list[str], asked: Sequence[int], *, assumed: bool) -> str:
        """Write "some claim has a clause, of those asked, that fails"; "" if none is asked."""
        choice, fails = set(asked), []
        for claim, numbers in zip(self.claims, self.numbers, strict=True):
            labels = [broken(i) for i in numbers if i in choice]
            if labels:
                only = [premise(claim.premise.value)]
                known = self._assumed(claim, numbers) if assumed else only
                fails.append(f"(and {' '.join(known)} (or false {' '.join(labels)}))")
        return _one_of(lines, fails) if fails else ""

    def _assumed(self, claim: Claim, numbers: Sequence[int]) -> list[str]:
        return [premise(claim.premise.value), *map(hold, numbers)]


def _one_of(lines: list[str], fails: Iterable[str]) -> str:
    """Assert that one claim fails; the label of a claim lets z3 reuse what refutes it."""
    labels = []
    for j, text in enumerate(fails):
        lines += under(f"fails!{j}", text)
        labels.append(f"fails!{j}")
    return "\n".join([*lines, f"(assert (or false {' '.join(labels)}))"])
