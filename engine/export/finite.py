"""A question about a finite instance: bits, steps, and what must never hold.

One step a time, chosen freely among those whose guard holds; choosing none, or one whose guard does
not hold, changes nothing. Bits that the question cannot depend on are left out, with the steps that
change nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from dmaproof.engine.bmc import bits_of, cone
from dmaproof.model.logic.ground import Ground, GroundSystem
from dmaproof.model.logic.sets import Instance, Step, Tuple
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula, Kind, Rel, Sort, not_


@dataclass(frozen=True)
class FiniteStep:
    """A step with concrete arguments.

    Attributes:
        name: the action and the names of its arguments.
        action: its number in the ground system.
        guard: when it can be taken.
        updates: (bit, its value afterwards as a formula over the bits before).
    """

    name: str
    action: int
    guard: Ground
    updates: tuple[tuple[int, Ground], ...]


@dataclass(frozen=True)
class Finite:
    """A question about a finite instance.

    Attributes:
        title: what is asked, in a line.
        bits: names of the bits.
        initial: their values at first.
        steps: what can happen.
        bad: what must never hold.
        kept: the number of each bit in the ground system.
    """

    title: str
    bits: tuple[str, ...]
    initial: tuple[bool, ...]
    steps: tuple[FiniteStep, ...]
    bad: Ground
    kept: tuple[int, ...]

    def project(self, state: int) -> tuple[bool, ...]:
        """The bits of a state of the ground system."""
        return tuple(bool(state >> b & 1) for b in self.kept)

    def run(self, numbers: Sequence[int], ground: GroundSystem) -> list[Step]:
        """Steps by their numbers here as steps of the system."""
        return [Step(*ground.describe(self.steps[n].action)) for n in numbers]


def finite(ground: GroundSystem, goal: Formula, title: str) -> Finite:
    """Return the question whether a closed formula can ever fail.

    Args:
        ground: the system on its instance.
        goal: what should always hold.
        title: what is asked, in a line.
    """
    bad = ground.ground(not_(goal), {})
    kept = tuple(sorted(cone(ground, [bad])))
    place = {bit: i for i, bit in enumerate(kept)}
    steps = []
    for number, act in enumerate(ground.actions):
        updates = tuple((place[b], _moved(v, place)) for b, v in act.updates if b in place)
        if updates:
            words = _named(ground, act.name, act.args)
            steps.append(FiniteStep(words, number, _moved(act.guard, place), updates))
    return Finite(
        title, _names([ground.bits[b] for b in kept], ground.instance),
        tuple(bool(ground.initial >> b & 1) for b in kept), tuple(steps), _moved(bad, place), kept,
    )


def _moved(ground: Ground, place: Mapping[int, int]) -> Ground:
    """A ground formula with its bits renumbered."""
    if isinstance(ground, bool):
        return ground
    word, *parts = ground
    if word == "bit":
        return ("bit", place[parts[0]])
    return (word, *(_moved(p, place) for p in parts))


def _named(ground: GroundSystem, action: str, args: Tuple) -> str:
    params = ground.system.action(action).params
    names = [ground.instance.name(p.sort, a) for p, a in zip(params, args, strict=True)]
    return f"{action}({', '.join(names)})"


def _names(atoms: Iterable[tuple[Rel, Tuple]], instance: Instance) -> tuple[str, ...]:
    """Names that every format takes: letters, digits and underscores, each once."""
    found: dict[str, None] = {}
    for rel, args in atoms:
        words = [rel.name, *(instance.name(s, a) for s, a in zip(rel.sorts, args, strict=True))]
        plain = re.sub(r"[^A-Za-z0-9]+", "_", "__".join(words)).strip("_")
        name, number = f"s_{plain}", 1
        while name in found:
            number += 1
            name = f"s_{plain}_{number}"
        found[name] = None
    return tuple(found)


def holds(ground: Ground, state: Sequence[bool]) -> bool:
    """Whether a ground formula holds of some bits."""
    if isinstance(ground, bool):
        return ground
    word, *parts = ground
    if word == "bit":
        return state[parts[0]]
    if word == "not":
        return not holds(parts[0], state)
    values = (holds(p, state) for p in parts)
    return all(values) if word == "and" else any(values)


def used(question: Finite) -> set[int]:
    """Bits that occur in a guard, in an update or in what must never hold."""
    found = bits_of(question.bad)
    for step in question.steps:
        found |= bits_of(step.guard)
        for bit, value in step.updates:
            found |= {bit} | bits_of(value)
    return found


# -- larger worlds --------------------------------------------------------------------------


def grown(instance: Instance, system: System, sort: Sort, count: int) -> Instance:
    """Return a world with *count* elements of a sort; further ones are copies of its last.

    A copy has the facts and the values of functions that the last element has. Functions into the
    sort keep their values.

    Raises:
        ValueError: the world has no such sort or more of it already, or what comes out violates an
            axiom (as where each device needs a requester id of its own).
    """
    names = instance.elements.get(sort, ())
    if not names:
        raise ValueError(f"the world has no {sort}")
    if count < len(names):
        raise ValueError(f"the world has {len(names)} of {sort} already")
    last = len(names) - 1
    copies = range(len(names), count)
    more = tuple(_fresh(names, n) for n in range(2, count - len(names) + 2))

    def spread(args: Tuple, sorts: Sequence[Sort]) -> Iterable[Tuple]:
        return product(*(
            (a, *copies) if s == sort and a == last else (a,)
            for a, s in zip(args, sorts, strict=True)
        ))

    found = Instance(
        {**instance.elements, sort: (*names, *more)},
        {fn: {new: value for args, value in table.items() for new in spread(args, fn.sorts)}
         for fn, table in instance.functions.items()},
        {rel: frozenset(new for args in content for new in spread(args, rel.sorts))
         for rel, content in instance.facts.items() if rel.kind is Kind.STATIC},
    )
    found.check(system)
    return found


def _fresh(names: Sequence[str], number: int) -> str:
    name = f"{names[-1]}.{number}"
    while name in names:
        name += "'"
    return name
