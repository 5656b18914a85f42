"""The three levels of isolation, separation, finality of unbind (docs/semantics.md section 2)."""

from __future__ import annotations

from dmaproof.model.design import Object
from dmaproof.model.logic.terms import (
    FALSE,
    Eq,
    Formula,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model

_P = Var("pp", v.PASID)


def via(model: Model, function: Term, emitter: Term, requester: Term) -> Formula:
    """``via(f, g, r, p1, s1)``: a request that f causes hits (r, p1, s1), emitted by g."""
    scheme = model.scheme
    plugged = and_(scheme.present(function), scheme.present(emitter))
    edges = and_(v.INFLUENCE(function, emitter), v.EMITS(emitter, requester))
    return and_(plugged, edges, scheme.hit(requester, v.P1, v.S1))


def _raw(model: Model) -> Formula:
    """A translated request with an address of the device's choice, past all tables (L5)."""
    if not model.design.fabric.ats:
        return FALSE
    return and_(v.RAW(v.F1), model.scheme.present(v.F1))


def _isolation(model: Model, covered: Formula) -> Formula:
    hits = via(model, v.F1, v.X1, v.R1)
    bound = (v.F1, v.X1, v.R1, v.P1, v.S1)
    direct = forall(bound, implies(hits, covered))
    raw = forall((v.F1, v.S1), implies(_raw(model), covered))
    return and_(direct, raw)


def device_isolation(model: Model) -> Formula:
    """Whatever a function reaches was bound for that function."""
    return _isolation(model, granted_to_device())


def granted_to_device() -> Formula:
    """Something was bound for f1 that gives s1."""
    return exists((_P,), v.grant(v.F1, _P, v.S1))


def group_isolation(model: Model) -> Formula:
    """... for a member of its group."""
    return _isolation(model, exists((_P,), v.GGRANT(v.group(v.F1), _P, v.S1)))


def container_isolation(model: Model) -> Formula:
    """... for a member of its container."""
    return _isolation(model, granted_to_container())


def granted_to_container() -> Formula:
    """Something was bound for a member of f1's container that gives s1."""
    return exists((v.C1, _P), and_(v.IN(v.group(v.F1), v.C1), v.CGRANT(v.C1, _P, v.S1)))


def container_separation(model: Model) -> Formula:
    """A function acts with the bindings of another only inside one container."""
    hits = via(model, v.F1, v.X1, v.rid(v.H1))
    inside = and_(hits, v.IN(v.group(v.F1), v.C1))
    bound = (v.F1, v.X1, v.H1, v.P1, v.S1, v.C1)
    return forall(bound, implies(inside, v.IN(v.group(v.H1), v.C1)))


def levels_coincide(model: Model) -> Formula:
    """What the device level grants of the spaces a function reaches, the container level grants."""
    hits = via(model, v.F1, v.X1, v.R1)
    bound = (v.F1, v.X1, v.R1, v.P1, v.S1)
    device, container = granted_to_device(), granted_to_container()
    same = and_(or_(not_(device), container), or_(not_(container), device))
    return forall(bound, implies(hits, same))


def live_call(model: Model, function: Term) -> Formula:
    """A live call of the design's object covers (p1, s1) for *function*."""
    covered: Formula
    match model.scheme.object:
        case Object.DEVICE:
            covered = v.grant(function, v.P1, v.S1)
        case Object.GROUP:
            covered = v.GGRANT(v.group(function), v.P1, v.S1)
        case Object.CONTAINER:
            covered = exists(
                (v.C1,), and_(v.IN(v.group(function), v.C1), v.CGRANT(v.C1, v.P1, v.S1))
            )
    return covered


def unbind_final(model: Model) -> Formula:
    """What a function's own requests hit is covered by a live call of its object.

    Once unbind has returned no call covers the entry, so nothing may hold it any more.
    """
    hits = model.scheme.hit(v.rid(v.F1), v.P1, v.S1)
    return forall((v.F1, v.P1, v.S1), implies(hits, live_call(model, v.F1)))


def no_misroute(model: Model) -> Formula:
    """No PASID request of a function with a live bind can end at a peer's BAR (L2)."""
    live = model.scheme.walk(v.rid(v.F1), v.P1, v.S1)
    peer = and_(v.P2P(v.F1, v.H1), model.scheme.present(v.H1), not_(Eq(v.F1, v.H1)))
    return forall((v.F1, v.H1, v.P1, v.S1), not_(and_(live, peer)))
