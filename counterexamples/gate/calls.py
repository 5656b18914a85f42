"""Designs seen from outside: what calls lead to, whatever the kernel does in between.

Two designs rarely take the same micro-steps, but their users make the same calls. A violation of
one is matched in the other when the same calls lead to a violation there; an operation is newly
allowed when, after the same calls, one design accepts it and the other never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from dmaproof.engine.known import world_text
from dmaproof.model.logic.ground import GroundSystem
from dmaproof.model.logic.sets import Instance, Step, Tuple, failing_guard
from dmaproof.model.logic.system import Action, Actor, System
from dmaproof.model.logic.terms import Formula, Kind, not_

Successors = Callable[[int], list[tuple[int, int]]]

OUTSIDE = (Actor.USER, Actor.PLATFORM)
MAX_STATES = 30_000
MATCH_SECONDS = 3.0


def telling(*systems: System) -> frozenset[str]:
    """Return the names of the calls that count when runs are compared.

    These are the calls that change what users were promised (ghosts), in one of the systems; where
    none does, all calls of users and of the platform. Opening a device or joining a container on
    the way is not what makes one run another.
    """
    outside = [a for s in systems for a in s.actions if a.actor in OUTSIDE]
    found = {a.name for a in outside if any(u.rel.kind is Kind.GHOST for u in a.updates)}
    return frozenset(found or {a.name for a in outside})


def calls_of(names: frozenset[str], steps: Iterable[Step]) -> list[Step]:
    """Return the steps of a run that count (see `telling`)."""
    return [s for s in steps if s.action in names]


class Compiled:
    """A system on worlds, each compiled once."""

    def __init__(self, system: System) -> None:
        """Take a system."""
        self.system = system
        self._known: dict[str, tuple[GroundSystem, Successors]] = {}

    def on(self, instance: Instance) -> tuple[GroundSystem, Successors]:
        """The bits of a world, and the function from a state to its successors."""
        key = world_text(instance)
        if key not in self._known:
            ground = GroundSystem(self.system, instance)
            self._known[key] = (ground, ground.compile_successors())
        return self._known[key]


def leads_out_of(
    system: System, instance: Instance, goal: Formula, calls: Sequence[Step],
    names: frozenset[str], compiled: Compiled | None = None,
) -> bool | None:
    """Whether some run that makes these calls, in this order or a part from their start, breaks.

    Args:
        system: the design that is run.
        instance: its world.
        goal: a closed formula that should hold always.
        calls: the calls that count; everything else happens as it can.
        names: which calls count.
        compiled: the system on worlds, of earlier questions.

    Returns:
        None when the budget is used up.
    """
    ground, successors = (compiled or Compiled(system)).on(instance)
    broken = ground.compile_formula(not_(goal))
    start = (ground.initial, 0)
    seen, level = {start}, [start]
    deadline = time.monotonic() + MATCH_SECONDS
    while level:
        following = []
        for state, made in level:
            if broken(state):
                return True
            for number, after in successors(state):
                act = ground.actions[number]
                step = made
                if act.name in names:
                    wanted = calls[made] if made < len(calls) else None
                    if wanted is None or (wanted.action, wanted.args) != (act.name, act.args):
                        continue
                    step += 1
                if (after, step) not in seen:
                    seen.add((after, step))
                    following.append((after, step))
        if len(seen) > MAX_STATES or time.monotonic() > deadline:
            return None
        level = following
    return False


@dataclass(frozen=True)
class Difference:
    """A call that one design accepts and the other refuses after the same calls.

    Attributes:
        call: the call.
        allowed_by: 0 for the first design, 1 for the second.
        guard, errno: how the other one refuses it.
        before: the calls before it.
    """

    call: Step
    allowed_by: int
    guard: str
    errno: str
    before: tuple[Step, ...]


class _Outside:
    """One design as the set of states in which some calls may have left it.

    Caches do not fill: no call's guard asks for a cache, only for the kernel's own state.
    """

    def __init__(self, system: System, instance: Instance) -> None:
        self.system, self.instance = system, instance
        self.ground = GroundSystem(system, instance)
        self._successors = self.ground.compile_successors()
        actors = {a.name: a.actor for a in system.actions}
        self._actor = [actors[a.name] for a in self.ground.actions]
        self.start = self.closed([self.ground.initial])

    def closed(self, states: Iterable[int]) -> frozenset[int]:
        """All states that the kernel may reach from some, by itself."""
        found = set(states)
        todo = list(found)
        while todo and len(found) < MAX_STATES:
            for number, after in self._successors(todo.pop()):
                if self._actor[number] is Actor.KERNEL and after not in found:
                    found.add(after)
                    todo.append(after)
        return frozenset(found)

    def accepted(self, states: Iterable[int]) -> dict[tuple[str, Tuple], frozenset[int]]:
        """What each call leads to, for the calls that some state accepts."""
        found: dict[tuple[str, Tuple], set[int]] = {}
        for state in states:
            for number, after in self._successors(state):
                if self._actor[number] in OUTSIDE:
                    act = self.ground.actions[number]
                    found.setdefault((act.name, act.args), set()).add(after)
        return {call: self.closed(after) for call, after in found.items()}

    def refusal(self, states: Iterable[int], name: str, args: Tuple) -> tuple[str, str] | None:
        """The guard and errno by which every state refuses a call; None if one does otherwise."""
        act = self.system.action(name)
        said = None
        for state in states:
            guard = failing_guard(act, args, self.instance, self.ground.unpack(state))
            if guard is None:
                return None
            if guard.errno:
                said = (guard.name, guard.errno)
        return said


def differences(
    old: System, new: System, instance: Instance, *, seconds: float, max_sets: int = 400
) -> Iterator[Difference]:
    """Yield calls that one design accepts and the other refuses, each after a shortest run.

    Every operation is told once for each direction. Calls that exist in one design only, or take
    other parameters there, are no part of this.

    Args:
        old: one design.
        new: the other.
        instance: a world of both.
        seconds: budget of time.
        max_sets: budget of pairs of sets of states.
    """
    common = {
        a.name for a in old.actions
        if a.actor in OUTSIDE and any(a.name == b.name and a.params == b.params
                                      for b in new.actions)
    }
    sides = (_Outside(old, instance), _Outside(new, instance))
    start = (sides[0].start, sides[1].start)
    seen = {start}
    level: list[tuple[tuple[frozenset[int], frozenset[int]], tuple[Step, ...]]] = [(start, ())]
    told: set[tuple[str, int]] = set()
    deadline = time.monotonic() + seconds
    while level:
        following = []
        for states, before in level:
            accepted = [s.accepted(x) for s, x in zip(sides, states, strict=True)]
            for name, args in sorted({*accepted[0], *accepted[1]}):
                if name not in common:
                    continue
                both = [a.get((name, args)) for a in accepted]
                if both[0] is not None and both[1] is not None:
                    pair = (both[0], both[1])
                    if pair not in seen:
                        seen.add(pair)
                        following.append((pair, (*before, Step(name, args))))
                    continue
                allowed = 0 if both[0] is not None else 1
                if (name, allowed) in told:
                    continue
                said = sides[1 - allowed].refusal(states[1 - allowed], name, args)
                if said is not None:
                    told.add((name, allowed))
                    yield Difference(Step(name, args), allowed, *said, before)
            if len(seen) > max_sets or time.monotonic() > deadline:
                return
        level = following


def worded(act: Action, args: Tuple, instance: Instance) -> str:
    """A call in a sentence."""
    text = act.says or act.name
    for param, arg in zip(act.params, args, strict=True):
        text = text.replace(f"{{{param.name}}}", instance.name(param.sort, arg))
    if act.says:
        return text
    names = ", ".join(instance.name(p.sort, a) for p, a in zip(act.params, args, strict=True))
    return f"{act.name}({names})"
