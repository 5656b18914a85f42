"""Verify given invariants: that the clauses are inductive, and that they imply the goals.

Many claims about one model are verified together. Each obligation is one SMT-LIB script in which a
Boolean a claim says "this claim is the one that fails"; if z3 refutes that some claim fails, all
hold, and what it learned about one claim served the others. Nothing is taken over from where the
clauses came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import z3

from dmaproof.engine.candidates import Clause
from dmaproof.engine.induction import Clock, GaveUp
from dmaproof.engine.premises import premise_formula
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import (
    Fn,
    Formula,
    Term,
    Var,
    not_,
    relations,
    substitute,
)
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
    if _hold(model, claims, clock):
        return [True] * len(claims)
    if len(claims) == 1:
        return [False]
    return [_hold(model, [claim], clock) for claim in claims]


def _hold(model: Model, claims: Sequence[Claim], clock: Clock) -> bool:
    """Whether all claims hold, as far as z3 can tell."""
    scripts = _Scripts(model, claims)
    try:
        return all(_unsatisfiable(s, clock) for s in scripts.all())
    except GaveUp:
        return False


def _unsatisfiable(script: str, clock: Clock) -> bool:
    solver = z3.SimpleSolver()  # twice as fast here as the solver that may pick a strategy
    solver.set("timeout", clock.left_ms("the known invariants"))
    try:
        solver.from_string(script)
    except z3.Z3Exception as error:
        raise ValueError(f"z3 cannot read an obligation: {error}") from None
    return bool(solver.check() == z3.unsat)


class _Scripts:
    """The obligations of some claims as texts."""

    def __init__(self, model: Model, claims: Sequence[Claim]) -> None:
        self.system = model.core
        self.claims = claims
        names = [*(r.name for r in self.system.rels), *(f.name for f in self.system.fns)]
        strange = [n for n in names if "!" in n]
        if strange:
            raise ValueError(f"{strange[0]}: names with an exclamation mark are taken")
        self.number: dict[Clause, int] = {}
        for claim in claims:
            for clause in claim.clauses:
                self.number.setdefault(clause, len(self.number))
        variables = {v for c in self.number for v in c.variables}
        ordered = sorted(variables, key=lambda v: (v.name, v.sort))
        # One constant a variable serves all clauses: some clause fails if one of them does.
        env: dict[Var, Term] = {v: Fn(f"{v.name}!{v.sort}", (), v.sort)() for v in ordered}
        constants = smtlib.constants(Var(f"{v.name}!{v.sort}", v.sort) for v in ordered)
        self.broken = {c: not_(substitute(c.matrix, env)) for c in self.number}
        labelled = [*constants]
        for clause, i in self.number.items():
            labelled += _under(f"hold!{i}", smtlib.text(clause.closed))
        for premise in {c.premise for c in claims}:
            labelled += _under(f"premise!{premise}", smtlib.text(premise_formula(premise, model)))
        self.labelled = labelled

    def all(self) -> list[str]:
        """Every obligation: initiation, consecution by each action, safety."""
        scripts = [self._initiation(), *map(self._consecution, self.system.actions)]
        return [self._safety(), *(s for s in scripts if s)]

    def _initiation(self) -> str:
        head = [*smtlib.signature(self.system, initial=True), *smtlib.axioms(self.system)]
        # Every clause is asked here, those over facts alone, too: nobody else asks for them.
        return self._script(head, self.number, smtlib.plain, hypothesis=False)

    def _consecution(self, act: Action) -> str:
        updated = {u.rel for u in act.updates}
        head = [*smtlib.signature(self.system), *smtlib.axioms(self.system), *smtlib.step(act)]
        touched = {c: i for c, i in self.number.items() if relations(c.matrix) & updated}
        return self._script(head, touched, smtlib.after(act), hypothesis=True)

    def _safety(self) -> str:
        lines = [*smtlib.signature(self.system), *smtlib.axioms(self.system), *self.labelled]
        fails = []
        for j, claim in enumerate(self.claims):
            parts = [*self._assumed(claim), smtlib.text(not_(claim.goal))]
            lines += _under(f"fails!{j}", f"(and {' '.join(parts)})")
            fails.append(f"fails!{j}")
        return "\n".join([*lines, _some(fails)])

    def _script(
        self,
        head: list[str],
        asked: Mapping[Clause, int],
        naming: smtlib.Naming,
        *,
        hypothesis: bool,
    ) -> str:
        """Write "some claim has a clause, of those asked, that fails"; "" if none is asked."""
        lines = [*head, *self.labelled]
        for clause, i in asked.items():
            lines += _under(f"broken!{i}", smtlib.flat(smtlib.sexp(self.broken[clause], naming)))
        fails = []
        for j, claim in enumerate(self.claims):
            broken = [f"broken!{asked[c]}" for c in claim.clauses if c in asked]
            if broken:
                assumed = self._assumed(claim) if hypothesis else [f"premise!{claim.premise}"]
                assumed.append(f"(or false {' '.join(broken)})")
                lines += _under(f"fails!{j}", f"(and {' '.join(assumed)})")
                fails.append(f"fails!{j}")
        return "\n".join([*lines, _some(fails)]) if fails else ""

    def _assumed(self, claim: Claim) -> list[str]:
        holds = [f"hold!{self.number[c]}" for c in claim.clauses]
        return [f"premise!{claim.premise}", *holds]


def _under(label: str, text: str) -> list[str]:
    """Declare a Boolean that implies a formula."""
    return [f"(declare-const {label} Bool)", f"(assert (=> {label} {text}))"]


def _some(labels: Iterable[str]) -> str:
    return f"(assert (or false {' '.join(labels)}))"
