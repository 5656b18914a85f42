"""Bounded model checking: the bits of a finite instance, unrolled step by step for z3.

One action a step, as in the explicit search, so the first run found is a shortest one. The solver
is incremental: a step adds its formulas, and a depth that is clean stays so as a learned fact. An
answer other than sat or unsat ends the check with a reason; it never counts as clean.

Three things keep it small. Bits that no target depends on, through whatever chain of guards and
updates, are left out together with the actions that change nothing else. Among interchangeable
elements (see `engine.explicit`) the first to be named in a run is the first by number. A step that
changes nothing is not a step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import z3

from dmaproof.engine.explicit import Canonical, Search
from dmaproof.model.logic.ground import Ground, GroundSystem
from dmaproof.model.logic.sets import Instance, Step
from dmaproof.model.logic.smt import z3_of
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, Sort

Expr = Any  # z3's expressions carry no useful static types


def bmc(
    system: System,
    instance: Instance,
    targets: Mapping[str, Formula],
    max_depth: int,
    seconds: float = 60.0,
    *,
    symmetric: bool = True,
) -> Search:
    """Look for the shortest runs, of at most *max_depth* steps, to states where formulas hold.

    Args:
        system: the transition system.
        instance: the finite instance.
        targets: name -> closed formula to reach.
        max_depth: the longest run looked at.
        seconds: budget of time.
        symmetric: name interchangeable elements in order.

    Returns:
        The runs found. `depth` is the number of steps up to which every target without a run is
        unreachable (-1: not even the initial state was decided), `exhausted` that there is no
        longer run; `states` is 0, for none was visited.

    """
    ground = GroundSystem(system, instance)
    wanted = {name: ground.ground(formula, {}) for name, formula in targets.items()}
    result = Search(depth=-1)
    unrolled = _Unrolled(ground, wanted.values(), symmetric=symmetric)
    deadline = time.monotonic() + seconds
    for depth in range(max_depth + 1):
        if depth and not unrolled.extend():
            result.exhausted = True
            return result
        for name, goal in list(wanted.items()):
            reached = unrolled.reached(goal, deadline)
            if reached is None:
                result.reason = unrolled.excuse
                return result
            if reached:
                result.traces[name] = unrolled.run()
                del wanted[name]
        result.depth = depth
        if not wanted:
            return result
    result.reason = f"the bound of {max_depth} steps is reached"
    return result


class _Unrolled:
    """The unrolled runs of a ground system.

    Attributes:
        excuse: why the solver gave no answer.
    """

    def __init__(
        self, ground: GroundSystem, goals: Iterable[Ground], *, symmetric: bool
    ) -> None:
        self.excuse = ""
        self._asked = 0
        self._ground = ground
        self._kept = cone(ground, goals)
        self._actions = [
            (number, act, own) for number, act in enumerate(ground.actions)
            if (own := tuple((b, v) for b, v in act.updates if b in self._kept))
        ]
        self._context = z3.Context()
        self._solver = z3.SolverFor("QF_FD", ctx=self._context)
        self._orders = self._named_orders() if symmetric else []
        self._named = self._ranks("n!0")
        self._states = [self._bits("s!0")]
        self._chosen: list[list[Expr]] = []
        self._template = self._bits("now")
        self._goals: dict[Ground, Expr] = {}
        self._step = self._transition()
        for b in self._kept:
            bit = self._states[0][b]
            self._solver.add(bit if ground.initial >> b & 1 else z3.Not(bit))
        self._solver.add([z3.Not(x) for rank in self._named for x in rank])

    def _boolean(self, name: str) -> Expr:
        return z3.Bool(name, self._context)

    def _true(self) -> Expr:
        return z3.BoolVal(True, self._context)

    def _some(self, parts: Iterable[Expr]) -> Expr:
        # z3 would build the empty disjunction in its main context.
        return z3.Or([z3.BoolVal(False, self._context), *parts])

    def _bits(self, prefix: str) -> list[Expr]:
        return [self._boolean(f"{prefix}!{b}") for b in range(len(self._ground.bits))]

    def _choice(self, prefix: str) -> list[Expr]:
        return [self._boolean(f"{prefix}!{i}") for i in range(len(self._actions))]

    def _ranks(self, prefix: str) -> list[list[Expr]]:
        """Whether each element of each class has been named."""
        return [
            [self._boolean(f"{prefix}!{i}!{rank}") for rank in range(len(order))]
            for i, order in enumerate(self._orders)
        ]

    def _named_orders(self) -> list[list[set[int]]]:
        """For each class of interchangeable elements: which actions name its first, second, ..."""
        return [
            [self._naming(sort, member) for member in members]
            for sort, members in Canonical(self._ground).classes
        ]

    def _naming(self, sort: Sort, member: int) -> set[int]:
        found = set()
        for place, (_, act, _) in enumerate(self._actions):
            params = self._ground.system.action(act.name).params
            named = zip(params, act.args, strict=True)
            if any(p.sort == sort and a == member for p, a in named):
                found.add(place)
        return found

    def _transition(self) -> tuple[Expr, list[Expr]]:
        """One step, and the variables it speaks of in the order of `_variables`.

        It is built once; z3 puts a step's own variables in, which is faster than Python could.
        """
        before, after = self._bits("from"), self._bits("to")
        chosen = self._choice("by")
        named, known = self._ranks("was"), self._ranks("is")
        parts = [self._some(chosen)]
        if len(chosen) > 1:
            parts.append(z3.AtMost(*chosen, 1))
        changers: dict[int, list[Expr]] = {b: [] for b in sorted(self._kept)}
        for selected, (_, act, own) in zip(chosen, self._actions, strict=True):
            effects = [after[b] == z3_of(v, before) for b, v in own]
            guard = z3_of(act.guard, before)
            parts.append(z3.Implies(selected, z3.And([guard, *effects])))
            for b, _ in own:
                changers[b].append(selected)
        parts += [z3.Or(after[b] == before[b], *by) for b, by in changers.items()]
        parts.append(self._some(z3.Xor(after[b], before[b]) for b, by in changers.items() if by))
        parts += self._in_order(chosen, named, known)
        return z3.And(parts), self._variables(before, after, chosen, named, known)

    def _in_order(
        self, chosen: list[Expr], named: list[list[Expr]], known: list[list[Expr]]
    ) -> list[Expr]:
        """Say that an element is named after, or together with, those of its class before it."""
        parts = []
        for order, was, now in zip(self._orders, named, known, strict=True):
            for rank, naming in enumerate(order):
                parts.append(now[rank] == z3.Or(was[rank], *(chosen[i] for i in sorted(naming))))
                if rank:
                    parts.append(z3.Implies(now[rank], now[rank - 1]))
        return parts

    def _variables(
        self, before: list[Expr], after: list[Expr], chosen: list[Expr],
        named: list[list[Expr]], known: list[list[Expr]],
    ) -> list[Expr]:
        bits = sorted(self._kept)
        return [
            *(before[b] for b in bits), *(after[b] for b in bits), *chosen,
            *(x for ranks in named for x in ranks), *(x for ranks in known for x in ranks),
        ]

    def extend(self) -> bool:
        """Add a step; False if no action can ever change anything."""
        if not self._actions:
            return False
        place = len(self._chosen) + 1
        before, after = self._states[-1], self._bits(f"s!{place}")
        chosen, known = self._choice(f"a!{place}"), self._ranks(f"n!{place}")
        own = self._variables(before, after, chosen, self._named, known)
        step, general = self._step
        self._solver.add(z3.substitute(step, *zip(general, own, strict=True)))
        self._states.append(after)
        self._chosen.append(chosen)
        self._named = known
        return True

    def reached(self, goal: Ground, deadline: float) -> bool | None:
        """Whether a goal can hold after the present number of steps; None if that is not known."""
        left = int((deadline - time.monotonic()) * 1000)
        if left <= 0:
            self.excuse = "the budget of time is used up"
            return None
        if goal is False:
            return False
        claim = self._now(goal)
        self._asked += 1
        flag = self._boolean(f"goal!{self._asked}")
        self._solver.add(z3.Implies(flag, claim))
        self._solver.set("timeout", left)
        answer = self._solver.check(flag)
        if answer == z3.unsat:
            self._solver.add(z3.Not(claim))
        if answer in (z3.sat, z3.unsat):
            return bool(answer == z3.sat)
        self.excuse = f"z3 answers unknown ({self._solver.reason_unknown()})"
        return None

    def _now(self, goal: Ground) -> Expr:
        """Return a goal, of which a general form is kept, about the present state."""
        if goal not in self._goals:
            general = self._true() if goal is True else z3_of(goal, self._template)
            self._goals[goal] = general
        own = self._states[-1]
        return z3.substitute(self._goals[goal], *zip(self._template, own, strict=True))

    def run(self) -> list[Step]:
        """Return the run by which the goal asked about last is reached."""
        model = self._solver.model()
        run = []
        for chosen in self._chosen:
            place = next(i for i, x in enumerate(chosen) if z3.is_true(model[x]))
            run.append(Step(*self._ground.describe(self._actions[place][0])))
        return run


def cone(ground: GroundSystem, goals: Iterable[Ground]) -> frozenset[int]:
    """Return the bits that the truth of the goals can depend on, now or after some steps."""
    by_bit: dict[int, set[int]] = {}
    for act in ground.actions:
        guard = bits_of(act.guard)
        for bit, value in act.updates:
            by_bit.setdefault(bit, set()).update(guard, bits_of(value))
    found: set[int] = set()
    todo = [b for g in goals for b in bits_of(g)]
    while todo:
        bit = todo.pop()
        if bit in found:
            continue
        found.add(bit)
        todo += by_bit.get(bit, ())
    return frozenset(found)


def bits_of(ground: Ground) -> set[int]:
    """Return the bits that occur in a ground formula."""
    if isinstance(ground, bool):
        return set()
    word, *parts = ground
    if word == "bit":
        return {parts[0]}
    return set().union(*(bits_of(p) for p in parts))
