"""z3's readings: uninterpreted sorts for proofs about any number, bits for bounded checking.

z3 is imported with this module only, so that commands without proofs start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import z3

from dmaproof.model.logic.ground import Ground
from dmaproof.model.logic.reading import Env, Interpreter
from dmaproof.model.logic.terms import Fn, Formula, Rel, Sort, Var

Expr = Any  # z3's expressions carry no useful static types


class _SortReading:
    """Elements and truth values are z3 terms over uninterpreted sorts."""

    def __init__(self, context: z3.Context | None) -> None:
        self.context = context
        self.sorts: dict[Sort, Expr] = {}
        self.symbols: dict[Rel | Fn, Expr] = {}
        self.uses: dict[tuple[str, Sort], str] = {}
        self.counter = 0

    def sort(self, sort: Sort) -> Expr:
        if sort not in self.sorts:
            self.sorts[sort] = z3.DeclareSort(sort.name, self.context)
        return self.sorts[sort]

    def symbol(self, symbol: Rel | Fn) -> Expr:
        if symbol not in self.symbols:
            domain = [self.sort(s) for s in symbol.sorts]
            result = z3.BoolSort(self.context)
            if isinstance(symbol, Fn):
                result = self.sort(symbol.result)
                if not symbol.sorts:
                    self.reserve(symbol.name, symbol.result, "constant")
            self.symbols[symbol] = z3.Function(symbol.name, *domain, result)
        return self.symbols[symbol]

    def reserve(self, name: str, sort: Sort, use: str) -> None:
        """Note what a z3 constant stands for; z3 takes equal names of one sort for one constant.

        Raises:
            ValueError: the name stands for something else already.

        """
        known = self.uses.setdefault((name, sort), use)
        if known != use:
            raise ValueError(f"{name} of sort {sort} would be a {known} and a {use}")

    def constant(self, value: bool) -> Expr:
        return z3.BoolVal(value, self.context)

    def atom(self, rel: Rel, args: tuple[Expr, ...]) -> Expr:
        return self.symbol(rel)(*args)

    def equal(self, left: Expr, right: Expr) -> Expr:
        return left == right

    def apply(self, fn: Fn, args: tuple[Expr, ...]) -> Expr:
        return self.symbol(fn)(*args)

    def negate(self, value: Expr) -> Expr:
        return z3.Not(value)

    def every(self, values: Sequence[Callable[[], Expr]]) -> Expr:
        # z3 would build the empty conjunction in its main context, whatever ours is.
        return z3.And([v() for v in values]) if values else self.constant(True)

    def some(self, values: Sequence[Callable[[], Expr]]) -> Expr:
        return z3.Or([v() for v in values]) if values else self.constant(False)

    def quantify(
        self,
        universal: bool,
        variables: tuple[Var, ...],
        env: Env[Expr],
        body: Callable[[Env[Expr]], Expr],
    ) -> Expr:
        bound = []
        for variable in variables:
            # Fresh names: a quantifier of z3 would capture a constant of the same name.
            self.counter += 1
            name = f"{variable.name}!{self.counter}"
            self.reserve(name, variable.sort, "bound variable")
            bound.append(z3.Const(name, self.sort(variable.sort)))
        inner = body({**env, **dict(zip(variables, bound, strict=True))})
        return z3.ForAll(bound, inner) if universal else z3.Exists(bound, inner)


class Uninterpreted:
    """The reading over uninterpreted sorts: what is unsatisfiable here holds for any number."""

    def __init__(self, context: z3.Context | None = None) -> None:
        self._reading = _SortReading(context)
        self._interpreter = Interpreter[Expr, Expr](self._reading)

    def formula(self, formula: Formula, env: Env[Expr]) -> Expr:
        """Return a formula as a z3 term; free variables take their values from *env*."""
        return self._interpreter.formula(formula, env)

    def constants(self, variables: Sequence[Var], prefix: str) -> dict[Var, Expr]:
        """Return a z3 constant, called *prefix* and its name, for each variable.

        Raises:
            ValueError: a constant symbol of that name and sort is in use.

        """
        for v in variables:
            self._reading.reserve(f"{prefix}{v.name}", v.sort, "variable")
        return {
            v: z3.Const(f"{prefix}{v.name}", self._reading.sort(v.sort)) for v in variables
        }


def z3_of(ground: Ground, bits: Sequence[Expr]) -> Expr:
    """Return a ground formula over z3 Booleans, one for each bit of the state."""
    if isinstance(ground, bool):
        return z3.BoolVal(ground, bits[0].ctx if bits else None)
    word, *parts = ground
    if word == "bit":
        return bits[parts[0]]
    if word == "not":
        return z3.Not(z3_of(parts[0], bits))
    values = [z3_of(p, bits) for p in parts]
    return z3.And(values) if word == "and" else z3.Or(values)
