"""Several groups in a container beside one group of all their devices, step by step.

Claim C19: a container of several groups behaves like one group of several devices. Both worlds see
the same calls in lock-step; the claim is that their tables agree. It is about what the IOMMU lets
through: what the fabric lets through depends on the machine and on neither.
"""

from __future__ import annotations

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    action,
    compose,
    delete_where,
    insert,
    insert_where,
)
from dmaproof.model.logic.terms import Eq, Fn, Rel, Var, and_, exists, forall, iff, ne, not_
from dmaproof.model.scenario import Family, Options, Scenario, always, can
from dmaproof.model.vfio.vocabulary import FUNCTION, GROUP, PASID, SPACE

GROUP_OF = Fn("group", (FUNCTION,), GROUP)
F, G, P, S = Var("f", FUNCTION), Var("g", GROUP), Var("p", PASID), Var("s", SPACE)
_X, _Y, _Q, _T, _G = (
    Var("x", FUNCTION), Var("y", FUNCTION), Var("q", PASID), Var("t", SPACE), Var("grp", GROUP)
)

IN = Rel("in_container", (GROUP,))  # the container at hand
MEMBER = Rel("in_the_group", (FUNCTION,))  # of the one large group
BOUND = Rel("bound", (PASID, SPACE))  # live calls, the same in both worlds
LEFT = Rel("entry_of_container", (FUNCTION, PASID, SPACE))
RIGHT = Rel("entry_of_group", (FUNCTION, PASID, SPACE))


class LockstepOptions(Options):
    """What differs.

    Attributes:
        late_join: groups join, and members are plugged in, while binds are live.
        container_replays: a group that joins gets the live binds (VFIO, May 2018).
        group_replays: a member that is plugged in gets them (Linux 7.0 does not).
    """

    late_join: StrictBool
    container_replays: StrictBool = True
    group_replays: StrictBool = True


def build(options: LockstepOptions) -> Scenario:
    """The system under some options."""
    come = Eq(GROUP_OF(_X), G)
    live = and_(come, BOUND(_Q, _T))
    joining = [Guard("outside", not_(IN(G)))]
    if not options.late_join:
        joining.append(Guard("no-live-bind", forall((_Q, _T), not_(BOUND(_Q, _T)))))
    acts = (
        action("join", (G,), joining,
               [insert(IN, G), insert_where(MEMBER, (_X,), come),
                *([insert_where(LEFT, (_X, _Q, _T), live)] if options.container_replays else []),
                *([insert_where(RIGHT, (_X, _Q, _T), live)] if options.group_replays else [])],
               Actor.USER, "{g} joins the container; its devices join the large group"),
        action("bind", (F, P, S),
               [Guard("inside", IN(GROUP_OF(F))),
                Guard("pasid-unused", forall((_T,), not_(BOUND(P, _T))), "-EBUSY")],
               [insert(BOUND, P, S),
                insert_where(LEFT, (_X, _Q, _T),
                             and_(IN(GROUP_OF(_X)), Eq(_Q, P), Eq(_T, S))),
                insert_where(RIGHT, (_X, _Q, _T), and_(MEMBER(_X), Eq(_Q, P), Eq(_T, S)))],
               Actor.USER, "A call for {f} binds {s} at PASID {p}"),
        action("unbind", (P, S), [Guard("bound", BOUND(P, S))],
               [delete_where(r, (_X, _Q, _T), and_(Eq(_Q, P), Eq(_T, S)))
                for r in (LEFT, RIGHT)]
               + [delete_where(BOUND, (_Q, _T), and_(Eq(_Q, P), Eq(_T, S)))],
               Actor.USER, "The call at PASID {p} is taken back"),
    )
    module = Module("lock-step", fns=(GROUP_OF,), actions=acts,
                    rels=(IN, MEMBER, BOUND, LEFT, RIGHT))
    world = Instance(
        {FUNCTION: ("A", "B"), GROUP: ("g1", "g2"), PASID: ("p1",), SPACE: ("s1", "s2")},
        {GROUP_OF: {(0,): 0, (1,): 1}}, {})
    claims = [
        always("same-tables", "the tables of the container's groups and of the large group agree",
               forall((_X, _Q, _T), iff(LEFT(_X, _Q, _T), RIGHT(_X, _Q, _T))),
               "{x}, PASID {q}: {t} is reached in one world and not in the other"),
        can("can-reach-across", "a device reaches what was bound by a call for another group",
            exists((_X, _Y, _Q, _T), and_(ne(GROUP_OF(_X), GROUP_OF(_Y)), LEFT(_X, _Q, _T),
                                          RIGHT(_Y, _Q, _T)))),
    ]
    return Scenario(compose("container-as-group", module), {c.id: c for c in claims}, (world,),
                    frames=((F, GROUP_OF(F), P, S),), size=3)


FAMILY = Family("container-as-group", "a container of groups beside one large group (C19)",
                LockstepOptions, build)
