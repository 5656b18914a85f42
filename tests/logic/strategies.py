"""Random small systems, instances and states, and two readings made for comparison only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import z3
from hypothesis import strategies as st

from dmaproof.model.logic.sets import Instance, State
from dmaproof.model.logic.smt import Uninterpreted
from dmaproof.model.logic.system import Action, Guard, Module, System, Update, action, compose
from dmaproof.model.logic.terms import (
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
    Sort,
    Term,
    Truth,
    Var,
)

A, B = Sort("A"), Sort("B")
F = Fn("f", (A,), B)
G = Fn("g", (A, B), A)
BASE = Fn("base", (), B)
EDGE = Rel("edge", (A, A), Kind.STATIC)
MARK = Rel("mark", (B,), Kind.STATIC)
FLAG = Rel("flag", ())
HELD = Rel("held", (A,))
LINK = Rel("link", (A, B))
GHOST = Rel("ghost", (B,), Kind.GHOST)
FNS = (F, G, BASE)
STATIC = (EDGE, MARK)
MUTABLE = (FLAG, HELD, LINK, GHOST)
RELS = (*STATIC, *MUTABLE)
PLAIN = tuple(r for r in RELS if r.kind is not Kind.GHOST)  # what the kernel can act on


@dataclass
class Names:
    """Where bound variables get their names from.

    Attributes:
        prefix: a prefix that no other formula of the test uses.
        unique: every quantifier has its own names; else names repeat, and hide outer ones.
    """

    prefix: str
    unique: bool = True
    count: int = field(default=0)

    def variable(self, sort: Sort) -> Var:
        self.count += 1
        number = self.count if self.unique else self.count % 2
        return Var(f"{self.prefix}{number}", sort)


def _terms(draw: Any, sort: Sort, scope: Sequence[Var], depth: int = 2) -> Term | None:
    """A term of a sort, or None where the scope offers none."""
    options: list[Any] = [v for v in scope if v.sort == sort]
    if sort == B:
        options.append(BASE)
    if depth:
        options += [fn for fn in (F, G) if fn.result == sort]
    if not options:
        return None
    chosen = draw(st.sampled_from(options))
    if isinstance(chosen, Var):
        return chosen
    args = [_terms(draw, s, scope, depth - 1) for s in chosen.sorts]
    if any(a is None for a in args):
        return next((v for v in scope if v.sort == sort), BASE() if sort == B else None)
    return Apply(chosen, tuple(a for a in args if a is not None))


@st.composite
def formulas(
    draw: Any, scope: tuple[Var, ...], names: Names, rels: tuple[Rel, ...] = RELS, depth: int = 3
) -> Formula:
    """A formula whose free variables are among *scope*.

    It is built of plain nodes, not by the simplifying constructors, so those are under test too.
    """
    kinds = ["atom", "atom", "eq", "truth"]
    if depth:
        kinds += ["not", "and", "or", "quantified", "quantified"]
    kind = draw(st.sampled_from(kinds))
    if kind == "truth":
        return Truth(draw(st.booleans()))
    if kind == "not":
        return Not(draw(formulas(scope, names, rels, depth - 1)))
    if kind in ("and", "or"):
        count = draw(st.integers(0, 3))
        parts = tuple(draw(formulas(scope, names, rels, depth - 1)) for _ in range(count))
        return And(parts) if kind == "and" else Or(parts)
    if kind == "quantified":
        sorts = draw(st.lists(st.sampled_from([A, B]), min_size=1, max_size=2))
        variables = tuple(names.variable(s) for s in sorts)
        if len(set(variables)) != len(variables):
            variables = variables[:1]
        body = draw(formulas((*scope, *variables), names, rels, depth - 1))
        return Quantified(draw(st.booleans()), variables, body)
    if kind == "eq":
        sort = draw(st.sampled_from([A, B]))
        left, right = _terms(draw, sort, scope), _terms(draw, sort, scope)
        return Truth(True) if left is None or right is None else Eq(left, right)
    rel = draw(st.sampled_from(rels))
    args = [_terms(draw, s, scope) for s in rel.sorts]
    if any(a is None for a in args):
        return Truth(False)
    return Atom(rel, tuple(a for a in args if a is not None))


@st.composite
def updates(draw: Any, params: tuple[Var, ...], rel: Rel, names: Names) -> Update:
    """An update of a relation; sometimes it only inserts or only deletes."""
    xs = tuple(Var(f"{rel.name}.{i}", s) for i, s in enumerate(rel.sorts))
    scope = (*params, *xs)
    readable = RELS if rel.kind is Kind.GHOST else PLAIN
    found = [
        draw(formulas(scope, names, readable, 2)) if draw(st.booleans()) else Truth(False)
        for _ in range(2)
    ]
    return Update(rel, xs, *found)


@st.composite
def actions(draw: Any, name: str) -> Action:
    """An action with up to two parameters and guards; updates of one relation may repeat."""
    names = Names(f"{name}.")
    sorts = draw(st.lists(st.sampled_from([A, B]), max_size=2))
    params = tuple(Var(f"{name}_p{i}", s) for i, s in enumerate(sorts))
    errno = st.sampled_from(["", "EINVAL"])
    guards = tuple(
        Guard(f"guard{i}", draw(formulas(params, names, PLAIN, 2)), draw(errno))
        for i in range(draw(st.integers(0, 2)))
    )
    rels = draw(st.lists(st.sampled_from(MUTABLE), min_size=1, max_size=3))
    return action(name, params, guards, [draw(updates(params, r, names)) for r in rels])


@st.composite
def systems(draw: Any) -> System:
    """A system of one to three actions, with initial content for some relations."""
    initial = {}
    for rel in MUTABLE:
        if draw(st.booleans()):
            xs = tuple(Var(f"init.{rel.name}.{i}", s) for i, s in enumerate(rel.sorts))
            initial[rel] = (xs, draw(formulas(xs, Names(f"init.{rel.name}.q"), STATIC, 2)))
    count = draw(st.integers(1, 3))
    return compose(
        "random",
        Module("symbols", FNS, RELS, initial=initial),
        Module("actions", actions=tuple(draw(actions(f"act{i}")) for i in range(count))),
    )


@st.composite
def instances(draw: Any) -> Instance:
    """Sorts of one or two elements, with any functions and facts."""
    sizes = {A: draw(st.integers(1, 2)), B: draw(st.integers(1, 2))}
    elements = {s: tuple(f"{s.name.lower()}{i}" for i in range(n)) for s, n in sizes.items()}
    bare = Instance(elements, {}, {})
    tables = {
        fn: {
            args: draw(st.integers(0, sizes[fn.result] - 1)) for args in bare.tuples(fn.sorts)
        }
        for fn in FNS
    }
    return Instance(elements, tables, {r: draw(contents(bare, r)) for r in STATIC})


@st.composite
def contents(draw: Any, instance: Instance, rel: Rel) -> frozenset[tuple[int, ...]]:
    """Any content of a relation."""
    return frozenset(t for t in instance.tuples(rel.sorts) if draw(st.booleans()))


@st.composite
def states(draw: Any, instance: Instance) -> State:
    """Any state, reachable or not."""
    return {rel: draw(contents(instance, rel)) for rel in MUTABLE}


# -- two more readings -----------------------------------------------------------------------


def truth(formula: Formula, instance: Instance, state: State, env: dict[Var, int]) -> bool:
    """A second evaluator, which shares no code with `model.logic.reading`."""
    if isinstance(formula, Truth):
        return formula.value
    if isinstance(formula, Not):
        return not truth(formula.body, instance, state, env)
    if isinstance(formula, And):
        return min((truth(p, instance, state, env) for p in formula.parts), default=True)
    if isinstance(formula, Or):
        return max((truth(p, instance, state, env) for p in formula.parts), default=False)
    if isinstance(formula, Eq):
        return value(formula.left, instance, env) == value(formula.right, instance, env)
    if isinstance(formula, Atom):
        content = {**instance.facts, **state}[formula.rel]
        return tuple(value(a, instance, env) for a in formula.args) in content
    ranges = [range(len(instance.elements[v.sort])) for v in formula.variables]
    found = [
        truth(formula.body, instance, state, env | dict(zip(formula.variables, c, strict=True)))
        for c in product(*ranges)
    ]
    return all(found) if formula.universal else any(found)


def value(term: Term, instance: Instance, env: dict[Var, int]) -> int:
    """The element a term denotes, by the second evaluator."""
    if isinstance(term, Var):
        return env[term]
    return instance.functions[term.fn][tuple(value(a, instance, env) for a in term.args)]


class Closed:
    """The uninterpreted reading of one finite structure: its diagram closed by axioms.

    Elements are distinct constants and there are no others; every function value and every tuple
    of every relation is said. A closed formula is then either entailed or refuted.
    """

    def __init__(self, instance: Instance, state: State) -> None:
        self.reading = Uninterpreted()
        self.constants: dict[Sort, list[Any]] = {}
        self.solver = z3.Solver()
        self.solver.set("timeout", 10_000)
        for sort, names in instance.elements.items():
            known = [Var(f"element.{n}", sort) for n in names]
            env = self.reading.constants(known, "")
            self.constants[sort] = [env[x] for x in known]
            for i, x in enumerate(known):
                for y in known[:i]:
                    self._say(Not(Eq(x, y)), env)
            x = Var("any", sort)
            self._say(Quantified(True, (x,), Or(tuple(Eq(x, y) for y in known))), env)
        for fn, table in instance.functions.items():
            for args, result in table.items():
                xs, env = self._elements(fn.sorts, args)
                (y,), last = self._elements((fn.result,), (result,))
                self._say(Eq(Apply(fn, xs), y), {**env, **last})
        for rel, content in {**instance.facts, **state}.items():
            for args in instance.tuples(rel.sorts):
                xs, env = self._elements(rel.sorts, args)
                atom = Atom(rel, xs)
                self._say(atom if args in content else Not(atom), env)

    def _elements(
        self, sorts: tuple[Sort, ...], args: tuple[int, ...]
    ) -> tuple[tuple[Var, ...], dict[Var, Any]]:
        xs = tuple(Var(f"e{s.name}{a}", s) for s, a in zip(sorts, args, strict=True))
        return xs, {x: self.constants[x.sort][a] for x, a in zip(xs, args, strict=True)}

    def _say(self, formula: Formula, env: dict[Var, Any]) -> None:
        self.solver.add(self.reading.formula(formula, env))

    def truth(self, formula: Formula, env: dict[Var, int]) -> bool:
        """Whether the structure satisfies a formula, by entailment both ways."""
        named = {v: self.constants[v.sort][i] for v, i in env.items()}
        claim = self.reading.formula(formula, named)
        answers = [self._check(claim), self._check(z3.Not(claim))]
        assert sorted(map(str, answers)) == ["sat", "unsat"], answers
        return bool(answers[0] == z3.sat)

    def _check(self, claim: Any) -> Any:
        self.solver.push()
        self.solver.add(claim)
        answer = self.solver.check()
        self.solver.pop()
        return answer
