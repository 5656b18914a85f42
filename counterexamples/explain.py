"""Why a state violates a property: the false conjunct, its objects, the path and the channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dmaproof.model.logic.sets import Instance, State, holds, witness
from dmaproof.model.logic.terms import And, Formula, Not, Or, Quantified, Var, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model


@dataclass(frozen=True)
class Falsified:
    """A closed formula's reason to be false.

    Attributes:
        conjunct: the part that is false, as text.
        objects: names of the elements that falsify it, by variable.
    """

    conjunct: str
    objects: Mapping[str, str]


def falsified(formula: Formula, instance: Instance, state: State) -> Falsified:
    """The first false conjunct and the elements that falsify it.

    Raises:
        ValueError: the formula is true.
    """
    found = _dig(formula, instance, state, {})
    if found is None:
        raise ValueError("the property holds in this state")
    part, env = found
    names = {x.name: instance.name(x.sort, e) for x, e in env.items()}
    return Falsified(str(part), names)


def _dig(
    formula: Formula, instance: Instance, state: State, env: dict[Var, int]
) -> tuple[Formula, dict[Var, int]] | None:
    if holds(formula, instance, state, env):
        return None
    match formula:
        case And(parts):
            for part in parts:
                found = _dig(part, instance, state, env)
                if found is not None:
                    return found
        case Quantified(True, variables, body):
            values = witness(not_(body), variables, instance, state)
            if values is not None:
                return _conclusion(body), {**env, **values}
    return formula, env


def _conclusion(body: Formula) -> Formula:
    """Of "premises imply conclusion" the conclusion: what should have held."""
    if isinstance(body, Or):
        rest = [p for p in body.parts if not isinstance(p, Not)]
        if rest:
            return rest[-1]
    return body


def satisfied(formula: Formula, instance: Instance, state: State) -> Falsified:
    """The elements that make an existential formula true.

    Raises:
        ValueError: the formula is false.
    """
    if isinstance(formula, Quantified) and not formula.universal:
        values = witness(formula.body, formula.variables, instance, state)
        if values is not None:
            names = {x.name: instance.name(x.sort, e) for x, e in values.items()}
            return Falsified(str(formula.body), names)
    if not holds(formula, instance, state, {}):
        raise ValueError("the formula does not hold in this state")
    return Falsified(str(formula), {})


def holder(model: Model, instance: Instance, state: State, objects: Mapping[str, str]) -> str:
    """Which table or cache gives the space, in words ("" when no request is involved)."""
    if not {"p1", "s1"} <= set(objects):
        return ""
    requester = objects.get("r1") or f"rid({objects.get('h1', objects.get('f1', ''))})"
    env: dict[Var, int] = {}
    for name, sort, text in (
        ("r", v.RID, requester), ("p", v.PASID, objects["p1"]), ("s", v.SPACE, objects["s1"])
    ):
        elements = instance.elements[sort]
        if text not in elements:
            return ""
        env[Var(name, sort)] = elements.index(text)
    terms = tuple(env)
    for cache in reversed(model.scheme.caches):
        if holds(cache(*terms), instance, state, env):
            return f"a stale or live entry of the {cache.name.replace('_', ' ')}"
    if holds(model.scheme.walk(*terms), instance, state, env):
        return "the tables"
    return ""
