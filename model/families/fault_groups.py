"""Fault groups of iommufd: read by the user, answered by the user, or aborted by teardown.

A fault group that was delivered waits for the user's response. Teardown of the hwpt answers what
waits and frees it. Each group has one owner at a time: whoever takes it off the list answers and
frees it.
"""

from __future__ import annotations

from pydantic import StrictBool

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
from dmaproof.model.logic.terms import Rel, Sort, Var, and_, exists, forall, implies, not_
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can

FAULT = Sort("FaultGroup")
E = Var("e", FAULT)
_E = Var("e1", FAULT)

QUEUED = Rel("queued", (FAULT,))
WAITING = Rel("waiting", (FAULT,))  # delivered, in the table of groups that wait for a response
ANSWERING = Rel("answering", (FAULT,))  # the user's response works on it
ABORTING = Rel("aborting", (FAULT,))  # teardown works on it
FREED = Rel("freed", (FAULT,))
TOUCHED = Rel("touched_after_free", (FAULT,))

_SOURCE = "drivers/iommu/iommufd/eventq.c iommufd_fault_fops_write, iommufd_auto_response_faults"


class FaultOptions(Options):
    """What differs between kernels.

    Attributes:
        one_owner: the response takes the group off the table before it works on it, under the lock
            that teardown takes, too.
    """

    one_owner: StrictBool


@rule("iommufd.fault.one-owner", _SOURCE,
      "Whoever takes a fault group off the table answers it and frees it.")
def _taken(options: FaultOptions) -> list[Update]:
    return [delete(WAITING, E)] if options.one_owner else []


def build(options: FaultOptions) -> Scenario:
    """The system under some options."""
    fresh = and_(*(not_(r(E)) for r in (QUEUED, WAITING, ANSWERING, ABORTING, FREED)))
    acts = (
        action("fault", (E,), [Guard("new", fresh)], [insert(QUEUED, E)], Actor.HARDWARE,
               "A page request arrives as {e}"),
        action("read", (E,), [Guard("queued", QUEUED(E))],
               [delete(QUEUED, E), insert(WAITING, E)], Actor.USER, "The user reads {e}"),
        action("respond.begin", (E,), [
            Guard("waiting", WAITING(E)), Guard("not-answering", not_(ANSWERING(E)))],
            [insert(ANSWERING, E), *_taken(options)], Actor.USER, "The user responds to {e}"),
        action("respond.end", (E,), [Guard("answering", ANSWERING(E)),
                                     Guard("lives", not_(FREED(E)))],
               [delete(ANSWERING, E), delete(WAITING, E), insert(FREED, E)], Actor.KERNEL,
               "The response to {e} is sent and {e} is freed"),
        action("respond.end.freed", (E,), [Guard("answering", ANSWERING(E)),
                                           Guard("freed", FREED(E))],
               [delete(ANSWERING, E), delete(WAITING, E), insert(TOUCHED, E)], Actor.KERNEL,
               "The response works on {e}, which is freed"),
        action("abort.begin", (E,), [
            Guard("waiting", WAITING(E)), Guard("not-aborting", not_(ABORTING(E)))],
            [insert(ABORTING, E), *_taken(options)], Actor.KERNEL,
            "Teardown of the hwpt answers {e}"),
        action("abort.end", (E,), [Guard("aborting", ABORTING(E)), Guard("lives", not_(FREED(E)))],
               [delete(ABORTING, E), delete(WAITING, E), insert(FREED, E)], Actor.KERNEL,
               "Teardown frees {e}"),
        action("abort.end.freed", (E,), [Guard("aborting", ABORTING(E)), Guard("freed", FREED(E))],
               [delete(ABORTING, E), delete(WAITING, E), insert(TOUCHED, E)], Actor.KERNEL,
               "Teardown works on {e}, which is freed"),
    )
    module = Module("fault-groups", actions=acts,
                    rels=(QUEUED, WAITING, ANSWERING, ABORTING, FREED, TOUCHED))
    claims = [
        always("one-owner", "a fault group has one owner",
               forall((_E,), not_(and_(ANSWERING(_E), ABORTING(_E)))),
               "{e1} is answered and aborted at the same time"),
        always("no-use-after-free", "nobody works on a freed fault group",
               forall((_E,), not_(TOUCHED(_E))), "{e1} was worked on after it was freed"),
        always("no-stale-owner", "an owned group is not freed",
               forall((_E,), implies(FREED(_E), and_(not_(ANSWERING(_E)), not_(ABORTING(_E))))),
               "{e1} is freed while somebody works on it"),
        can("can-answer", "a group is answered and freed", exists((_E,), FREED(_E))),
    ]
    freed = "nobody works on a freed group"
    idle = {"respond.end.freed": freed, "abort.end.freed": freed} if options.one_owner else {}
    return Scenario(compose("fault-groups", module), {c.id: c for c in claims},
                    (Instance({FAULT: ("e1",)}, {}, {}),), frames=((E,),), size=3, idle=idle)


FAMILY = Family("fault-groups", "who owns a fault group (iommufd)", FaultOptions, build)
