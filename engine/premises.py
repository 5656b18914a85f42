"""Premises of theorems as formulas over the facts of a machine."""

from __future__ import annotations

from dmaproof.model.logic.terms import TRUE, Eq, Formula, Var, and_, forall, implies, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise


def premise_formula(premise: Premise, model: Model) -> Formula:
    """A premise for one design, as a closed formula over static relations.

    It speaks of functions that the design can bind at all: an edge to a function that no bind can
    ever program carries nothing.
    """
    f, h = v.F1, v.H1
    same_group = Eq(v.group(f), v.group(h))
    reached = and_(v.acts(f, h), bindable(model, h))
    both = and_(bindable(model, f), bindable(model, h))
    no_raw: Formula = TRUE
    if model.design.fabric.ats:
        no_raw = forall((f,), not_(v.RAW(f)))
    parts: list[Formula]
    match premise:
        case Premise.NONE:
            return TRUE
        case Premise.NO_EDGES:
            parts = [implies(reached, Eq(f, h))]
        case Premise.CLOSED_GROUPING:
            parts = [implies(reached, same_group)]
        case Premise.LONE_GROUPS:
            parts = [implies(reached, Eq(f, h)), implies(and_(both, same_group), Eq(f, h))]
        case Premise.ONE_GROUP:
            parts = [implies(reached, same_group), implies(both, same_group)]
        case Premise.ONE_FUNCTION:
            parts = [implies(reached, Eq(f, h)), implies(both, Eq(f, h))]
        case Premise.SINGLE_GROUP:
            parts = [same_group]
        case Premise.SINGLE_FUNCTION:
            parts = [Eq(f, h)]
        case Premise.NO_P2P:
            return forall((f, h), implies(and_(v.P2P(f, h), bindable(model, f)), Eq(f, h)))
        case Premise.P2P_IN_GROUP:
            return forall((f, h), implies(v.P2P(f, h), same_group))
        case Premise.NOTHING_BINDABLE:
            return and_(forall((f,), not_(bindable(model, f))), no_raw)
    return and_(forall((f, h), and_(*parts)), no_raw)


def bindable(model: Model, function: Var) -> Formula:
    """The machine's facts allow a bind to program this function.

    With hot-add a group that is large by the facts may be single when the bind is called, so its
    size does not count then.
    """
    scheme, guards = model.scheme, model.design.guards
    alone: Formula = TRUE
    if guards.singleton_container and not scheme.hot_add:
        alone = scheme.single(v.group(function))
    return and_(scheme.eligible(function), alone)
