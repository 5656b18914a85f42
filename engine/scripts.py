"""Obligations about a set of clauses as SMT-LIB texts, for z3's parser.

Building z3 terms one by one from Python takes ten times as long as parsing a text. Hypotheses and
questions have Boolean labels, so that one script serves many questions:

- ``hold!i`` implies clause i, ``premise!name`` a premise;
- ``broken!i`` implies that clause i fails after the step (or initially) for some objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dmaproof.engine.candidates import Clause
from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import Action, System
from dmaproof.model.logic.terms import Fn, Formula, Term, Var, not_, relations, substitute


def hold(number: int) -> str:
    """Return the label of "the clause holds"."""
    return f"hold!{number}"


def broken(number: int) -> str:
    """Return the label of "the clause fails"."""
    return f"broken!{number}"


def premise(name: str) -> str:
    """Return the label of "the premise holds"."""
    return f"premise!{name}"


def under(label: str, text: str) -> list[str]:
    """Declare a label and let it imply a formula."""
    return [f"(declare-const {label} Bool)", f"(assert (=> {label} {text}))"]


class Scripts:
    """Texts about some clauses and premises of one system."""

    def __init__(
        self, system: System, premises: Mapping[str, Formula], clauses: Sequence[Clause]
    ) -> None:
        """Prepare the parts that all texts share.

        Args:
            system: the transition system.
            premises: closed formulas over facts, by name.
            clauses: the clauses; their places are their numbers.

        Raises:
            ValueError: a name of the system cannot be written, or has an exclamation mark.

        """
        names = [*(r.name for r in system.rels), *(f.name for f in system.fns)]
        strange = [n for n in names if "!" in n]
        if strange:
            raise ValueError(f"{strange[0]}: names with an exclamation mark are taken")
        self.system = system
        self.clauses = clauses
        self._relations = [relations(c.matrix) for c in clauses]
        variables = {v for c in clauses for v in c.variables}
        ordered = sorted(variables, key=lambda v: (v.name, v.sort))
        # One constant a variable serves all clauses: some clause fails if one of them does.
        constants = {v: Var(f"{v.name}!{v.sort}", v.sort) for v in ordered}
        env: dict[Var, Term] = {v: Fn(c.name, (), c.sort)() for v, c in constants.items()}
        self._negated = [not_(substitute(c.matrix, env)) for c in clauses]
        lines = smtlib.constants(constants.values())
        for i, clause in enumerate(clauses):
            lines += under(hold(i), smtlib.text(clause.closed))
        for name, formula in premises.items():
            lines += under(premise(name), smtlib.text(formula))
        self._shared = lines
        axioms = smtlib.axioms(system)
        self._first = [*smtlib.signature(system, initial=True), *axioms, *lines]
        self._any = [*smtlib.signature(system), *axioms, *lines]

    def initiation(self, numbers: Iterable[int]) -> list[str]:
        """Write a script about the initial state, with labels for the failure of some clauses."""
        return [*self._first, *self._breaks(numbers, smtlib.plain)]

    def touched(self, act: Action) -> list[int]:
        """Return the numbers of the clauses that speak of what an action updates."""
        updated = {u.rel for u in act.updates}
        return [i for i, found in enumerate(self._relations) if found & updated]

    def consecution(self, act: Action, numbers: Iterable[int]) -> list[str]:
        """Write a script about a step, with labels for the failure of some clauses after it."""
        return [*self._any, *smtlib.step(act), *self._breaks(numbers, smtlib.after(act))]

    def state(self) -> list[str]:
        """Write a script about any state."""
        return list(self._any)

    def _breaks(self, numbers: Iterable[int], naming: smtlib.Naming) -> list[str]:
        lines = []
        for i in numbers:
            lines += under(broken(i), smtlib.flat(smtlib.sexp(self._negated[i], naming)))
        return lines
