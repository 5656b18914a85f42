"""References on domain ids: who may drop one, and what a DID that is free too early leads to.

A domain has one DID on a unit while it is attached there; each attachment holds a reference (here a
token of its own, so that a put by someone else is seen as what it is), and the last put frees the
DID for another domain. The unit finds second-stage paging structures by DID alone (VT-d 6.2.5).
One unit: DIDs are per unit, and so is all that is said here.
"""

from __future__ import annotations

from typing import Literal

from dmaproof.model.families import vocabulary as w
from dmaproof.model.families.hardware import evict, fill
from dmaproof.model.families.programs import Program, Work, program
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    action,
    compose,
    delete,
    delete_where,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
    Kind,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can

A, M, D = Var("a", w.SLOT), Var("m", w.DOMAIN), w.D
B, N, OLD = Var("b", w.SLOT), Var("n", w.DOMAIN), Var("old", w.DOMAIN)
D1 = w.D1
KEY, OTHER = (A, M, D), (B, N, D1)
_SORTS = (w.SLOT, w.DOMAIN, w.DID)

BLOCKED = Rel("blocked", (w.DOMAIN,), Kind.STATIC)  # the static blocking domain: no paging domain
ENTRY = Rel("entry", _SORTS)
REFERENCE = Rel("reference", _SORTS)
BUSY = Rel("busy", _SORTS)
STRUCTURE = Rel("paging_structure_cache", _SORTS)
AT_BLOCKED = Rel("moved_to", (w.SLOT, w.DOMAIN))  # a reset has moved the slot there
TOUCHED = Rel("tracking_read", (w.DOMAIN,))  # the driver has read its lists as a paging domain's


class ReferenceOptions(Options):
    """The details that mattered.

    Attributes:
        unknown: a detach of a slot that is not on the domain's list: it puts a reference all the
            same, or warns and leaves.
        old: whether the driver looks at what kind of domain the old one is.
    """

    unknown: Literal["puts", "warns"]
    old: Literal["any-kind", "paging-only"]


@rule("driver.did.references", "drivers/iommu/intel/iommu.c domain_detach_iommu",
      "Each attachment holds one reference on its domain's DID; the last put frees it")
def _attach(name: str) -> Action:
    own = and_(forall((B, N), or_(not_(REFERENCE(B, N, D)), Eq(N, M))),
               forall((B, D1), or_(not_(REFERENCE(B, M, D1)), Eq(D1, D))))
    return action(
        name, KEY,
        [Guard("paging-domain", not_(BLOCKED(M)), "-EINVAL"),
         Guard("slot-free", forall((N, D1), not_(or_(ENTRY(A, N, D1), REFERENCE(A, N, D1)))),
               "-EBUSY"),
         _unlocked(), Guard("did-free-or-own", own)],
        [insert(ENTRY, *KEY), insert(REFERENCE, *KEY)], Actor.USER,
        "{a} is attached to {m}, under DID {d}",
    )


def _unlocked() -> Guard:
    return Guard("not-locked", forall((N, D1), not_(BUSY(A, N, D1))),
                 source="drivers/iommu/iommu.c group->mutex")


def _detach() -> Program:
    enter = Work("enter", "A detach of {a} from {m} begins", (insert(BUSY, *KEY),),
                 (Guard("attached", ENTRY(*KEY)), _unlocked()))
    steps = [
        Work("clear", "The entry of {a} is cleared", (delete(ENTRY, *KEY),)),
        Work("flush", "DID {d} is flushed, and waited for",
             (delete_where(STRUCTURE, OTHER, Eq(D1, D)),)),
        Work("put", "{a} drops its reference on DID {d} of {m}",
             (delete(REFERENCE, *KEY), delete(BUSY, *KEY), insert(TOUCHED, M))),
    ]
    return program("detach", KEY, enter, steps)


def _reset(options: ReferenceOptions) -> Module:
    """pci_dev_reset_iommu_prepare and _done: to the blocking domain and back (Linux 7.0)."""
    move = action(
        "reset.prepare", (A, OLD),
        [Guard("blocking-domain", BLOCKED(OLD)),
         Guard("not-moved", forall((N,), not_(AT_BLOCKED(A, N)))),
         Guard("no-entry", forall((N, D1), not_(ENTRY(A, N, D1))))],
        [insert(AT_BLOCKED, A, OLD)], Actor.KERNEL, "A reset leaves {a} at {old}",
    )
    read = insert(TOUCHED, OLD, when=not_(BLOCKED(OLD)) if options.old == "paging-only" else None)
    again = _attach("reset.done")
    back = action(
        again.name, (*KEY, OLD), [Guard("moved", AT_BLOCKED(A, OLD)), *again.guards],
        [*again.updates, delete(AT_BLOCKED, A, OLD), read], Actor.KERNEL,
        "After the reset {a} is attached to {m} again, and its tracking by {old} is removed",
    )
    return Module("reset", rels=(AT_BLOCKED, TOUCHED, BLOCKED), actions=(move, back))


def _unknown() -> Action:
    missing = forall((D1,), not_(REFERENCE(A, M, D1)))
    return action(
        "detach-unknown", (*KEY, B),
        [Guard("not-on-the-list", missing), Guard("attached-elsewhere", REFERENCE(B, M, D))],
        [delete(REFERENCE, B, M, D)], Actor.KERNEL,
        "A detach of {a}, which {m} does not know, puts a reference on DID {d}: that of {b}",
    )


def build(options: ReferenceOptions) -> Scenario:
    """Attachments come and go; resets move slots to the blocking domain and back."""
    detach = _detach()
    acts = [_attach("attach"), *detach.actions]
    if options.unknown == "puts":
        acts.append(_unknown())
    driver = Module("driver", rels=(ENTRY, REFERENCE, BUSY, TOUCHED, BLOCKED, *detach.stages),
                    actions=tuple(acts))
    caches = Module("caches", rels=(STRUCTURE,), actions=(
        fill(STRUCTURE, KEY, ENTRY(*KEY), "A walk of {a} caches paging structures of {m}, DID {d}"),
        evict(STRUCTURE, KEY),
    ))
    return Scenario(
        compose("did-references", driver, _reset(options), caches),
        {c.id: c for c in _claims()}, _worlds(), frames=(KEY,), stages=(detach.stages,), size=2,
    )


def _claims() -> list[Claim]:
    both = and_(ENTRY(*KEY), ENTRY(B, N, D))
    shared = and_(REFERENCE(*KEY), REFERENCE(B, N, D))
    walk = and_(ENTRY(*KEY), STRUCTURE(B, N, D))
    return [
        always("one-domain-a-did", "entries with one DID lead to one domain",
               forall((*KEY, B, N), implies(both, Eq(M, N))),
               "{a} leads to {m} and {b} to {n}, both under DID {d}"),
        always("no-foreign-walk", "a walk finds paging structures of its own domain alone",
               forall((*KEY, B, N), implies(walk, Eq(M, N))),
               "{a}, attached to {m}, finds paging structures of {n} under DID {d}"),
        always("references-agree", "references on one DID are one domain's",
               forall((*KEY, B, N), implies(shared, Eq(M, N))),
               "{m} and {n} both hold DID {d}"),
        always("entry-has-reference", "an entry's DID has a reference",
               forall(KEY, implies(ENTRY(*KEY), REFERENCE(*KEY))),
               "{a} still uses DID {d} of {m}, which may be given away"),
        always("one-domain-a-slot", "a slot's entry leads to one domain",
               forall((*KEY, N, D1), implies(and_(ENTRY(*KEY), ENTRY(A, N, D1)), Eq(M, N))),
               "the entry of {a} leads to {m} and to {n}"),
        always("tracking-of-paging-domains", "only paging domains are taken for paging domains",
               forall((OLD,), implies(TOUCHED(OLD), not_(BLOCKED(OLD)))),
               "{old} was read as if it had the lists of a paging domain"),
        can("can-share", "two slots share a domain and its DID",
            exists((A, B, M, D), and_(ENTRY(A, M, D), ENTRY(B, M, D), not_(Eq(A, B))))),
        can("can-reset", "a reset leaves a slot at the blocking domain",
            exists((A, OLD), AT_BLOCKED(A, OLD))),
    ]


def _worlds() -> tuple[Instance, ...]:
    def world(slots: int, dids: int) -> Instance:
        return Instance(
            {w.SLOT: tuple("AB"[:slots]), w.DOMAIN: ("domain 1", "domain 2", "blocked"),
             w.DID: tuple(str(i + 2) for i in range(dids))},
            {}, {BLOCKED: frozenset({(2,)})},
        )

    return world(2, 1), world(2, 2)


FAMILY = Family("did-references", "references on domain ids, and what frees one too early",
                ReferenceOptions, build)
