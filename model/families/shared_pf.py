"""What virtual functions share with their physical function: PASID, ATS and reset (L10).

A VF has no PASID or PRI control of its own: it uses the PF's, and a reset of the PF resets it. Who
owns the PF can take them away. What a VF reaches is decided by entries of the VF's own requester
id, which the PF's owner cannot write.
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
    delete,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
    Fn,
    Kind,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE

PF_OF = Fn("pf", (FUNCTION,), FUNCTION)
F, P, S = Var("f", FUNCTION), Var("p", PASID), Var("s", SPACE)
_X, _Q, _T = Var("x", FUNCTION), Var("q", PASID), Var("t", SPACE)

VIRTUAL = Rel("virtual", (FUNCTION,), Kind.STATIC)
ENABLED = Rel("pasid_enabled", (FUNCTION,))  # in the physical function
ENTRY = Rel("entry", (FUNCTION, PASID, SPACE))
LANDED = Rel("landed", (FUNCTION, SPACE))
GRANT = Rel("grant", (FUNCTION, PASID, SPACE), Kind.GHOST)
BOUND = Rel("ever_bound", (FUNCTION, SPACE), Kind.GHOST)


class SharedPfOptions(Options):
    """What differs.

    Attributes:
        pf_owner_trusted: the owner of the PF leaves PASID enabled while a VF uses it.
    """

    pf_owner_trusted: StrictBool = False


@rule("linux.pasid.virtual-function", "drivers/pci/ats.c pci_enable_pasid",
      "A VF's PASID is enabled if and only if the PF's is: otherwise -EINVAL.")
def _usable() -> Guard:
    return Guard("pasid-enabled-in-pf", ENABLED(PF_OF(F)), "-EINVAL",
                 "drivers/pci/ats.c pci_enable_pasid")


def build(options: SharedPfOptions) -> Scenario:
    """The system under some options."""
    used = exists((_X, _Q, _T), and_(Eq(PF_OF(_X), F), ENTRY(_X, _Q, _T)))
    stays = [Guard("no-vf-uses-it", not_(used))] if options.pf_owner_trusted else []
    acts = (
        action("pf.enable", (F,), [Guard("physical", not_(VIRTUAL(F)))], [insert(ENABLED, F)],
               Actor.USER, "The owner of {f} enables PASID"),
        action("pf.disable", (F,), [Guard("physical", not_(VIRTUAL(F))),
                                    Guard("enabled", ENABLED(F)), *stays],
               [delete(ENABLED, F)], Actor.USER, "The owner of {f} disables PASID or resets it"),
        action("bind", (F, P, S), [Guard("virtual", VIRTUAL(F)), _usable()],
               [insert(ENTRY, F, P, S), insert(GRANT, F, P, S), insert(BOUND, F, S)], Actor.USER,
               "The user of {f} binds {s} at PASID {p}"),
        action("unbind", (F, P, S), [Guard("bound", ENTRY(F, P, S))],
               [delete(ENTRY, F, P, S), delete(GRANT, F, P, S)], Actor.USER,
               "The user of {f} unbinds PASID {p}"),
        action("request", (F, P, S), [Guard("entry", ENTRY(F, P, S)), _usable()],
               [insert(LANDED, F, S)], Actor.HARDWARE,
               "{f} sends a request with PASID {p}, which lands in {s}"),
    )
    module = Module("shared-pf", fns=(PF_OF,), actions=acts,
                    rels=(VIRTUAL, ENABLED, ENTRY, LANDED, GRANT, BOUND))
    system = compose("shared-pf", module)
    claims = [
        always("integrity", "what a VF reaches was bound for it, whatever the PF's owner does",
               forall((_X, _T), implies(LANDED(_X, _T), BOUND(_X, _T))),
               "a request of {x} landed in {t}, which was never bound for it"),
        always("availability", "what was bound for a VF can be used until its user unbinds",
               forall((_X, _Q, _T), implies(GRANT(_X, _Q, _T), ENABLED(PF_OF(_X)))),
               "{x} is bound to {t} at PASID {q} and cannot use it: its PF has PASID disabled"),
        can("can-reach", "a VF's request lands", exists((_X, _T), LANDED(_X, _T))),
        refused("errno-pf-disabled", "a VF cannot use PASIDs while its PF has them disabled",
                system.action("bind"), and_(VIRTUAL(F), not_(ENABLED(PF_OF(F)))), "-EINVAL"),
    ]
    world = Instance({FUNCTION: ("PF", "VF"), PASID: ("p1",), SPACE: ("s1",)},
                     {PF_OF: {(0,): 0, (1,): 0}}, {VIRTUAL: frozenset({(1,)})})
    return Scenario(system, {c.id: c for c in claims}, (world,),
                    frames=((F, PF_OF(F), P, S),), size=2)


FAMILY = Family("shared-pf", "what virtual functions share with their physical function",
                SharedPfOptions, build)
