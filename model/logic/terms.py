"""Sorts, terms and formulas of many-sorted first-order logic.

Formulas are immutable values. They know nothing of solvers or states: a reading (`reading.py`)
gives them a meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar, dataclass_transform

_T = TypeVar("_T")


@dataclass_transform(frozen_default=True)
def _value(cls: type[_T]) -> type[_T]:
    """Make a frozen dataclass that computes its hash, which walks through all of it, once."""
    made: Any = dataclass(frozen=True)(cls)
    computed = made.__hash__
    names = [f.name for f in fields(made)]

    def hash_once(self: Any) -> int:  # noqa: ANN401
        found: int | None = self.__dict__.get("_hash")
        if found is None:
            found = self.__dict__["_hash"] = computed(self)
        return found

    def state(self: Any) -> dict[str, Any]:  # noqa: ANN401
        # Texts hash otherwise in another process: the hash stays here.
        return {n: self.__dict__[n] for n in names}

    made.__hash__, made.__getstate__ = hash_once, state
    result: type[_T] = made
    return result


@_value
class Sort:
    """A kind of object, such as Function or Pasid."""

    name: str

    def __lt__(self, other: Sort) -> bool:
        return self.name < other.name

    def __str__(self) -> str:
        return self.name


@_value
class Var:
    """A variable of a sort: a parameter of an action, or bound by a quantifier."""

    name: str
    sort: Sort

    def __str__(self) -> str:
        return self.name


@_value
class Fn:
    """A static function symbol; with no arguments it is a constant."""

    name: str
    sorts: tuple[Sort, ...]
    result: Sort

    def __call__(self, *args: Term) -> Apply:
        """Apply the symbol.

        Raises:
            TypeError: wrong number or sorts of arguments.

        """
        _check_sorts(self.name, self.sorts, args)
        return Apply(self, args)


@_value
class Apply:
    """A function symbol applied to terms."""

    fn: Fn
    args: tuple[Term, ...]

    @property
    def sort(self) -> Sort:
        """The sort of the result."""
        return self.fn.result

    def __str__(self) -> str:
        return f"{self.fn.name}({', '.join(map(str, self.args))})" if self.args else self.fn.name


Term = Var | Apply


class Kind(StrEnum):
    """What may change a relation."""

    STATIC = "static"  # a fact of the machine; no action changes it
    MUTABLE = "mutable"  # state of software or hardware
    GHOST = "ghost"  # bookkeeping of the properties; no refusal may rest on it


@_value
class Rel:
    """A relation symbol."""

    name: str
    sorts: tuple[Sort, ...]
    kind: Kind = Kind.MUTABLE

    def __call__(self, *args: Term) -> Atom:
        """Apply the symbol.

        Raises:
            TypeError: wrong number or sorts of arguments.

        """
        _check_sorts(self.name, self.sorts, args)
        return Atom(self, args)


@dataclass(frozen=True)
class Truth:
    """The constant true or false."""

    value: bool

    def __str__(self) -> str:
        return "true" if self.value else "false"


@_value
class Atom:
    """A relation holds of some terms."""

    rel: Rel
    args: tuple[Term, ...]

    def __str__(self) -> str:
        return f"{self.rel.name}({', '.join(map(str, self.args))})"


@_value
class Eq:
    """Two terms of one sort are the same object."""

    left: Term
    right: Term

    def __post_init__(self) -> None:
        if self.left.sort != self.right.sort:
            raise TypeError(f"{self.left} is a {self.left.sort}, {self.right} a {self.right.sort}")

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


@_value
class Not:
    """Negation."""

    body: Formula

    def __str__(self) -> str:
        if isinstance(self.body, Eq):
            return f"{self.body.left} != {self.body.right}"
        return f"not {_wrap(self.body)}"


@_value
class And:
    """Conjunction; of nothing it is true."""

    parts: tuple[Formula, ...]

    def __str__(self) -> str:
        return " and ".join(map(_wrap, self.parts)) or "true"


@_value
class Or:
    """Disjunction; of nothing it is false."""

    parts: tuple[Formula, ...]

    def __str__(self) -> str:
        return " or ".join(map(_wrap, self.parts)) or "false"


@_value
class Quantified:
    """A universal or existential formula."""

    universal: bool
    variables: tuple[Var, ...]
    body: Formula

    def __str__(self) -> str:
        word = "forall" if self.universal else "exists"
        return f"{word} {', '.join(f'{v.name}: {v.sort}' for v in self.variables)}. {self.body}"


Formula = Truth | Atom | Eq | Not | And | Or | Quantified

TRUE = Truth(True)
FALSE = Truth(False)


def _wrap(formula: Formula) -> str:
    text = str(formula)
    return f"({text})" if isinstance(formula, And | Or | Quantified) else text


def _check_sorts(name: str, sorts: tuple[Sort, ...], args: tuple[Term, ...]) -> None:
    found = tuple(a.sort for a in args)
    if found != sorts:
        want = ", ".join(map(str, sorts))
        raise TypeError(f"{name} takes ({want}), got ({', '.join(map(str, found))})")


def not_(formula: Formula) -> Formula:
    """Negate, without double negations."""
    match formula:
        case Truth(value):
            return Truth(not value)
        case Not(body):
            return body
    return Not(formula)


def and_(*parts: Formula) -> Formula:
    """Conjoin; flattens, folds constants, drops repetitions."""
    return _join(parts, And, neutral=True)


def or_(*parts: Formula) -> Formula:
    """Disjoin; flattens, folds constants, drops repetitions."""
    return _join(parts, Or, neutral=False)


def _join(parts: Iterable[Formula], node: type[And] | type[Or], *, neutral: bool) -> Formula:
    flat: dict[Formula, None] = {}
    for part in parts:
        for item in part.parts if isinstance(part, node) else (part,):
            if isinstance(item, Truth):
                if item.value != neutral:
                    return item
            else:
                flat[item] = None
    if not flat:
        return Truth(neutral)
    return next(iter(flat)) if len(flat) == 1 else node(tuple(flat))


def implies(premise: Formula, conclusion: Formula) -> Formula:
    """Material implication."""
    return or_(not_(premise), conclusion)


def iff(left: Formula, right: Formula) -> Formula:
    """Both or neither."""
    return and_(implies(left, right), implies(right, left))


def ne(left: Term, right: Term) -> Formula:
    """Two terms differ."""
    return Not(Eq(left, right))


def forall(variables: Iterable[Var], body: Formula) -> Formula:
    """Universal quantification; over nothing it is the body (no sort is ever empty)."""
    return _quantify(True, tuple(variables), body)


def exists(variables: Iterable[Var], body: Formula) -> Formula:
    """Existential quantification; over nothing it is the body (no sort is ever empty)."""
    return _quantify(False, tuple(variables), body)


def _quantify(universal: bool, variables: tuple[Var, ...], body: Formula) -> Formula:
    if not variables or isinstance(body, Truth):
        return body
    return Quantified(universal, variables, body)


def term_vars(term: Term) -> Iterator[Var]:
    """Yield the variables of a term."""
    if isinstance(term, Var):
        yield term
    else:
        for arg in term.args:
            yield from term_vars(arg)


def free_vars(formula: Formula) -> frozenset[Var]:
    """Return the variables that no quantifier binds."""
    match formula:
        case Atom(_, args):
            return frozenset(v for a in args for v in term_vars(a))
        case Eq(left, right):
            return frozenset([*term_vars(left), *term_vars(right)])
        case Not(body):
            return free_vars(body)
        case And(parts) | Or(parts):
            return frozenset().union(*(free_vars(p) for p in parts))
        case Quantified(_, variables, body):
            return free_vars(body) - set(variables)
    return frozenset()


def relations(formula: Formula) -> frozenset[Rel]:
    """Return the relation symbols that occur in a formula."""
    match formula:
        case Atom(rel, _):
            return frozenset([rel])
        case Not(body):
            return relations(body)
        case And(parts) | Or(parts):
            return frozenset().union(*(relations(p) for p in parts))
        case Quantified(_, _, body):
            return relations(body)
    return frozenset()


def functions(formula: Formula) -> frozenset[Fn]:
    """Return the function symbols that occur in a formula, constants included."""
    match formula:
        case Atom(_, args):
            return frozenset(f for a in args for f in _term_functions(a))
        case Eq(left, right):
            return frozenset([*_term_functions(left), *_term_functions(right)])
        case Not(body):
            return functions(body)
        case And(parts) | Or(parts):
            return frozenset().union(*(functions(p) for p in parts))
        case Quantified(_, _, body):
            return functions(body)
    return frozenset()


def _term_functions(term: Term) -> Iterator[Fn]:
    if isinstance(term, Apply):
        yield term.fn
        for arg in term.args:
            yield from _term_functions(arg)


def substitute_term(term: Term, mapping: Mapping[Var, Term]) -> Term:
    """Replace variables in a term."""
    if isinstance(term, Var):
        return mapping.get(term, term)
    return Apply(term.fn, tuple(substitute_term(a, mapping) for a in term.args))


def substitute(formula: Formula, mapping: Mapping[Var, Term]) -> Formula:
    """Replace free variables, all at once.

    Raises:
        TypeError: a replacement is of another sort than its variable.
        ValueError: a replacement would be captured by a quantifier.

    """
    for variable, term in mapping.items():
        if variable.sort != term.sort:
            raise TypeError(f"{variable} is a {variable.sort}, {term} a {term.sort}")
    return _substitute(formula, mapping)


def _substitute(formula: Formula, mapping: Mapping[Var, Term]) -> Formula:
    match formula:
        case Atom(rel, args):
            return Atom(rel, tuple(substitute_term(a, mapping) for a in args))
        case Eq(left, right):
            return Eq(substitute_term(left, mapping), substitute_term(right, mapping))
        case Not(body):
            return not_(_substitute(body, mapping))
        case And(parts):
            return and_(*(_substitute(p, mapping) for p in parts))
        case Or(parts):
            return or_(*(_substitute(p, mapping) for p in parts))
        case Quantified(universal, variables, body):
            inner = {k: v for k, v in mapping.items() if k not in variables}
            free = free_vars(body)
            used = {v for k, t in inner.items() if k in free for v in term_vars(t)}
            clash = used & set(variables)
            if clash:
                raise ValueError(f"{sorted(v.name for v in clash)} would be captured in {formula}")
            return _quantify(universal, variables, _substitute(body, inner))
    return formula
