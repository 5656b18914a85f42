"""The reading over Python sets: finite instances, states, steps, replay.

The plainest reading and the judge of the others: a trace counts only when it replays here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dmaproof.model.logic.reading import Env, Interpreter
from dmaproof.model.logic.system import Action, Guard, System
from dmaproof.model.logic.terms import Fn, Formula, Kind, Rel, Sort, Var

Tuple = tuple[int, ...]
State = Mapping[Rel, frozenset[Tuple]]


@dataclass(frozen=True)
class Instance:
    """Finite sorts and the static facts over them.

    Attributes:
        elements: names of the elements of each sort; element i is the i-th.
        functions: value table of each function symbol.
        facts: tuples of each static relation (a relation that is not named is empty).

    """

    elements: Mapping[Sort, tuple[str, ...]]
    functions: Mapping[Fn, Mapping[Tuple, int]]
    facts: Mapping[Rel, frozenset[Tuple]]

    def domain(self, sort: Sort) -> range:
        """Return the elements of a sort (none if the instance does not name it)."""
        return range(len(self.elements.get(sort, ())))

    def tuples(self, sorts: Iterable[Sort]) -> Iterator[Tuple]:
        """Every tuple over some sorts."""
        return product(*(self.domain(s) for s in sorts))

    def name(self, sort: Sort, element: int) -> str:
        """Return the name of an element."""
        return self.elements[sort][element]

    def check(self, system: System) -> None:
        """Test that the instance interprets *system* and satisfies its axioms.

        Raises:
            ValueError: an axiom fails, a sort is empty, a function has no value somewhere, or a
                fact is about a relation that is not static or about no element of its sorts.

        """
        for sort in system.sorts:
            if not self.domain(sort):
                # First-order logic, and with it every proof for any number, has no empty sorts.
                raise ValueError(f"the instance has no {sort}")
        for rel, facts in self.facts.items():
            if rel.kind is not Kind.STATIC:
                raise ValueError(f"{rel.name} is not static: facts cannot give its content")
            for fact in facts:
                if len(fact) != len(rel.sorts) or any(
                    e not in self.domain(s) for e, s in zip(fact, rel.sorts, strict=True)
                ):
                    raise ValueError(f"{rel.name}{fact} is about no element of its sorts")
        for fn in system.fns:
            table = self.functions.get(fn, {})
            for args in self.tuples(fn.sorts):
                if table.get(args) not in self.domain(fn.result):
                    raise ValueError(f"{fn.name}{args} has no value in the instance")
        empty: State = {}
        for name, axiom in system.axioms.items():
            if not holds(axiom, self, empty, {}):
                raise ValueError(f"the instance violates axiom {name}")


class _SetReading:
    """Truth values are Python's; static relations come from the instance, others from a state."""

    def __init__(self, instance: Instance, state: State) -> None:
        self.instance = instance
        self.state = state

    def constant(self, value: bool) -> bool:
        return value

    def atom(self, rel: Rel, args: Tuple) -> bool:
        source = self.instance.facts if rel.kind is Kind.STATIC else self.state
        return args in source.get(rel, frozenset())

    def equal(self, left: int, right: int) -> bool:
        return left == right

    def apply(self, fn: Fn, args: Tuple) -> int:
        return self.instance.functions[fn][args]

    def negate(self, value: bool) -> bool:
        return not value

    def every(self, values: Sequence[Callable[[], bool]]) -> bool:
        return all(v() for v in values)

    def some(self, values: Sequence[Callable[[], bool]]) -> bool:
        return any(v() for v in values)

    def quantify(
        self,
        universal: bool,
        variables: tuple[Var, ...],
        env: Env[int],
        body: Callable[[Env[int]], bool],
    ) -> bool:
        choices = self.instance.tuples(v.sort for v in variables)
        results = (body({**env, **dict(zip(variables, c, strict=True))}) for c in choices)
        return all(results) if universal else any(results)


def holds(formula: Formula, instance: Instance, state: State, env: Env[int]) -> bool:
    """Whether a formula is true in a state."""
    return Interpreter[int, bool](_SetReading(instance, state)).formula(formula, env)


def witness(
    formula: Formula, variables: tuple[Var, ...], instance: Instance, state: State
) -> dict[Var, int] | None:
    """Return the first values of *variables* that make *formula* true, or None."""
    for choice in instance.tuples(v.sort for v in variables):
        env = dict(zip(variables, choice, strict=True))
        if holds(formula, instance, state, env):
            return env
    return None


def initial_state(system: System, instance: Instance) -> State:
    """Return the state in which every run starts."""
    state: dict[Rel, frozenset[Tuple]] = {}
    for rel in system.rels:
        if rel.kind is Kind.STATIC:
            continue
        content: frozenset[Tuple] = frozenset()
        if rel in system.initial:
            variables, formula = system.initial[rel]
            content = frozenset(
                args
                for args in instance.tuples(rel.sorts)
                if holds(formula, instance, {}, dict(zip(variables, args, strict=True)))
            )
        state[rel] = content
    return state


def failing_guard(
    act: Action, args: Tuple, instance: Instance, state: State
) -> Guard | None:
    """Return the first guard that fails, or None when the action may fire."""
    env = dict(zip(act.params, args, strict=True))
    for guard in act.guards:
        if not holds(guard.condition, instance, state, env):
            return guard
    return None


def apply(act: Action, args: Tuple, instance: Instance, state: State) -> State:
    """Return the state after a step (guards are not tested)."""
    env = dict(zip(act.params, args, strict=True))
    after = dict(state)
    for update in act.updates:
        kept = []
        for item in instance.tuples(update.rel.sorts):
            inner = {**env, **dict(zip(update.variables, item, strict=True))}
            stays = item in state[update.rel] and not holds(
                update.delete, instance, state, inner
            )
            if stays or holds(update.insert, instance, state, inner):
                kept.append(item)
        after[update.rel] = frozenset(kept)
    return after


@dataclass(frozen=True)
class Step:
    """One step of a run: an action and its arguments (element numbers)."""

    action: str
    args: Tuple


class ReplayError(Exception):
    """A run that the system does not allow; says which step and why."""


def replay(system: System, instance: Instance, steps: Sequence[Step]) -> list[State]:
    """Run steps from the initial state; returns every state passed, the first included.

    Raises:
        ReplayError: an unknown action, a wrong argument or a guard that fails.

    """
    states = [initial_state(system, instance)]
    for number, step in enumerate(steps, 1):
        try:
            act = system.action(step.action)
        except KeyError as error:
            raise ReplayError(f"step {number}: {error.args[0]}") from None
        if len(step.args) != len(act.params) or any(
            a not in instance.domain(p.sort) for a, p in zip(step.args, act.params, strict=True)
        ):
            raise ReplayError(f"step {number}: {step.action} does not take {step.args}")
        guard = failing_guard(act, step.args, instance, states[-1])
        if guard is not None:
            raise ReplayError(f"step {number}: {step.action} is refused by guard {guard.name}")
        states.append(apply(act, step.args, instance, states[-1]))
    return states
