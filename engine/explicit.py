"""Explicit search: breadth first over the bits of a finite instance.

Breadth first makes the first trace found a shortest one. Interchangeable elements (spaces, PASIDs,
containers) are sorted into a canonical order, so that states that differ in names only are visited
once. Functions are told apart by their requester ids and stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance, Step, Tuple
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, Rel, Sort


@dataclass
class Search:
    """What a search found.

    Attributes:
        traces: a shortest run for each target that was reached.
        states: how many states were visited.
        depth: the last level that was searched completely.
        exhausted: every reachable state was visited.
        reason: why it stopped early ("" if exhausted or all targets were reached).
    """

    traces: dict[str, list[Step]] = field(default_factory=dict)
    states: int = 0
    depth: int = 0
    exhausted: bool = False
    reason: str = ""


def search(
    system: System,
    instance: Instance,
    targets: Mapping[str, Formula],
    *,
    max_states: int = 200_000,
    seconds: float = 60.0,
    symmetric: bool = True,
) -> Search:
    """Look for the shortest runs to states where closed formulas hold.

    Args:
        system: the transition system.
        instance: the finite instance.
        targets: name -> formula to reach.
        max_states: budget of states.
        seconds: budget of time.
        symmetric: visit one state of each orbit.
    """
    explorer = Explorer(system, instance, symmetric=symmetric)
    return explorer.look(targets, max_states=max_states, seconds=seconds)


def _same(state: int) -> int:
    return state


class Explorer:
    """A search that can be asked again: it goes on where the last question left it.

    An orbit is expanded once, from the concrete state that reached it first: numbers of actions
    along the parents therefore fit together into a run.
    """

    def __init__(self, system: System, instance: Instance, *, symmetric: bool = True) -> None:
        """Stand at the initial state.

        Args:
            system: the transition system.
            instance: the finite instance.
            symmetric: visit one state of each orbit.
        """
        self._ground = ground = GroundSystem(system, instance)
        self._canonical = Canonical(ground).form if symmetric else _same
        self._successors = ground.compile_successors()
        start = self._canonical(ground.initial)
        self._parent: dict[int, tuple[int, int] | None] = {start: None}
        self._level = [ground.initial]
        self._place = 0  # in the level: what is before it is expanded
        self._following: list[int] = []
        self._depth = 0

    def look(
        self, targets: Mapping[str, Formula], *, max_states: int, seconds: float
    ) -> Search:
        """Look for the shortest runs to states where closed formulas hold.

        Args:
            targets: name -> formula to reach.
            max_states: budget of states, those of earlier questions included.
            seconds: budget of time.
        """
        wanted = {name: self._ground.compile_formula(f) for name, f in targets.items()}
        result = Search()
        deadline = time.monotonic() + seconds
        for form in self._parent:  # in the order of the visits; a formula knows no names
            self._reached(wanted, result, form, form)
            if not wanted:
                break
        while self._level and wanted:
            if len(self._parent) > max_states or time.monotonic() > deadline:
                many = len(self._parent) > max_states
                what = f"{max_states} states" if many else f"{seconds:g} s"
                result.reason = f"the budget of {what} is used up"
                break
            self._expand(wanted, result)
        result.states, result.depth = len(self._parent), self._depth
        if self._place and not wanted:
            result.depth += 1
        result.exhausted = not self._level
        return result

    def _expand(self, wanted: dict[str, Callable[[int], bool]], result: Search) -> None:
        """Visit what one more state leads to."""
        canonical, parent = self._canonical, self._parent
        state = self._level[self._place]
        key = canonical(state)
        for number, after in self._successors(state):
            form = canonical(after)
            if form not in parent:
                parent[form] = (key, number)
                self._following.append(after)
                self._reached(wanted, result, after, form)
        self._place += 1
        if self._place == len(self._level):
            self._level, self._following, self._place = self._following, [], 0
            self._depth += 1

    def _reached(
        self, wanted: dict[str, Callable[[int], bool]], result: Search, state: int, form: int
    ) -> None:
        """Note a run for each target that holds in a state, whose canonical form is given."""
        for name in [n for n, test in wanted.items() if test(state)]:
            del wanted[name]
            steps = []
            at = self._parent[form]
            while at is not None:
                key, number = at
                steps.append(Step(*self._ground.describe(number)))
                at = self._parent[key]
            result.traces[name] = steps[::-1]


class Canonical:
    """Canonical forms by sorting: what the state says of elements of a class gives their order.

    Elements are interchangeable when swapping them keeps every fact and the initial state. Ties
    after the refinement are broken by number, which may visit a state of an orbit twice, never miss
    one.
    """

    def __init__(self, ground: GroundSystem) -> None:
        self.ground = ground
        self.classes = [
            (sort, members)
            for sort in ground.instance.elements
            for members in _interchangeable(ground, sort)
        ]
        self._cache: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        self._masks = [
            [self._mask(sort, member) for member in members] for sort, members in self.classes
        ]

    def _mask(self, sort: Sort, member: int) -> list[tuple[int, int]]:
        """Bits that mention an element, each with a signature of the relation and position."""
        found = []
        for bit, (rel, args) in enumerate(self.ground.bits):
            for place, (s, a) in enumerate(zip(rel.sorts, args, strict=True)):
                if s == sort and a == member:
                    others = tuple(
                        x if not self._moves(t, x) or i == place else -1
                        for i, (t, x) in enumerate(zip(rel.sorts, args, strict=True))
                    )
                    others = (*others[:place], -2, *others[place + 1 :])
                    found.append((1 << bit, hash((rel.name, others))))
        return found

    def _moves(self, sort: Sort, element: int) -> bool:
        return any(s == sort and element in m for s, m in self.classes)

    def form(self, state: int) -> int:
        """The canonical state of the orbit of *state* (a renaming of it)."""
        orders = []
        for masks in self._masks:
            keys = [sorted(s for b, s in m if state & b) for m in masks]
            orders.append(tuple(sorted(range(len(masks)), key=lambda i: (keys[i], i))))
        key = tuple(orders)
        if all(o == tuple(range(len(o))) for o in key):
            return state
        permutation = self._cache.get(key)
        if permutation is None:
            permutation = self._cache[key] = self._bits_under(key)
        moved = 0
        rest = state
        while rest:
            low = rest & -rest
            moved |= permutation[low.bit_length() - 1]
            rest ^= low
        return moved

    def _bits_under(self, orders: Sequence[tuple[int, ...]]) -> list[int]:
        rename: dict[tuple[Sort, int], int] = {}
        for (sort, members), order in zip(self.classes, orders, strict=True):
            for place, index in enumerate(order):
                rename[sort, members[index]] = members[place]
        return [1 << self.ground.bit_of[rel, renamed(rel, args, rename)]
                for rel, args in self.ground.bits]


def renamed(rel: Rel, args: Tuple, rename: Mapping[tuple[Sort, int], int]) -> Tuple:
    """A tuple with its elements renamed."""
    return tuple(rename.get((s, a), a) for s, a in zip(rel.sorts, args, strict=True))


def _interchangeable(ground: GroundSystem, sort: Sort) -> list[tuple[int, ...]]:
    """Classes of at least two elements of a sort that may be swapped freely."""
    instance = ground.instance
    classes: list[list[int]] = []
    for element in instance.domain(sort):
        for members in classes:
            if _swaps(ground, instance, sort, members[0], element):
                members.append(element)
                break
        else:
            classes.append([element])
    return [tuple(m) for m in classes if len(m) > 1]


def _swaps(ground: GroundSystem, instance: Instance, sort: Sort, a: int, b: int) -> bool:
    rename = {(sort, a): b, (sort, b): a}
    for rel, content in instance.facts.items():
        if sort in rel.sorts and {renamed(rel, t, rename) for t in content} != set(content):
            return False
    for fn, table in instance.functions.items():
        if sort not in (*fn.sorts, fn.result):
            continue
        for args, value in table.items():
            moved = tuple(rename.get((s, x), x) for s, x in zip(fn.sorts, args, strict=True))
            if table[moved] != rename.get((fn.result, value), value):
                return False
    start = {ground.bits[i] for i in range(len(ground.bits)) if ground.initial >> i & 1}
    return {(r, renamed(r, t, rename)) for r, t in start} == start
