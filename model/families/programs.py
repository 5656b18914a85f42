"""Programs of the driver as micro-steps: where a running call stands is a relation.

A program is keyed by its parameters, so any number of calls with different parameters run at once;
what excludes two calls is a guard of their first step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dmaproof.model.logic.system import Action, Actor, Guard, Update, action, delete, insert
from dmaproof.model.logic.terms import Formula, Rel, Term, Var, or_


@dataclass(frozen=True)
class Work:
    """One micro-step.

    Attributes:
        label: identifier, such as ``flush-iotlb``.
        says: sentence for a trace; ``{x}`` stands for parameter x.
        updates: what it does.
        guards: what it waits for, or what makes it fail.
    """

    label: str
    says: str
    updates: tuple[Update, ...] = ()
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Program:
    """A program laid out: its actions, and where calls stand.

    Attributes:
        name: prefix of its actions.
        stages: one relation a micro-step but the first: a call stands before that step.
        actions: the micro-steps.
    """

    name: str
    stages: tuple[Rel, ...]
    actions: tuple[Action, ...]

    def guarded(self, *guards: Guard) -> Program:
        """The program with further guards of its first step, such as locks to wait for."""
        first = self.actions[0]
        entered = replace(first, guards=(*first.guards, *guards))
        return replace(self, actions=(entered, *self.actions[1:]))

    def around(self, entered: Update, left: Update) -> Program:
        """The program with an update more at its first step, and one at its last."""
        first, *middle, last = self.actions
        both = replace(first, updates=(*first.updates, entered)), replace(
            last, updates=(*last.updates, left)
        )
        return replace(self, actions=(both[0], *middle, both[1]))

    def running(self, *args: Term) -> Formula:
        """A call with these parameters has begun and not ended."""
        return or_(*(s(*args) for s in self.stages))


def program(
    name: str,
    params: Iterable[Var],
    begin: Work,
    steps: Sequence[Work],
    carried: tuple[Var, ...] = (),
) -> Program:
    """Lay out a program.

    Args:
        name: of the call, such as ``unbind``.
        params: what identifies a running call; every micro-step has them.
        begin: the first micro-step, taken by the user; its guards refuse the call.
        steps: the others, in their order; the call ends with the last one.
        carried: further parameters of every micro-step; *begin* notes them in relations of the
            family's own, and the guards of the others read them there.

    Raises:
        ValueError: there is nothing after the first micro-step.
    """
    key = tuple(params)
    if not steps:
        raise ValueError(f"{name} has no steps")
    sorts = tuple(p.sort for p in key)
    stages = tuple(
        Rel(f"{name}_{i}_{w.label.replace('-', '_')}".replace("-", "_"), sorts)
        for i, w in enumerate(steps)
    )
    acts = [action(f"{name}.{begin.label}", (*key, *carried), begin.guards,
                   [insert(stages[0], *key), *begin.updates], Actor.USER, begin.says)]
    seen: dict[str, int] = {}
    for i, work in enumerate(steps):
        seen[work.label] = seen.get(work.label, 0) + 1
        label = work.label if seen[work.label] == 1 else f"{work.label}-{seen[work.label]}"
        moved = [delete(stages[i], *key)]
        if i + 1 < len(steps):
            moved.append(insert(stages[i + 1], *key))
        acts.append(action(
            f"{name}.{label}", (*key, *carried),
            [Guard("next-step", stages[i](*key)), *work.guards], [*moved, *work.updates],
            Actor.KERNEL, work.says,
        ))
    return Program(name, stages, tuple(acts))
