"""The reset window: while a function is reset it is blocked, and its group's bookkeeping stays.

`pci_dev_reset_iommu_prepare` moves the resetting function to the blocking domain, RID and PASIDs;
`pci_dev_reset_iommu_done` puts back what the group has. The driver keeps one tracking record for
each (function, PASID) that it programmed, which is what an unmap's flush walks.
"""

from __future__ import annotations

from typing import Literal

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    System,
    Update,
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
    Rel,
    Term,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import FUNCTION, GROUP, PASID

GROUP_OF = Fn("group", (FUNCTION,), GROUP)
F, P = Var("f", FUNCTION), Var("p", PASID)
_X, _Y, _Q, _G = Var("x", FUNCTION), Var("y", FUNCTION), Var("q", PASID), Var("grp", GROUP)

GROUP_HAS = Rel("group_has", (GROUP, PASID))  # the group's array
ENTRY = Rel("entry", (FUNCTION, PASID))
TRACKED = Rel("tracked", (FUNCTION, PASID))  # a record, with its reference to the domain id
TRACKED_TWICE = Rel("tracked_twice", (FUNCTION, PASID))  # a second record beside it
RESETTING = Rel("resetting", (FUNCTION,))

_SOURCE = "drivers/iommu/iommu.c pci_dev_reset_iommu_prepare, pci_dev_reset_iommu_done"


class ResetOptions(Options):
    """What differs between kernels.

    Attributes:
        done: whom the end of a reset programs: every member of the group, or the function alone.
        attach_waits: attach and detach are refused while a member is reset.
        one_at_a_time: a second member of the group is not reset at the same time.
    """

    done: Literal["group", "function"] = "function"
    attach_waits: StrictBool = True
    one_at_a_time: StrictBool = True


def _mates(left: Term, right: Term) -> Formula:
    return Eq(GROUP_OF(left), GROUP_OF(right))


def _quiet(function: Term) -> Formula:
    return forall((_X,), not_(and_(RESETTING(_X), _mates(_X, function))))


@rule("linux.reset-window", _SOURCE,
      "In the window the function is blocked; attach, detach and a second reset return -EBUSY.")
def _window(options: ResetOptions) -> list[Guard]:
    if not options.attach_waits:
        return []
    return [Guard("no-reset-in-group", _quiet(F), "-EBUSY", _SOURCE)]


def _program(members: Formula) -> list[Update]:
    """Set entries: each makes a record of its own (of _X, _Q)."""
    again = and_(members, TRACKED(_X, _Q))
    return [
        insert_where(ENTRY, (_X, _Q), members),
        insert_where(TRACKED, (_X, _Q), members),
        insert_where(TRACKED_TWICE, (_X, _Q), again),
    ]


def _block(members: Formula) -> list[Update]:
    """Clear entries: each gives one record back (of _X, _Q)."""
    return [
        delete_where(ENTRY, (_X, _Q), members),
        delete_where(TRACKED, (_X, _Q), and_(members, not_(TRACKED_TWICE(_X, _Q)))),
        delete_where(TRACKED_TWICE, (_X, _Q), members),
    ]


def _actions(options: ResetOptions) -> tuple[Action, ...]:
    mine = and_(Eq(_Q, P), _mates(_X, F))
    ready = [Guard("no-other-reset-in-group", _quiet(F), "-EBUSY", _SOURCE)]
    back = GROUP_HAS(GROUP_OF(F), _Q)
    whom = _mates(_X, F) if options.done == "group" else Eq(_X, F)
    return (
        action("attach_pasid", (F, P),
               [*_window(options), Guard("pasid-unused", not_(GROUP_HAS(GROUP_OF(F), P)), "-EBUSY",
                                         "drivers/iommu/iommu.c iommu_attach_device_pasid")],
               [insert(GROUP_HAS, GROUP_OF(F), P), *_program(mine)], Actor.USER,
               "The user attaches {f}, PASID {p}: its group is programmed"),
        action("detach_pasid", (F, P),
               [*_window(options), Guard("attached", GROUP_HAS(GROUP_OF(F), P))],
               [delete(GROUP_HAS, GROUP_OF(F), P), *_block(mine)], Actor.USER,
               "The user detaches {f}, PASID {p}"),
        action("reset.prepare", (F,),
               [Guard("not-in-reset", not_(RESETTING(F)), "-EBUSY", _SOURCE),
                *(ready if options.one_at_a_time else [])],
               [insert(RESETTING, F), *_block(and_(Eq(_X, F), back))],
               Actor.KERNEL, "A reset of {f} begins: it is blocked"),
        action("reset.done", (F,), [Guard("in-reset", RESETTING(F))],
               [delete(RESETTING, F), *_program(and_(whom, back))], Actor.KERNEL,
               "The reset of {f} is done: what the group has is put back"),
    )


def build(options: ResetOptions) -> Scenario:
    """The system under some options."""
    acts = _actions(options)
    system = compose("reset-window", Module(
        "reset", fns=(GROUP_OF,), actions=acts,
        rels=(GROUP_HAS, ENTRY, TRACKED, TRACKED_TWICE, RESETTING)))
    world = Instance(
        {FUNCTION: ("A", "B"), GROUP: ("g",), PASID: ("p1",)},
        {GROUP_OF: {(0,): 0, (1,): 0}}, {})
    claims = [*_claims(), *refusals(system, options)]
    lone = forall((_X, _Y), implies(
        and_(RESETTING(_X), RESETTING(_Y), _mates(_X, _Y)), Eq(_X, _Y)))
    return Scenario(system, {c.id: c for c in claims}, (world,),
                    frames=((F, P, GROUP_OF(F)),), invariants=(lone,), size=3)


def _claims() -> list[Claim]:
    return [
        always("blocked-while-reset", "a function does not translate while it is reset",
               forall((_X, _Q), not_(and_(RESETTING(_X), ENTRY(_X, _Q)))),
               "{x} is being reset and translates PASID {q}"),
        always("tracked-once", "an entry has one tracking record",
               forall((_X, _Q), not_(TRACKED_TWICE(_X, _Q))),
               "{x}, PASID {q}, is tracked twice: its domain id is held twice"),
        always("no-orphan-record", "a record stands for an entry",
               forall((_X, _Q), implies(TRACKED(_X, _Q), ENTRY(_X, _Q))),
               "{x}, PASID {q}, has a record and no entry: a later flush is for nobody"),
        always("uniform-after-reset", "outside the window members have what their group has",
               forall((_X, _Q), implies(
                   and_(GROUP_HAS(GROUP_OF(_X), _Q), not_(RESETTING(_X))), ENTRY(_X, _Q))),
               "{x} is not being reset and lacks PASID {q} of its group"),
        can("can-come-back", "a function is reset and another of its group translates meanwhile",
            exists((_X, _Y, _Q), and_(RESETTING(_X), _mates(_X, _Y), ENTRY(_Y, _Q)))),
    ]


def refusals(system: System, options: ResetOptions) -> list[Claim]:
    """The errno rows, read off the guards of the calls."""
    inside = exists((_X,), and_(RESETTING(_X), _mates(_X, F)))
    found = []
    if options.attach_waits:
        found.append(refused("errno-attach-in-reset", "no attach while a member is reset",
                             system.action("attach_pasid"), inside, "-EBUSY"))
    if options.one_at_a_time:
        found.append(refused("errno-second-reset", "no second reset in a group",
                             system.action("reset.prepare"), inside, "-EBUSY"))
    return found


FAMILY = Family("reset-window", "resetting a function of a group that is in use", ResetOptions,
                build)
