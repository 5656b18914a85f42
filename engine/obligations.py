"""The obligations of an inductive proof as SMT-LIB 2.6 scripts, all expected unsatisfiable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from dmaproof.model.logic import smtlib
from dmaproof.model.logic.system import Action, System
from dmaproof.model.logic.terms import TRUE, Formula, and_, not_


class Obligations:
    """Initiation, consecution by each action, safety.

    Attributes:
        system: what the proof is about.
        invariant: closed formulas.
    """

    def __init__(
        self,
        system: System,
        invariant: Sequence[Formula],
        theorem: str,
        goal: Formula,
        claim: str,
        fact: Formula = TRUE,
        premise: str = "",
    ) -> None:
        """Prepare the scripts.

        Args:
            system: the transition system.
            invariant: closed formulas.
            theorem: the identifier that the scripts name in their first line.
            goal: what the invariant is said to imply.
            claim: how the scripts name the goal.
            fact: a closed formula over facts that the proof assumes.
            premise: how the scripts name that fact.

        """
        self.system = system
        self.invariant = invariant
        self._theorem = theorem
        self._goal, self._claim = goal, claim
        self._fact, self._premise = fact, premise

    def scripts(self) -> dict[str, str]:
        """Return the scripts by file name, in the order in which they are to be asked.

        Raises:
            ValueError: a name cannot be written in SMT-LIB.

        """
        found = {"initiation.smt2": self._initiation()}
        for act in self.system.actions:
            found[f"consecution-{act.name}.smt2"] = self._consecution(act)
        found["safety.smt2"] = self._safety()
        return found

    def _script(self, what: str, parts: Iterable[str]) -> str:
        head = [
            "(set-info :smt-lib-version 2.6)",
            "(set-info :category \"industrial\")",
            smtlib.comment(f"dmaproof, theorem {self._theorem}"),
            smtlib.comment(what),
            "(set-info :status unsat)",
            "(set-logic UF)",
        ]
        return "\n".join([*head, *parts, "(check-sat)", "(exit)"]) + "\n"

    @cached_property
    def _facts(self) -> list[str]:
        lines = smtlib.axioms(self.system)
        if self._fact != TRUE:
            lines.append(smtlib.assertion(self._fact, f"premise {self._premise}"))
        return lines

    @cached_property
    def _held(self) -> list[str]:
        return [
            smtlib.assertion(f, f"invariant, clause {i}") for i, f in enumerate(self.invariant, 1)
        ]

    def _broken(self, naming: Callable[..., str] = smtlib.plain) -> str:
        return smtlib.assertion(
            not_(and_(*self.invariant)), "the contrary: some clause of the invariant fails", naming
        )

    def _initiation(self) -> str:
        signature = smtlib.signature(self.system, initial=True)
        return self._script(
            "initiation: every initial state satisfies the invariant",
            [*signature, *self._facts, self._broken()],
        )

    def _consecution(self, act: Action) -> str:
        parts = [*smtlib.signature(self.system), *self._facts, *self._held]
        parts += smtlib.step(act)
        parts.append(self._broken(smtlib.after(act)))
        return self._script(
            f"consecution: {act.name} leads from the invariant to the invariant", parts
        )

    def _safety(self) -> str:
        parts = [*smtlib.signature(self.system), *self._facts, *self._held]
        parts.append(smtlib.assertion(not_(self._goal), f"the contrary of {self._claim}"))
        return self._script(f"safety: the invariant implies {self._claim}", parts)
