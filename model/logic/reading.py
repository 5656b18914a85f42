"""The one evaluator of formulas; a reading says what elements, atoms and truth values are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from dmaproof.model.logic.terms import (
    And,
    Atom,
    Eq,
    Fn,
    Formula,
    Not,
    Or,
    Quantified,
    Rel,
    Term,
    Truth,
    Var,
)

E = TypeVar("E")
B = TypeVar("B")
Env = Mapping[Var, E]


class Reading(Protocol[E, B]):
    """What a reading supplies: elements E of the sorts, truth values B, and their connectives."""

    def constant(self, value: bool) -> B:
        """Return the truth value *value*."""

    def atom(self, rel: Rel, args: tuple[E, ...]) -> B:
        """Whether *rel* holds of elements."""

    def equal(self, left: E, right: E) -> B:
        """Whether two elements are the same."""

    def apply(self, fn: Fn, args: tuple[E, ...]) -> E:
        """Return the value of a function."""

    def negate(self, value: B) -> B:
        """Negation."""

    def every(self, values: Sequence[Callable[[], B]]) -> B:
        """Conjunction; each value is computed only when asked for."""

    def some(self, values: Sequence[Callable[[], B]]) -> B:
        """Disjunction; each value is computed only when asked for."""

    def quantify(
        self, universal: bool, variables: tuple[Var, ...], env: Env[E], body: Callable[[Env[E]], B]
    ) -> B:
        """All or some values of *variables* make *body* true."""


class Interpreter(Generic[E, B]):
    """Gives formulas their meaning in a reading."""

    def __init__(self, reading: Reading[E, B]) -> None:
        self.reading = reading

    def term(self, term: Term, env: Env[E]) -> E:
        """Return the element a term denotes.

        Raises:
            KeyError: a variable has no value.

        """
        if isinstance(term, Var):
            return env[term]
        return self.reading.apply(term.fn, tuple(self.term(a, env) for a in term.args))

    def formula(self, formula: Formula, env: Env[E]) -> B:
        """Return the truth value of a formula.

        Raises:
            KeyError: a free variable has no value.

        """
        reading = self.reading
        match formula:
            case Truth(value):
                return reading.constant(value)
            case Atom(rel, args):
                return reading.atom(rel, tuple(self.term(a, env) for a in args))
            case Eq(left, right):
                return reading.equal(self.term(left, env), self.term(right, env))
            case Not(body):
                return reading.negate(self.formula(body, env))
            case And(parts):
                return reading.every([lambda p=p: self.formula(p, env) for p in parts])  # type: ignore[misc]
            case Or(parts):
                return reading.some([lambda p=p: self.formula(p, env) for p in parts])  # type: ignore[misc]
            case Quantified(universal, variables, body):
                return reading.quantify(
                    universal, variables, env, lambda inner: self.formula(body, inner)
                )
        raise TypeError(f"not a formula: {formula!r}")
