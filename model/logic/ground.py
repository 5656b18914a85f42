"""Finite instances as bits.

Every mutable tuple of an instance becomes one bit of an integer state; every action with concrete
arguments becomes a guard and bit updates. The same grounding yields compiled Python (explicit
search, simulation) and z3 formulas (bounded model checking): only the carrier of truth differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from dmaproof.model.logic.reading import Env, Interpreter
from dmaproof.model.logic.sets import Instance, State, Tuple, initial_state
from dmaproof.model.logic.system import System, Update
from dmaproof.model.logic.terms import (
    FALSE,
    And,
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
    Var,
    free_vars,
)

# A ground formula: True, False, ("bit", i), ("not", x), ("and", x...), ("or", x...).
# Tuples are hashable and cheap to walk, and two carriers read them.
Ground = bool | tuple[Any, ...]


class _GroundReading:
    """Truth values are ground formulas over the bits of the state."""

    def __init__(self, instance: Instance, bit_of: Mapping[tuple[Rel, Tuple], int]) -> None:
        self.instance = instance
        self.bit_of = bit_of

    def constant(self, value: bool) -> Ground:
        return value

    def atom(self, rel: Rel, args: Tuple) -> Ground:
        if rel.kind is Kind.STATIC:
            return args in self.instance.facts.get(rel, frozenset())
        return ("bit", self.bit_of[rel, args])

    def equal(self, left: int, right: int) -> Ground:
        return left == right

    def apply(self, fn: Fn, args: Tuple) -> int:
        return self.instance.functions[fn][args]

    def negate(self, value: Ground) -> Ground:
        if isinstance(value, bool):
            return not value
        return value[1] if isinstance(value, tuple) and value[0] == "not" else ("not", value)

    def every(self, values: Sequence[Callable[[], Ground]]) -> Ground:
        return _join("and", (v() for v in values), neutral=True)

    def some(self, values: Sequence[Callable[[], Ground]]) -> Ground:
        return _join("or", (v() for v in values), neutral=False)

    def quantify(
        self,
        universal: bool,
        variables: tuple[Var, ...],
        env: Env[int],
        body: Callable[[Env[int]], Ground],
    ) -> Ground:
        choices = self.instance.tuples(v.sort for v in variables)
        parts = (body({**env, **dict(zip(variables, c, strict=True))}) for c in choices)
        return _join("and" if universal else "or", parts, neutral=universal)


class _Grounding(Interpreter[int, Ground]):
    """Skips values of quantified variables of which facts alone say that they do not matter."""

    def formula(self, formula: Formula, env: Env[int]) -> Ground:
        if not isinstance(formula, Quantified) or len(formula.variables) < 2:
            return super().formula(formula, env)
        universal, variables = formula.universal, formula.variables
        sieves: list[list[Formula]] = [[] for _ in variables]
        for part in _conditions(formula):
            places = [i for i, x in enumerate(variables) if x in free_vars(part)]
            if places:  # asked as soon as all its variables have values
                sieves[places[-1]].append(part)
        chosen = self._matter(variables, sieves, env)
        parts = (self.formula(formula.body, inner) for inner in chosen)
        return _join("and" if universal else "or", parts, neutral=universal)

    def _matter(
        self, variables: Sequence[Var], sieves: Sequence[Sequence[Formula]], env: Env[int]
    ) -> Iterator[Env[int]]:
        if not variables:
            yield env
            return
        reading = self.reading
        assert isinstance(reading, _GroundReading)
        for value in reading.instance.domain(variables[0].sort):
            inner = {**env, variables[0]: value}
            if all(self.formula(f, inner) is not False for f in sieves[0]):
                yield from self._matter(variables[1:], sieves[1:], inner)


def _conditions(formula: Quantified) -> list[Formula]:
    """Atoms over facts without which the body is true (of a universal) or false."""
    body = formula.body
    if formula.universal:
        parts = [p.body for p in (body.parts if isinstance(body, Or) else (body,))
                 if isinstance(p, Not)]
    else:
        parts = [body]
    flat = [q for p in parts for q in (p.parts if isinstance(p, And) else (p,))]
    return [q for q in flat if isinstance(q, Atom) and q.rel.kind is Kind.STATIC]


def _join(word: str, parts: Iterable[Ground], *, neutral: bool) -> Ground:
    flat: dict[Ground, None] = {}
    for part in parts:
        if isinstance(part, bool):
            if part != neutral:
                return part
        elif part[0] == word:
            flat.update(dict.fromkeys(part[1:]))
        else:
            flat[part] = None
    if not flat:
        return neutral
    return next(iter(flat)) if len(flat) == 1 else (word, *flat)


@dataclass(frozen=True)
class GroundAction:
    """An action with concrete arguments.

    Attributes:
        updates: (bit, its new value as a ground formula over the state before).

    """

    name: str
    args: Tuple
    guard: Ground
    updates: tuple[tuple[int, Ground], ...]


_Pattern = tuple[tuple[int, Term], ...]
"""Places of a tuple, each with the term that the argument there equals."""


def _patterns(update: Update) -> list[_Pattern]:
    """What the tuples that an update may change look like: each like one of the patterns."""
    own = {v: i for i, v in enumerate(update.variables)}
    return [p for part in (update.insert, update.delete) for p in _ways(part, own)]


def _ways(formula: Formula, own: Mapping[Var, int]) -> list[_Pattern]:
    if formula == FALSE:
        return []
    if isinstance(formula, Or):
        return [p for part in formula.parts for p in _ways(part, own)]
    found = []
    for part in formula.parts if isinstance(formula, And) else (formula,):
        if isinstance(part, Eq):
            for one, other in ((part.left, part.right), (part.right, part.left)):
                loose = own.keys() & free_vars(Eq(other, other))
                if isinstance(one, Var) and one in own and not loose:
                    found.append((own[one], other))
    return [tuple(found)]


class GroundSystem:
    """A system on a finite instance, as bits.

    Attributes:
        bits: the (relation, tuple) that each bit stands for.
        actions: the ground actions whose guard is not plainly false.

    """

    def __init__(self, system: System, instance: Instance) -> None:
        self.system = system
        self.instance = instance
        self.bits: list[tuple[Rel, Tuple]] = [
            (rel, args)
            for rel in system.rels
            if rel.kind is not Kind.STATIC
            for args in instance.tuples(rel.sorts)
        ]
        self.bit_of = {atom: i for i, atom in enumerate(self.bits)}
        self._interpreter = _Grounding(_GroundReading(instance, self.bit_of))
        self.actions = [g for g in self._ground_actions() if g.guard is not False and g.updates]
        self.initial = self.pack(initial_state(system, instance))

    def ground(self, formula: Formula, env: Env[int]) -> Ground:
        """Ground a formula: concrete values for its free variables."""
        return self._interpreter.formula(formula, env)

    def _ground_actions(self) -> list[GroundAction]:
        found = []
        for act in self.system.actions:
            patterns = [_patterns(u) for u in act.updates]
            for args in self.instance.tuples(p.sort for p in act.params):
                env = dict(zip(act.params, args, strict=True))
                guard = self.ground(act.guard, env)
                if guard is False:
                    continue
                updates = []
                for update, ways in zip(act.updates, patterns, strict=True):
                    for item in self._touched(update.rel, ways, env):
                        inner = {**env, **dict(zip(update.variables, item, strict=True))}
                        bit = self.bit_of[update.rel, item]
                        new = self._after(update.insert, update.delete, inner, bit)
                        if new != ("bit", bit):
                            updates.append((bit, new))
                found.append(GroundAction(act.name, args, guard, tuple(updates)))
        return found

    def _touched(self, rel: Rel, patterns: Sequence[_Pattern], env: Env[int]) -> Iterable[Tuple]:
        """The tuples that an update may change, in order."""
        if any(not p for p in patterns):
            return self.instance.tuples(rel.sorts)
        domains = [self.instance.domain(s) for s in rel.sorts]
        found: set[Tuple] = set()
        for pattern in patterns:
            choices: list[Iterable[int]] = list(domains)
            for place, term in pattern:
                value = self._interpreter.term(term, env)
                choices[place] = [value] if value in choices[place] else []
            found.update(product(*choices))
        return sorted(found)

    def _after(self, insert: Formula, delete: Formula, env: Env[int], bit: int) -> Ground:
        reading = self._interpreter.reading
        gone = self.ground(delete, env)
        kept = reading.every([lambda: ("bit", bit), lambda: reading.negate(gone)])
        return reading.some([lambda: self.ground(insert, env), lambda: kept])

    def pack(self, state: State) -> int:
        """Turn a state over sets into an integer."""
        packed = 0
        for rel, content in state.items():
            for args in content:
                packed |= 1 << self.bit_of[rel, args]
        return packed

    def unpack(self, packed: int) -> State:
        """Turn an integer state into sets."""
        found: dict[Rel, set[Tuple]] = {
            r: set() for r in self.system.rels if r.kind is not Kind.STATIC
        }
        while packed:
            low = packed & -packed
            rel, args = self.bits[low.bit_length() - 1]
            found[rel].add(args)
            packed ^= low
        return {r: frozenset(c) for r, c in found.items()}

    def compile_formula(self, formula: Formula) -> Callable[[int], bool]:
        """Compile a closed formula to a function of the integer state."""
        source = f"def f(s):\n return bool({source_of(self.ground(formula, {}))})\n"
        scope: dict[str, Any] = {}
        exec(compile(source, "<ground formula>", "exec"), scope)
        return scope["f"]  # type: ignore[no-any-return]

    def compile_successors(self) -> Callable[[int], list[tuple[int, int]]]:
        """Compile the function from a state to its (action number, next state) pairs.

        Self loops are left out.
        """
        lines = ["def f(s):", " out = []"]
        for number, act in enumerate(self.actions):
            lines.append(f" if {source_of(act.guard)}:")
            on = sum(1 << b for b, v in act.updates if v is True)
            off = sum(1 << b for b, v in act.updates if v is not True)
            lines.append(f"  n = s & {~off} | {on}" if off else f"  n = s | {on}")
            for bit, value in act.updates:
                if not isinstance(value, bool):
                    lines.append(f"  if {source_of(value)}: n |= {1 << bit}")
            lines.append(f"  if n != s: out.append(({number}, n))")
        lines.append(" return out")
        scope: dict[str, Any] = {}
        exec(compile("\n".join(lines), "<ground system>", "exec"), scope)
        return scope["f"]  # type: ignore[no-any-return]

    def describe(self, number: int) -> tuple[str, Tuple]:
        """Name and arguments of a ground action."""
        act = self.actions[number]
        return act.name, act.args


def source_of(ground: Ground) -> str:
    """Write a ground formula as a Python expression over the integer ``s``."""
    if isinstance(ground, bool):
        return str(ground)
    assert isinstance(ground, tuple)
    word, *parts = ground
    if word == "bit":
        return f"s & {1 << parts[0]}"
    if word == "not":
        return f"not ({source_of(parts[0])})"
    return f" {word} ".join(f"({source_of(p)})" for p in parts)


