"""Guest tables bound on a container: the nesting proposals of 2018 to 2021.

The stage-2 map may be shared by all devices of a container; a stage-1 table that a guest binds for
one of its devices goes to all of them, which contradicts what the guest sees, unless the container
holds one device.
"""

from __future__ import annotations

from typing import Literal

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    action,
    compose,
    delete,
    delete_where,
    insert,
    insert_where,
)
from dmaproof.model.logic.terms import (
    Eq,
    Fn,
    Formula,
    Kind,
    Rel,
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
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can
from dmaproof.model.vfio.vocabulary import CONTAINER, FUNCTION, GROUP, PASID, SPACE

GROUP_OF = Fn("group", (FUNCTION,), GROUP)
F, G, C, P, S = (
    Var("f", FUNCTION), Var("g", GROUP), Var("c", CONTAINER), Var("p", PASID), Var("s", SPACE)
)
_X, _Y, _G, _C, _D, _Q, _T, _W = (
    Var("x", FUNCTION), Var("y", FUNCTION), Var("grp", GROUP), Var("ctn", CONTAINER),
    Var("other", CONTAINER), Var("q", PASID), Var("t", SPACE), Var("w", SPACE),
)

IN = Rel("in_container", (GROUP, CONTAINER))
CONTENT = Rel("bound_in", (CONTAINER, PASID, SPACE))  # the container's binds
ENTRY = Rel("entry", (FUNCTION, PASID, SPACE))  # stage-1 tables in the functions' PASID entries
GRANT = Rel("grant", (FUNCTION, PASID, SPACE), Kind.GHOST)  # the guest bound it for that device
GGRANT = Rel("ggrant", (GROUP, PASID, SPACE), Kind.GHOST)
CGRANT = Rel("cgrant", (CONTAINER, PASID, SPACE), Kind.GHOST)


class NestingOptions(Options):
    """What differs between proposals.

    Attributes:
        object: a bind programs every function of the ``container``, or the ``device`` it names.
        one_group: a nesting container holds one group (vSVA v2, June 2020).
        lone_groups: groups hold one function (a fact of the machine).
        replay: a group that joins gets the binds of its container.
    """

    object: Literal["container", "device"] = "container"
    one_group: StrictBool = False
    lone_groups: StrictBool = True
    replay: StrictBool = True


def _inside(function: Term, container: Term) -> Formula:
    return IN(GROUP_OF(function), container)


@rule("vfio.nesting.one-group", "VFIO vSVA v4 04/15, July 2020: nesting container",
      "A nesting container takes one group.")
def _empty(container: Term) -> Guard:
    return Guard("nesting-container-empty", forall((_G,), not_(IN(_G, container))), "-EINVAL",
                 "VFIO vSVA v4 04/15, July 2020")


def build(options: NestingOptions) -> Scenario:
    """The system under some options."""
    joining = [Guard("in-no-container", forall((_C,), not_(IN(G, _C))), "-EINVAL",
                     "drivers/vfio/group.c vfio_group_ioctl_set_container")]
    if options.one_group:
        joining.append(_empty(C))
    every = options.object == "container"
    whom = _inside(_X, C) if every else Eq(_X, F)
    replayed = and_(Eq(GROUP_OF(_X), G), CONTENT(C, _Q, _T))
    taken = CONTENT(C, P, _T) if every else ENTRY(F, P, _T)
    acts = [
        action("join", (G, C), joining,
               [insert(IN, G, C),
                *([insert_where(ENTRY, (_X, _Q, _T), replayed)]
                  if options.replay and every else [])],
               Actor.USER, "{g} joins {c}"),
        action("bind", (F, C, P, S),
               [Guard("in-the-container", _inside(F, C), "-EINVAL"),
                Guard("pasid-unused", forall((_T,), not_(taken)), "-EBUSY")],
               [*([insert(CONTENT, C, P, S)] if every else []),
                insert_where(ENTRY, (_X, _Q, _T), and_(whom, Eq(_Q, P), Eq(_T, S))),
                insert(GRANT, F, P, S), insert(GGRANT, GROUP_OF(F), P, S),
                insert(CGRANT, C, P, S)],
               Actor.USER, "The guest binds {s} for {f}, PASID {p}, by a call on {c}"),
    ]
    if every:
        acts.append(action(
            "unbind", (C, P, S), [Guard("bound", CONTENT(C, P, S), "-ESRCH")],
            [delete(CONTENT, C, P, S), delete(CGRANT, C, P, S),
             *(delete_where(r, (x, _Q, _T), and_(inside, Eq(_Q, P), Eq(_T, S)))
               for r, x, inside in (
                   (ENTRY, _X, _inside(_X, C)), (GRANT, _X, _inside(_X, C)),
                   (GGRANT, _G, IN(_G, C))))],
            Actor.USER, "The guest unbinds PASID {p} of {c}"))
    axioms = {"lone-groups": forall((_X, _Y), implies(
        Eq(GROUP_OF(_X), GROUP_OF(_Y)), Eq(_X, _Y)))} if options.lone_groups else {}
    module = Module("nesting", fns=(GROUP_OF,), axioms=axioms, actions=tuple(acts),
                    rels=(IN, CONTENT, ENTRY, GRANT, GGRANT, CGRANT))
    worlds = [(0, 1)] if options.lone_groups else [(0, 0), (0, 1)]
    instances = tuple(
        Instance({FUNCTION: ("A", "B"), GROUP: ("g1", "g2")[: max(w) + 1],
                  CONTAINER: ("C1", "C2"), PASID: ("p1",), SPACE: ("t1", "t2")},
                 {GROUP_OF: {(i,): g for i, g in enumerate(w)}}, {}) for w in worlds)
    held = forall((_X, _Q, _T), implies(
        ENTRY(_X, _Q, _T), exists((_C,), and_(_inside(_X, _C), CONTENT(_C, _Q, _T)))))
    filled = forall((_C, _Q, _T), implies(CONTENT(_C, _Q, _T), exists((_G,), IN(_G, _C))))
    return Scenario(compose("nesting", module), {c.id: c for c in _claims(options)}, instances,
                    frames=((F, GROUP_OF(F), C, P, S), (G, C, _D), (G, Var("h", GROUP), C),
                            (C, P, S, _W)),
                    invariants=(held, filled), size=3)


def _claims(options: NestingOptions) -> list[Claim]:
    entry = ENTRY(_X, _Q, _T)
    both = and_(_inside(_X, _C), _inside(_Y, _C))
    return [
        always("device-isolation", "what a device translates through was bound for it: what the "
               "guest sees", forall((_X, _Q, _T), implies(entry, GRANT(_X, _Q, _T))),
               "{x}, PASID {q}, translates through {t}, which the guest bound for another device"),
        always("group-isolation", "... was bound for a member of its group",
               forall((_X, _Q, _T), implies(entry, GGRANT(GROUP_OF(_X), _Q, _T))),
               "{x}, PASID {q}, translates through {t}, which was bound for another group"),
        always("container-isolation", "... was bound for a member of its container",
               forall((_X, _C, _Q, _T), implies(
                   and_(entry, _inside(_X, _C)), CGRANT(_C, _Q, _T))),
               "{x}, PASID {q}, translates through {t}, which was bound in another container"),
        always("uniform", "all devices of a container translate through the same tables",
               forall((_X, _Y, _C, _Q, _T), implies(and_(both, entry), ENTRY(_Y, _Q, _T))),
               "{x} has {t} at PASID {q} and {y}, in the same container, has not"),
        can("can-own-tables", "two devices of a container have different tables at one PASID",
            exists((_X, _Y, _C, _Q, _T, _W), and_(
                ne(_X, _Y), both, entry, ENTRY(_Y, _Q, _W), ne(_T, _W)))),
        can("can-share-stage-2", "two devices are in one container",
            exists((_X, _Y, _C), and_(ne(_X, _Y), both))),
        can("can-bind", "a guest's table is bound", exists((_X, _Q, _T), entry)),
    ]


FAMILY = Family("nesting", "guest tables bound on a container (2018 to 2021)", NestingOptions,
                build)
