"""Who may use which PASID: tables per device or per IOMMU, PASIDs chosen by guests or by the host.

With one PASID table per IOMMU (Intel's native SVM of 2018) whoever emits a PASID reaches what is
bound there, whoever bound it. An ownership check at bind stops calls, not requests; only a table
per device, or devices that emit nothing but the PASIDs they were given, stop those.
"""

from __future__ import annotations

from typing import Literal

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    Update,
    action,
    compose,
    delete,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
    Fn,
    Formula,
    Kind,
    Rel,
    Sort,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    ne,
    not_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE

USER = Sort("User")  # a guest, or another user of VFIO

USER_OF = Fn("user", (FUNCTION,), USER)
F, U, P, S = Var("f", FUNCTION), Var("u", USER), Var("p", PASID), Var("s", SPACE)
_X, _U, _Q, _T, _W = (
    Var("x", FUNCTION), Var("u1", USER), Var("q", PASID), Var("t", SPACE), Var("w", SPACE)
)

ALLOCATED = Rel("allocated", (PASID, USER))
OWN = Rel("pasid_entry", (FUNCTION, PASID, SPACE))
SHARED = Rel("iommu_pasid_entry", (PASID, SPACE))
GIVEN = Rel("given", (FUNCTION, PASID))  # the device was told to use the PASID
GRANT = Rel("grant", (FUNCTION, PASID, SPACE), Kind.GHOST)
UGRANT = Rel("user_grant", (USER, PASID, SPACE), Kind.GHOST)


class SpaceOptions(Options):
    """What differs between designs.

    Attributes:
        table: one PASID table per ``device`` or per ``iommu``.
        allocation: a bind takes any PASID (``guest``), or one that the host gave to its user
            (``host``), which is also what unbind asks.
        emits: devices emit ``any`` PASID, or only those they were ``given``.
    """

    table: Literal["device", "iommu"]
    allocation: Literal["guest", "host"]
    emits: Literal["any", "given"] = "any"


@rule("linux.pasid-space.ownership", "VFIO vSVA, January 2020; drivers/iommu/ioasid.c",
      "Binding and unbinding a PASID asks whether the host gave it to the caller: -EPERM.")
def _owned(options: SpaceOptions) -> list[Guard]:
    if options.allocation == "guest":
        return []
    return [Guard("pasid-is-the-callers", ALLOCATED(P, USER_OF(F)), "-EPERM",
                  "VFIO vSVA, January 2020")]


def build(options: SpaceOptions) -> Scenario:
    """The system under some options."""
    shared = options.table == "iommu"
    table = SHARED if shared else OWN
    key: tuple[Term, ...] = (P,) if shared else (F, P)
    free = forall((_T,), not_(table(*key, _T)))
    others = and_(GIVEN(_X, P), Eq(USER_OF(_X), USER_OF(F)))
    only = forall((_X,), implies(others, Eq(_X, F)))
    alike = and_(GRANT(_X, P, S), Eq(USER_OF(_X), USER_OF(F)))
    lone = forall((_X,), implies(alike, Eq(_X, F)))
    gone: list[Update] = [delete(GRANT, F, P, S), delete(GIVEN, F, P),
                          delete(UGRANT, USER_OF(F), P, S, when=lone)]
    mine = Guard("bound", table(*key, S))
    acts = [
        action("bind", (F, P, S), [*_owned(options), Guard("pasid-unused", free, "-EBUSY")],
               [insert(table, *key, S), insert(GIVEN, F, P), insert(GRANT, F, P, S),
                insert(UGRANT, USER_OF(F), P, S)],
               Actor.USER, "{f} is given PASID {p}, bound to {s}"),
        action("unbind", (F, P, S), [*_owned(options), mine],
               # A shared entry stays while the caller's user has it for another device; whether
               # another user has it, only the ownership check asks.
               [delete(table, *key, S, when=only if shared else None), *gone],
               Actor.USER, "A user unbinds {f}, PASID {p}"),
    ]
    if shared:  # the same space for another device of the user: one entry serves both
        acts.append(action(
            "share", (F, P, S), [*_owned(options), Guard("bound", SHARED(P, S))],
            [insert(GIVEN, F, P), insert(GRANT, F, P, S), insert(UGRANT, USER_OF(F), P, S)],
            Actor.USER, "{f} is given PASID {p}, which is bound to {s}"))
    if options.allocation == "host":
        acts.append(action(
            "allocate", (P, U), [Guard("unallocated", forall((_U,), not_(ALLOCATED(P, _U))),
                                       "-ENOSPC")],
            [insert(ALLOCATED, P, U)], Actor.USER, "The host gives PASID {p} to {u}"))
    module = Module("pasid-space", fns=(USER_OF,), actions=tuple(acts),
                    rels=(ALLOCATED, OWN, SHARED, GIVEN, GRANT, UGRANT))
    worlds = tuple(
        Instance({FUNCTION: ("A", "B", "D")[: len(users)], USER: ("guest1", "guest2"),
                  PASID: ("p1",), SPACE: ("s1", "s2")},
                 {USER_OF: {(i,): u for i, u in enumerate(users)}}, {})
        for users in ((0, 1), (0, 1, 0)))
    system = compose("pasid-space", module)
    claims = _claims(options)
    if options.allocation == "host":
        foreign = and_(not_(ALLOCATED(P, USER_OF(F))))
        claims.append(refused("errno-foreign-pasid", "binding a PASID of another user is refused",
                              system.action("bind"), foreign, "-EPERM"))
    given = forall((_X, _Q), implies(
        GIVEN(_X, _Q), exists((_T,), and_(GRANT(_X, _Q, _T), SHARED(_Q, _T)))))
    held = forall((_X, _Q, _T), implies(GRANT(_X, _Q, _T), SHARED(_Q, _T)))
    return Scenario(system, {c.id: c for c in claims}, worlds,
                    frames=((F, P, S, USER_OF(F)), (P, U, S, _W), (P, U, Var("u2", USER))),
                    invariants=(given, held), size=3)


def _reach(options: SpaceOptions, function: Term, pasid: Term, space: Term) -> Formula:
    hit = OWN(function, pasid, space) if options.table == "device" else SHARED(pasid, space)
    return and_(hit, GIVEN(function, pasid)) if options.emits == "given" else hit


def _claims(options: SpaceOptions) -> list[Claim]:
    reach = _reach(options, _X, _Q, _T)
    hit = OWN(_X, _Q, _T) if options.table == "device" else SHARED(_Q, _T)
    kept = forall((_X, _Q, _T), implies(GRANT(_X, _Q, _T), hit))
    return [
        always("device-isolation", "what a function reaches was bound for that function",
               forall((_X, _Q, _T), implies(reach, GRANT(_X, _Q, _T))),
               "{x}, emitting PASID {q}, reaches {t}, which was never bound for it"),
        always("user-isolation", "what a function reaches was bound by its user",
               forall((_X, _Q, _T), implies(reach, UGRANT(USER_OF(_X), _Q, _T))),
               "{x}, emitting PASID {q}, reaches {t} of another user"),
        always("nobody-else-unbinds", "a bind stays until its own user takes it back", kept,
               "PASID {q} of {x} led to {t}, and another user's call took it away"),
        can("can-bind", "a function is bound", exists((_X, _Q, _T), and_(
            reach, GRANT(_X, _Q, _T)))),
        can("can-two-users", "two users use one PASID number each for themselves",
            exists((F, _X, _Q, _T), and_(GRANT(F, _Q, _T), exists((_W,), and_(
                GRANT(_X, _Q, _W), ne(_T, _W), ne(USER_OF(F), USER_OF(_X))))))),
    ]


FAMILY = Family("pasid-space", "who may use which PASID: tables and allocators", SpaceOptions,
                build)
