"""What the user bound, joined over groups and containers: bookkeeping of the properties.

`grant` names the beneficiary of a call alone; `ggrant` and `cgrant` are its joins. They are
separate relations because an invariant must stay universal; that they are the joins is checked in
every finite reading (tests).
"""

from __future__ import annotations

from dmaproof.model.design import Object
from dmaproof.model.logic.system import Update, delete_where, insert
from dmaproof.model.logic.terms import Eq, Formula, Term, Var, and_, exists, forall, iff, ne, not_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.scheme import Scheme

_R, _G, _C = Var("gh.r", v.RID), Var("gh.grp", v.GROUP), Var("gh.c", v.CONTAINER)
_P, _S = Var("gh.p", v.PASID), Var("gh.s", v.SPACE)


def granted(scheme: Scheme, pasid: Term = v.P) -> list[Update]:
    """A call for the caller's function f enters: f, its group and its container are granted."""
    found = [insert(v.GRANTED, v.rid(v.F), pasid, v.S), insert(v.GGRANT, v.group(v.F), pasid, v.S)]
    if scheme.containers:
        found.append(insert(v.CGRANT, v.C, pasid, v.S))
    return found


def revoked(scheme: Scheme, subject: Formula) -> list[Update]:
    """A call of the object `scheme.key` ends: what its members were granted is gone.

    Args:
        scheme: the design's scheme.
        subject: which (gh.p, gh.s) the call was about.
    """
    key = scheme.key
    found = [
        delete_where(v.GRANTED, (_R, _P, _S), and_(scheme.member_rid(key, _R), subject)),
        delete_where(v.GGRANT, (_G, _P, _S), and_(_groups(scheme), subject)),
    ]
    if scheme.containers:
        found.append(delete_where(v.CGRANT, (_C, _P, _S), and_(_containers(scheme), subject)))
    return found


def subject_of_call(scheme: Scheme) -> Formula:
    """The (gh.p, gh.s) of a call: its own for a process bind, all for a table."""
    return and_(*(Eq(a, b) for a, b in zip((_P, _S), scheme.args, strict=False)))


def subject_of_map() -> Formula:
    """The (gh.p, gh.s) of an UNMAP: the RID domain's space s."""
    return and_(Eq(_P, v.NO_PASID), Eq(_S, v.S))


def _groups(scheme: Scheme) -> Formula:
    """Groups that lose (gh.p, gh.s): those of members, unless another of their functions has it."""
    key = scheme.key
    match scheme.object:
        case Object.DEVICE:
            same = Eq(v.RGROUP(v.R1), v.group(key))
            other = exists((v.R1,), and_(ne(v.R1, v.rid(key)), same, v.GRANTED(v.R1, _P, _S)))
            return and_(Eq(_G, v.group(key)), not_(other))
        case Object.GROUP:
            return Eq(_G, key)
    return v.IN(_G, key)


def _containers(scheme: Scheme) -> Formula:
    """Containers that lose (gh.p, gh.s), unless another function or group in them has it."""
    key = scheme.key
    match scheme.object:
        case Object.DEVICE:
            inside = and_(
                ne(v.R1, v.rid(key)), v.IN(v.RGROUP(v.R1), _C), v.GRANTED(v.R1, _P, _S)
            )
            return and_(v.IN(v.group(key), _C), not_(exists((v.R1,), inside)))
        case Object.GROUP:
            inside = and_(ne(v.G2, key), v.IN(v.G2, _C), v.GGRANT(v.G2, _P, _S))
            return and_(v.IN(key, _C), not_(exists((v.G2,), inside)))
    return Eq(_C, key)


def ghost_is_join(scheme: Scheme) -> list[tuple[str, Formula]]:
    """Closed formulas that say `ggrant` and `cgrant` are the joins of `grant`."""
    in_group = and_(Eq(v.group(v.X1), _G), v.grant(v.X1, _P, _S))
    found = [
        ("ggrant", forall((_G, _P, _S), iff(v.GGRANT(_G, _P, _S), exists((v.X1,), in_group))))
    ]
    if scheme.containers:
        inside = and_(v.IN(v.group(v.X1), _C), v.grant(v.X1, _P, _S))
        join = iff(v.CGRANT(_C, _P, _S), exists((v.X1,), inside))
        found.append(("cgrant", forall((_C, _P, _S), join)))
    return found


def nothing_granted(group: Var) -> Formula:
    """No call made for a function of *group* is live."""
    return forall((_P, _S), not_(v.GGRANT(group, _P, _S)))
