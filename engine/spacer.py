"""IC3/PDR on finite instances: z3's Spacer, asked about the bits as Horn clauses.

An engine of its own kind beside the explicit search and bounded model checking: it proves that no
run of any length breaks a claim on an instance, without visiting its states one by one. Its word
is for agreement tests and benchmarks; a verdict rests on what is re-checked or replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import z3

from dmaproof.engine.export.finite import Finite, finite
from dmaproof.model.logic.ground import Ground, GroundSystem
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import System
from dmaproof.model.logic.terms import Formula


@dataclass(frozen=True)
class Reached:
    """What Spacer says.

    Attributes:
        result: ``safe`` (the goal holds in every reachable state), ``unsafe`` or ``unknown``.
        reason: why it is unknown.
    """

    result: Literal["safe", "unsafe", "unknown"]
    reason: str = ""


def spacer(system: System, instance: Instance, goal: Formula, seconds: float = 60.0) -> Reached:
    """Ask whether a closed formula holds in every reachable state of an instance.

    Args:
        system: the transition system.
        instance: the finite instance.
        goal: what should always hold.
        seconds: budget of time.
    """
    return ask(finite(GroundSystem(system, instance), goal, "goal"), seconds)


def ask(question: Finite, seconds: float = 60.0) -> Reached:
    """Ask Spacer a question about bits."""
    if not question.bits:  # what must never hold speaks of no bit: it holds always or never
        return Reached("unsafe" if question.bad is True else "safe")
    context = z3.Context()
    fixedpoint = z3.Fixedpoint(ctx=context)
    fixedpoint.set("engine", "spacer")
    fixedpoint.set("timeout", max(1, int(seconds * 1000)))
    try:
        queries = fixedpoint.parse_string("\n".join(_script(question)))
        answer = fixedpoint.query(queries[0])
    except z3.Z3Exception as error:
        return Reached("unknown", f"z3 fails: {error}")
    if answer == z3.sat:
        return Reached("unsafe")
    if answer == z3.unsat:
        return Reached("safe")
    return Reached("unknown", str(fixedpoint.reason_unknown()))


def _script(question: Finite) -> Iterator[str]:
    """The question as rules for reachable states, in z3's extension of SMT-LIB.

    One rule for all steps: with a rule for each, Spacer takes many times as long.
    """
    count = len(question.bits)
    now, then = [f"b{i}" for i in range(count)], [f"c{i}" for i in range(count)]
    yield f"(declare-rel reached ({' '.join(['Bool'] * count)}))"
    yield "(declare-rel bad ())"
    for name in (*now, *then):
        yield f"(declare-var {name} Bool)"
    first = ["true" if value else "false" for value in question.initial]
    yield f"(rule (reached {' '.join(first)}))"
    here = f"(reached {' '.join(now)})"
    ways = []
    for step in question.steps:
        updates = dict(step.updates)
        values = [_text(updates[b], now) if b in updates else now[b] for b in range(count)]
        same = " ".join(f"(= {c} {value})" for c, value in zip(then, values, strict=True))
        ways.append(f"(and {_text(step.guard, now)} {same})")
    if ways:
        yield f"(rule (=> (and {here} (or false {' '.join(ways)})) (reached {' '.join(then)})))"
    yield f"(rule (=> (and {here} {_text(question.bad, now)}) bad))"
    yield "(query bad)"


def _text(ground: Ground, names: Sequence[str]) -> str:
    if isinstance(ground, bool):
        return "true" if ground else "false"
    word, *parts = ground
    if word == "bit":
        return names[parts[0]]
    return f"({word} {' '.join(_text(p, names) for p in parts)})"
