"""Premises of theorems as formulas over the facts of a machine."""

from __future__ import annotations

from dmaproof.model.logic.terms import TRUE, Eq, Formula, Var, and_, forall, implies, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model
from dmaproof.properties.base import Premise


def premise_formula(premise: Premise, model: Model) -> Formula:
    """A premise for one design, as a closed formula over static relations.

    It speaks of functions that the design can bind at all (`Scheme.eligible`): an edge to a function
    that no bind can ever program carries nothing.
    """
    eligible = model.scheme.eligible(v.H1)
    reached = and_(v.acts(v.F1, v.H1), eligible)
    no_raw = TRUE
    if model.design.fabric.ats:
        no_raw = forall((v.F1,), not_(v.RAW(v.F1)))
    match premise:
        case Premise.NO_EDGES:
            return and_(forall((v.F1, v.H1), implies(reached, Eq(v.F1, v.H1))), no_raw)
        case Premise.CLOSED_GROUPING:
            same = Eq(v.group(v.F1), v.group(v.H1))
            return and_(forall((v.F1, v.H1), implies(reached, same)), no_raw)
        case Premise.NO_P2P:
            emitter = and_(v.P2P(v.F1, v.H1), model.scheme.eligible(v.F1))
            return forall((v.F1, v.H1), implies(emitter, Eq(v.F1, v.H1)))
        case Premise.P2P_IN_GROUP:
            same = Eq(v.group(v.F1), v.group(v.H1))
            return forall((v.F1, v.H1), implies(v.P2P(v.F1, v.H1), same))
        case Premise.NOTHING_BINDABLE:
            return forall((v.F1,), not_(bindable(model, v.F1)))
    return TRUE


def bindable(model: Model, function: Var) -> Formula:
    """The machine's facts allow a bind for this function."""
    scheme = model.scheme
    guards = model.design.guards
    alone = scheme.single(v.group(function)) if guards.singleton else TRUE
    if guards.singleton_container:
        alone = scheme.single(v.group(function))
    return and_(scheme.eligible(function), alone)
