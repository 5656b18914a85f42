"""Settles claims about errno values: for all states by z3, and by a run that meets the condition.

The claim "in every state that meets the condition this guard is the first to fail" is a closed
formula without reachability in it; z3 proves it over uninterpreted sorts, so it holds for any
number of everything. That the condition is not empty is shown by a run on a small machine, replayed
before it counts; the search for it also looks for a state that contradicts the claim.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmaproof.counterexamples.verdict import ANY, Result, Verdict
from dmaproof.engine.explicit import search
from dmaproof.engine.worlds import World
from dmaproof.model.design import Design
from dmaproof.model.logic.sets import Instance, Step, failing_guard, replay, witness
from dmaproof.model.logic.terms import Formula
from dmaproof.model.vfio.build import Model, build
from dmaproof.properties.arguments import can_refuse
from dmaproof.properties.errno import (
    ARGUMENT_REFUSALS,
    REFUSALS,
    ArgumentRefusal,
    Refusal,
    occurs,
    otherwise,
)

MAX_STATES = 30_000
TIMEOUT_MS = 10_000

WORLDS = (
    World(("A",), {"A": "gA"}),
    World(("A", "B"), {"A": "g", "B": "g"}),
    World(("A", "B"), {"A": "g", "B": "g"}, incapable=frozenset("B")),
    World(("A", "B"), {"A": "g", "B": "g"}, bad_path=frozenset("B")),
)
"""A function alone; two in a group; a group of which one member cannot do PASID, or has RR or UF
off on its way up."""


@dataclass(frozen=True)
class Refused:
    """A verdict of kind `errno` with what shows it.

    Attributes:
        verdict: the verdict.
        errno: what the call returns.
        instance, steps: a run to a state that meets the condition (None for arguments).
        call: the call that is refused there.
        states: how many reachable states were looked at.
    """

    verdict: Verdict
    errno: str
    instance: Instance | None = None
    steps: tuple[Step, ...] = ()
    call: Step | None = None
    states: int = 0


def settle(claim: str, design: Design) -> Refused:
    """Answer a claim of `properties.errno` for a design.

    Raises:
        KeyError: there is no such claim.
    """
    if claim in ARGUMENT_REFUSALS:
        return _arguments(ARGUMENT_REFUSALS[claim], design)
    return settle_on(REFUSALS[claim], build(design))


def settle_on(refusal: Refusal, model: Model) -> Refused:
    """Answer a claim about the calls of a model."""
    valid = never_satisfied(model, otherwise(refusal, model))
    states, found, bad = 0, None, ""
    for world in WORLDS:
        targets = {"occurs": occurs(refusal, model), "otherwise": otherwise(refusal, model)}
        if refusal.never is not None:
            targets["never"] = refusal.never(model)
        instance = world.instance(1, 1, 1)
        result = search(model.system, instance, targets, max_states=MAX_STATES)
        states += result.states
        if not result.exhausted and not bad:
            bad = "" if len(result.traces) == len(targets) else "a search was not exhausted"
        contradiction = {"otherwise", "never"} & result.traces.keys()
        if contradiction:
            steps = tuple(result.traces[min(contradiction)])
            replay(model.system, instance, steps)
            answer = _verdict(refusal, model, "refuted", "machine", "A run contradicts it.")
            return Refused(answer, refusal.errno, instance, steps, None, states)
        if found is None and "occurs" in result.traces:
            found = (instance, tuple(result.traces["occurs"]))
    if found is None:
        reason = "No small machine has a run to a state that meets the condition."
        return Refused(_verdict(refusal, model, "undecided", "machine", reason), refusal.errno)
    instance, steps = found
    call = refused_call(refusal, model, instance, steps)
    if call is None:
        reason = "replay-failed: the last state refuses the call for another reason"
        return Refused(_verdict(refusal, model, "undecided", "machine", reason), refusal.errno)
    if bad or not valid:
        reason = bad or "z3 does not prove it for every state"
        verdict = _verdict(refusal, model, "undecided", "machine", reason)
    else:
        # What must never be is searched, not proved: the scope is that of the search.
        scope = "any" if refusal.never is None else "machine"
        verdict = _verdict(refusal, model, "proved", scope, refusal.says)
    return Refused(verdict, refusal.errno, instance, steps, call, states)


def refused_call(
    refusal: Refusal, model: Model, instance: Instance, steps: tuple[Step, ...]
) -> Step | None:
    """Return the call that the last state of a run refuses as claimed, None without one."""
    state = replay(model.system, instance, steps)[-1]
    act = model.system.action(refusal.action)
    values = witness(refusal.when(model), act.params, instance, state)
    if values is None:
        return None
    args = tuple(values[p] for p in act.params)
    guard = failing_guard(act, args, instance, state)
    if guard is None or (guard.name, guard.errno) != (refusal.guard, refusal.errno):
        return None
    return Step(act.name, args)


def never_satisfied(model: Model, formula: Formula) -> bool:
    """Whether no state of any instance satisfies a closed formula, as z3 proves."""
    import z3

    from dmaproof.model.logic.smt import Uninterpreted

    context = z3.Context()
    reading = Uninterpreted(context)
    solver = z3.Solver(ctx=context)
    solver.set("timeout", TIMEOUT_MS)
    for axiom in model.system.axioms.values():
        solver.add(reading.formula(axiom, {}))
    solver.add(reading.formula(formula, {}))
    return bool(solver.check() == z3.unsat)


def _verdict(
    refusal: Refusal, model: Model, result: Result, scope: str, reason: str
) -> Verdict:
    return Verdict(
        model.design.name, ANY, refusal.id, "errno", result, scope, model.design.fabric.grouping,
        "", "", {}, False, reason,
    )


def _arguments(claim: ArgumentRefusal, design: Design) -> Refused:
    """Every rule named must refuse some call first, with the errno claimed."""
    result: Result = "proved"
    reason = claim.says
    for rule in claim.rules:
        answer = can_refuse(rule)
        calls = answer.witness.answers if answer.witness else ()
        if answer.result != "proved":
            result, reason = answer.result, f"{rule}: {answer.reason}"
        elif any(c.outcome.errno != claim.errno or c.written is not None for c in calls):
            result, reason = "refuted", f"{rule} answers with another errno"
    verdict = Verdict(
        design.name, ANY, claim.id, "errno", result, "any", design.fabric.grouping, "", "", {},
        False, reason,
    )
    return Refused(verdict, claim.errno)
