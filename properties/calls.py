"""Properties of the calls: agreement of members, failed calls, witnesses."""

from __future__ import annotations

from dmaproof.model.logic.terms import (
    Eq,
    Formula,
    Var,
    and_,
    exists,
    forall,
    iff,
    implies,
    ne,
    not_,
)
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model


def uniform(model: Model) -> Formula:
    """While no call runs on a container, the tables of all its members agree."""
    scheme = model.scheme
    inside = and_(
        v.IN(v.group(v.F1), v.C1), v.IN(v.group(v.H1), v.C1),
        scheme.present(v.F1), scheme.present(v.H1),
    )
    quiet = not_(model.in_progress(v.C1))
    same = iff(
        scheme.walk(v.rid(v.F1), v.P1, v.S1), scheme.walk(v.rid(v.H1), v.P1, v.S1)
    )
    return forall(
        (v.F1, v.H1, v.C1, v.P1, v.S1), implies(and_(inside, quiet), same)
    )


def failed_call_changes_nothing(model: Model) -> Formula:
    """An object without a live call has empty tables: a failed bind left nothing behind.

    A bind enters only while its object is idle, so the state before the call was just that.
    """
    scheme = model.scheme
    binder = model.binder
    assert binder is not None
    args = tuple(Var(f"{a.name}1", a.sort) for a in scheme.args)
    slot = scheme.slot(*((v.rid(v.F1), *args) if scheme.slot.sorts[0] == v.RID else args))
    idle = not_(binder.live(scheme.key1, *args))
    member = and_(scheme.member(scheme.key1, v.F1), slot)
    return forall((scheme.key1, v.F1, *args), not_(and_(idle, member)))


def can_bind(model: Model) -> Formula:
    """A bind returns success for some function."""
    binder, scheme = model.binder, model.scheme
    if binder is None:
        return exists((v.F1, v.S1), scheme.walk(v.rid(v.F1), v.NO_PASID, v.S1))
    args = tuple(Var(f"{a.name}1", a.sort) for a in scheme.args)
    return exists((scheme.key1, *args), binder.bound(scheme.key1, *args))


def can_p2p_and_pasid(model: Model) -> Formula:
    """Two functions exchange peer-to-peer requests while one of them has a live PASID."""
    live = model.scheme.walk(v.rid(v.F1), v.P1, v.S1)
    peers = and_(v.P2P(v.F1, v.H1), ne(v.F1, v.H1), model.scheme.present(v.H1))
    pasid = not_(Eq(v.P1, v.NO_PASID))
    return exists((v.F1, v.H1, v.P1, v.S1), and_(live, peers, pasid))
