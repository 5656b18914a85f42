"""SMT-LIB 2.6 text of formulas and transition systems, and formulas read back from it.

No solver is needed here. The text is deterministic: equal systems give equal text, byte for byte,
so text can be compared and hashed. A state after a step is written down as definitions: relation
``rel`` of the state before becomes ``rel.after``, defined by the action's update.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache

from dmaproof.model.logic.system import Action, System, fresh_vars
from dmaproof.model.logic.terms import (
    FALSE,
    TRUE,
    And,
    Apply,
    Atom,
    Eq,
    Fn,
    Formula,
    Kind,
    Not,
    Or,
    Quantified,
    Rel,
    Term,
    Truth,
    Var,
    and_,
    not_,
    or_,
)

Sexp = str | list["Sexp"]
Naming = Callable[[Rel], str]

WIDTH = 100
"""Longer expressions are broken over lines."""
MAX_DEPTH = 100
"""Deeper nested text is refused; no formula of the project comes near."""

_SIMPLE = re.compile(r"[A-Za-z~!@$%^&*_\-+=<>.?/][A-Za-z0-9~!@$%^&*_\-+=<>.?/]*")
_QUOTABLE = re.compile(r"[ -~]*")
_RESERVED = frozenset((
    "!", "_", "as", "BINARY", "DECIMAL", "exists", "HEXADECIMAL", "forall", "let", "match",
    "NUMERAL", "par", "STRING",
))
_CORE = frozenset((
    "true", "false", "not", "=>", "and", "or", "xor", "=", "distinct", "ite", "Bool",
))
_TOKEN = re.compile(r"\s+|;[^\n]*|(?P<token>[()]|\|[^|\\]*\||[^\s()|;\"]+)|(?P<bad>.)", re.DOTALL)


@cache
def symbol(name: str) -> str:
    """Return a name as an SMT-LIB symbol, quoted where that is needed.

    Raises:
        ValueError: no symbol can be called so: it holds ``|``, a backslash or something other than
            printable ASCII, or it belongs to the core theory.

    """
    if name in _CORE:
        raise ValueError(f"{name!r} has a meaning of its own in SMT-LIB")
    if _SIMPLE.fullmatch(name) and name not in _RESERVED:
        return name
    if not _QUOTABLE.fullmatch(name) or "|" in name or "\\" in name:
        raise ValueError(f"{name!r} cannot be written as an SMT-LIB symbol")
    return f"|{name}|"


def plain(rel: Rel) -> str:
    """Return the name of a relation in the state before a step."""
    return rel.name


def after(act: Action) -> Naming:
    """Return the names of relations in the state after *act*: updated ones have their own."""
    updated = {u.rel for u in act.updates}
    return lambda rel: f"{rel.name}.after" if rel in updated else rel.name


# -- formulas as S-expressions ------------------------------------------------------------------


def term_sexp(term: Term) -> Sexp:
    """Return a term as an S-expression."""
    if isinstance(term, Var):
        return symbol(term.name)
    return _call(term.fn.name, term.args)


def sexp(formula: Formula, naming: Naming = plain) -> Sexp:
    """Return a formula as an S-expression.

    Args:
        formula: the formula; its free variables become symbols of their names.
        naming: the name of each relation, see `after`.

    """
    match formula:
        case Truth(value):
            return "true" if value else "false"
        case Atom(rel, args):
            return _call(naming(rel), args)
        case Eq(left, right):
            return ["=", term_sexp(left), term_sexp(right)]
        case Not(body):
            return ["not", sexp(body, naming)]
        case And(parts):
            return _nary("and", "true", [sexp(p, naming) for p in parts])
        case Or(parts):
            return _nary("or", "false", [sexp(p, naming) for p in parts])
        case Quantified(universal, variables, body):
            word = "forall" if universal else "exists"
            return [word, _bound(variables), sexp(body, naming)]
    raise TypeError(f"not a formula: {formula!r}")


def _nary(word: str, neutral: str, parts: list[Sexp]) -> Sexp:
    # SMT-LIB's "and" and "or" take two arguments at least.
    if not parts:
        return neutral
    return parts[0] if len(parts) == 1 else [word, *parts]


def _call(name: str, args: tuple[Term, ...]) -> Sexp:
    return [symbol(name), *(term_sexp(a) for a in args)] if args else symbol(name)


def _bound(variables: Iterable[Var]) -> Sexp:
    return [[symbol(x.name), symbol(x.sort.name)] for x in variables]


def flat(expression: Sexp) -> str:
    """Write an S-expression on one line."""
    if isinstance(expression, str):
        return expression
    return f"({' '.join(map(flat, expression))})"


def pretty(expression: Sexp, indent: int = 0) -> str:
    """Write an S-expression over as many lines as `WIDTH` asks for."""
    if isinstance(expression, str) or _room(expression, WIDTH - indent) >= 0:
        return flat(expression)
    head, rest = [expression[0]], expression[1:]
    if isinstance(head[0], str) and head[0] in ("forall", "exists", "define-fun"):
        count = 1 if head[0] != "define-fun" else 3
        head, rest = [*head, *rest[:count]], rest[count:]
    first = " ".join(map(flat, head))
    lines = [f"({first}", *(" " * (indent + 2) + pretty(x, indent + 2) for x in rest)]
    return "\n".join(lines) + ")"


def _room(expression: Sexp, room: int) -> int:
    """Return what one line leaves of *room* characters; below 0: it is too long."""
    if isinstance(expression, str):
        return room - len(expression)
    room -= max(1 + len(expression), 2)  # parentheses, and a space between parts
    for part in expression:
        if room < 0:
            break
        room = _room(part, room)
    return room


def text(formula: Formula) -> str:
    """Write a formula on one line."""
    return flat(sexp(formula))


# -- commands -----------------------------------------------------------------------------------


def comment(words: str) -> str:
    """Write a comment line (several for words with line breaks)."""
    return "\n".join(f"; {line}" for line in words.splitlines() or [""])


def assertion(formula: Formula, why: str, naming: Naming = plain) -> str:
    """Write an assertion under a comment that says why it is there."""
    return f"{comment(why)}\n{pretty(['assert', sexp(formula, naming)])}"


def definition(name: str, variables: tuple[Var, ...], body: Formula) -> str:
    """Write ``(define-fun name ((x Sort) ...) Bool body)``."""
    return pretty(["define-fun", symbol(name), _bound(variables), "Bool", sexp(body)])


def constants(variables: Iterable[Var]) -> list[str]:
    """Declare one constant for each variable."""
    return [f"(declare-const {symbol(x.name)} {symbol(x.sort.name)})" for x in variables]


def signature(system: System, initial: bool = False) -> list[str]:
    """Declare the sorts, functions and relations of a system.

    Args:
        system: the transition system.
        initial: define the mutable relations by their initial content instead of declaring them.

    Raises:
        ValueError: two symbols cannot be told apart, or one cannot be written.

    """
    _check_names(system)
    lines = [f"(declare-sort {symbol(s.name)} 0)" for s in system.sorts]
    lines += [_declare(f, symbol(f.result.name)) for f in system.fns]
    # Definitions may use static relations only, which therefore come first.
    for rel in sorted(system.rels, key=lambda r: r.kind is not Kind.STATIC):
        if initial and rel.kind is not Kind.STATIC:
            variables, content = system.initial.get(rel, (fresh_vars(rel), FALSE))
            lines.append(definition(rel.name, variables, content))
        else:
            lines.append(_declare(rel, "Bool"))
    return lines


def _declare(item: Fn | Rel, result: str) -> str:
    domain = " ".join(symbol(s.name) for s in item.sorts)
    return f"(declare-fun {symbol(item.name)} ({domain}) {result})"


def _check_names(system: System) -> None:
    names = [*(f.name for f in system.fns), *(r.name for r in system.rels)]
    names += [f"{r.name}.after" for r in system.rels if r.kind is not Kind.STATIC]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"two symbols would be called {twice[0]} in SMT-LIB")
    taken = set(names)
    for act in system.actions:
        for param in act.params:
            if param.name in taken:
                raise ValueError(f"{act.name}: parameter {param.name} is a symbol's name too")


def axioms(system: System) -> list[str]:
    """Assert the axioms of a system."""
    return [assertion(a, f"axiom {name}") for name, a in system.axioms.items()]


def step(act: Action) -> list[str]:
    """Declare an action's parameters, assert its guards, define the state after it."""
    lines = constants(act.params)
    for guard in act.guards:
        refusal = f" (else -{guard.errno})" if guard.errno else ""
        lines.append(assertion(guard.condition, f"guard {guard.name}{refusal}"))
    for update in act.updates:
        kept = and_(update.rel(*update.variables), not_(update.delete))
        body = or_(update.insert, kept)
        lines.append(definition(f"{update.rel.name}.after", update.variables, body))
    return lines


def system_text(system: System) -> str:
    """Write a whole system as one legal script: what it is built of, and each action in a scope."""
    lines = [*signature(system), *axioms(system)]
    for rel, (variables, content) in system.initial.items():
        lines.append(definition(f"{rel.name}.initially", variables, content))
    for act in system.actions:
        lines += [comment(f"action {act.name}"), "(push 1)", *step(act), "(pop 1)"]
    return "\n".join(lines) + "\n"


# -- reading back -------------------------------------------------------------------------------


def read(source: str) -> list[Sexp]:
    """Return all S-expressions of a text; symbols keep their quotes.

    Raises:
        ValueError: unbalanced parentheses, a character that no symbol has, or nesting deeper than
            `MAX_DEPTH`.

    """
    stack: list[list[Sexp]] = [[]]
    for token in _tokens(source):
        if token == "(":
            if len(stack) > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
            stack.append([])
        elif token == ")":
            if len(stack) == 1:
                raise ValueError("a ')' closes nothing")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    if len(stack) > 1:
        raise ValueError("a '(' is not closed")
    return stack[0]


def _tokens(source: str) -> Iterator[str]:
    for found in _TOKEN.finditer(source):
        if found["bad"]:
            raise ValueError(f"unexpected character {found['bad']!r}")
        if found["token"]:
            yield found["token"]


class Reader:
    """Reads formulas over the symbols of a system."""

    def __init__(self, system: System) -> None:
        """Take the symbols of *system*; its actions do not matter."""
        self._sorts = {s.name: s for s in system.sorts}
        self._fns = {f.name: f for f in system.fns}
        self._rels = {r.name: r for r in system.rels}

    def formula(self, source: str, free: Iterable[Var] = ()) -> Formula:
        """Read one formula.

        Args:
            source: SMT-LIB text of a term of sort Bool, as `text` writes it.
            free: the variables it may leave free.

        Raises:
            ValueError: not one well-sorted formula over the symbols of the system.

        """
        found = read(source)
        if len(found) != 1:
            raise ValueError(f"expected one formula, found {len(found)}")
        try:
            return self._formula(found[0], {x.name: x for x in free})
        except TypeError as error:  # wrong sorts
            raise ValueError(str(error)) from None

    def _formula(self, expression: Sexp, env: Mapping[str, Var]) -> Formula:
        if expression == "true":
            return TRUE
        if expression == "false":
            return FALSE
        head, args = _split(expression)
        if not isinstance(head, str):
            raise ValueError(f"{flat(expression)} is no formula")
        if head in ("forall", "exists"):
            return self._quantified(head, args, env)
        if head in ("and", "or"):
            if len(args) < 2:
                raise ValueError(f"{head} takes two arguments at least")
            parts = tuple(self._formula(a, env) for a in args)
            return And(parts) if head == "and" else Or(parts)
        if head == "not":
            (body,) = _exactly(1, head, args)
            return Not(self._formula(body, env))
        if head == "=":
            left, right = _exactly(2, head, args)
            return Eq(self._term(left, env), self._term(right, env))
        name = _name(head)
        if name not in self._rels or name in env:
            raise ValueError(f"{head} is no relation here")
        return self._rels[name](*(self._term(a, env) for a in args))

    def _quantified(self, head: str, args: list[Sexp], env: Mapping[str, Var]) -> Formula:
        bound, body = _exactly(2, head, args)
        if not isinstance(bound, list) or not bound:
            raise ValueError(f"{head} binds nothing")
        variables = tuple(self._variable(b) for b in bound)
        if len({x.name for x in variables}) != len(variables):
            raise ValueError(f"{head} binds a name twice")
        inner = {**env, **{x.name: x for x in variables}}
        return Quantified(head == "forall", variables, self._formula(body, inner))

    def _variable(self, expression: Sexp) -> Var:
        match expression:
            case [str(name), str(sort)] if _name(sort) in self._sorts:
                return Var(_name(name), self._sorts[_name(sort)])
        raise ValueError(f"{flat(expression)} is no variable and its sort")

    def _term(self, expression: Sexp, env: Mapping[str, Var]) -> Term:
        head, args = _split(expression)
        if not isinstance(head, str):
            raise ValueError(f"{flat(expression)} is no term")
        name = _name(head)
        if name in env and not args:
            return env[name]
        if name not in self._fns or name in env:
            raise ValueError(f"{head} is no variable or function here")
        fn = self._fns[name]
        return Apply(fn, fn(*(self._term(a, env) for a in args)).args)


def _split(expression: Sexp) -> tuple[Sexp, list[Sexp]]:
    if isinstance(expression, str):
        return expression, []
    return (expression[0], expression[1:]) if expression else (expression, [])


def _name(token: str) -> str:
    return token[1:-1] if token.startswith("|") else token


def _exactly(count: int, head: str, args: list[Sexp]) -> list[Sexp]:
    if len(args) != count:
        raise ValueError(f"{head} takes {count}, got {len(args)}")
    return args
