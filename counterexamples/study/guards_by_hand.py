"""Invariants written by hand, by which designs hold without a guard where inference finds none.

Each is offered to the proof about mutants that lack one guard; z3 verifies it like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dmaproof.engine.candidates import Clause
from dmaproof.model.design import Object
from dmaproof.model.families import context_entry as ce
from dmaproof.model.families import pasid_attach as pa
from dmaproof.model.logic.terms import Eq, Formula, Rel, Term, Var, and_, exists, implies, not_, or_
from dmaproof.model.scenario import Scenario
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.build import Model


def by_hand(design: str, action: str, guard: str, scenario: Scenario) -> tuple[Formula, ...]:
    """The clauses for the mutant of a design without a guard, over free variables; mostly none."""
    found = BY_HAND.get((design, action, guard))
    return found(scenario) if found is not None else ()


# -- attaching by PASID ---------------------------------------------------------------------

_F, _E, _G = Var("f", v.FUNCTION), Var("e", v.FUNCTION), Var("grp", v.GROUP)
_P, _Q = Var("p", v.PASID), Var("q", v.PASID)
_H, _W = Var("h", pa.HWPT), Var("w", pa.HWPT)
_HERE = pa.GROUP_OF(_F)


def _one_attach() -> tuple[Formula, ...]:
    """A group's lock is that of one attach, of one device."""
    both = and_(pa.ATTACHING(_F, _P, _H), pa.ATTACHING(_E, _P, _H), Eq(_HERE, pa.GROUP_OF(_E)))
    return (
        implies(pa.ATTACHING(_F, _P, _H), pa.LOCKED(_HERE, _P, _H)),
        implies(and_(pa.LOCKED(_G, _P, _H), pa.LOCKED(_G, _Q, _W)), and_(Eq(_P, _Q), Eq(_H, _W))),
        implies(both, Eq(_F, _E)),
    )


def _detach_without_lock(_: Scenario) -> tuple[Formula, ...]:
    """A detach in the midst of an attach is another device's: an attaching one is not attached."""
    attaching = pa.ATTACHING(_F, _P, _H)
    return (
        implies(pa.ENTRY(_F, _P, _H), pa.GRANT(_F, _P, _H)),
        implies(attaching, pa.GRANT(_F, _P, _H)),
        implies(attaching, not_(pa.ATTACHED(_F, _P))),
        *_one_attach(),
    )


def _programs_again(_: Scenario) -> tuple[Formula, ...]:
    """An attach that programs a group anew programs what the group has."""
    has, locked = pa.CORE(_HERE, _P, _H), pa.LOCKED(_HERE, _P, _H)
    attached, reserved = pa.ATTACHED(_F, _P), pa.RESERVED(_H, _F)
    return (
        implies(and_(pa.ENTRY(_F, _P, _H), attached), not_(reserved)),
        implies(pa.ENTRY(_F, _P, _H), or_(has, locked)),
        implies(and_(has, attached), not_(reserved)),
        implies(and_(pa.CORE(_G, _P, _H), pa.CORE(_G, _P, _W)), Eq(_H, _W)),
        implies(and_(pa.LOCKED(_G, _P, _H), pa.CORE(_G, _P, _W)), Eq(_H, _W)),
        not_(pa.LOCKED(_G, v.NO_PASID, _H)),
        implies(pa.ATTACHING(_F, _P, _H), not_(reserved)),
        implies(attached, exists((_H,), has)),
        implies(and_(locked, attached), has),
        *_one_attach(),
    )


# -- context entries ------------------------------------------------------------------------

_T, _U, _N, _M = (Var(x, ce.TABLE) for x in ("t", "u", "new", "new2"))
_R = v.R


def _clear_without_lock(pasid: Term) -> Callable[[Scenario], tuple[Formula, ...]]:
    """A clearing in the midst of an exchange: of the old table until the entry is written.

    It flushes for itself, and no call begins that could write its table again.

    Args:
        pasid: of which requests the claim speaks.
    """
    def clauses(scenario: Scenario) -> tuple[Formula, ...]:
        exchange, clear = scenario.stages
        return (*_calls(exchange, clear), *_caches(exchange, clear, pasid))
    return clauses


def _any(stages: tuple[Rel, ...], *args: Term) -> Formula:
    return or_(*(s(*args) for s in stages))


def _calls(exchange: tuple[Rel, ...], clear: tuple[Rel, ...]) -> list[Formula]:
    """Which calls run beside each other, and where the entry leads meanwhile."""
    begun, written = exchange[0](_R, _T, _N), _any(exchange[1:], _R, _T, _N)
    running = or_(begun, written)
    leads = ce.CONTEXT(_R, _U)
    return [
        implies(and_(leads, ce.CONTEXT(_R, _T)), Eq(_U, _T)),
        implies(leads, ce.GRANT(_R, _U)),
        implies(running, ce.BUSY(_R, _T, _N)),
        implies(_any(clear, _R, _T), ce.BUSY(_R, _T, _T)),
        not_(_any(exchange, _R, _T, _T)),
        implies(and_(running, _any(exchange, _R, _U, _M)), and_(Eq(_T, _U), Eq(_N, _M))),
        implies(and_(begun, leads), Eq(_U, _T)),
        implies(and_(written, leads), Eq(_U, _N)),
        implies(and_(begun, _any(clear, _R, _U)), Eq(_U, _T)),
        implies(begun, ce.GRANT(_R, _N)),
        implies(_any(clear[1:], _R, _T), not_(ce.CONTEXT(_R, _T))),
        *_one_step(exchange, _R, _T, _N), *_one_step(clear, _R, _T),
    ]


def _one_step(stages: tuple[Rel, ...], *args: Term) -> list[Formula]:
    """A call is before one step."""
    return [not_(and_(s(*args), _any(stages[i + 1:], *args))) for i, s in enumerate(stages[:-1])]


def _caches(exchange: tuple[Rel, ...], clear: tuple[Rel, ...], pasid: Term) -> list[Formula]:
    """What is cached is granted, and what a call has flushed is not filled again."""
    found = []
    for number, cache in enumerate((ce.CONTEXT_CACHE, ce.PASID_CACHE, ce.IOTLB, ce.DEVICE_TLB)):
        held = cache(_R, _T) if cache == ce.CONTEXT_CACHE else cache(_R, pasid, _T)
        flushed = or_(_any(exchange[number + 2:], _R, _T, _N), _any(clear[number + 2:], _R, _T))
        found += [implies(held, ce.GRANT(_R, _T)), implies(flushed, not_(held))]
    return found


# -- bind designs ---------------------------------------------------------------------------


def of_bind(action: str, guard: str, model: Model) -> tuple[Clause, ...]:
    """The clauses for the mutant of a bind design without a guard; mostly none."""
    content, binder = model.scheme.content, model.binder
    if (action, guard) != ("unset-container", "work-ended") or content is None or binder is None:
        return ()
    if model.scheme.object is not Object.DEVICE:
        return ()
    # A function's table has entries only while a call for it is live, and none is at the end.
    requester, space = Var("r", v.RID), Var("s", v.SPACE)
    of_live = exists((v.F,), and_(Eq(requester, v.rid(v.F)), binder.live(v.F)))
    return (Clause((not_(content(requester, _P, space)), of_live)),)


_Key = tuple[str, str, str]
BY_HAND: Final[Mapping[_Key, Callable[[Scenario], tuple[Formula, ...]]]] = {
    ("iommufd-device", "detach_pasid", "group-not-locked"): _detach_without_lock,
    ("iommufd-reserved", "attach_pasid.enter", "first-of-the-group"): _programs_again,
    ("f01-bind-pasid-table-flushed", "clear.enter", "not-locked"): _clear_without_lock(v.P),
    ("r09-untagged-flush", "clear.enter", "not-locked"): _clear_without_lock(v.NO_PASID),
    ("r09-whole-function", "clear.enter", "not-locked"): _clear_without_lock(v.P),
}
"""By design, action and guard."""
