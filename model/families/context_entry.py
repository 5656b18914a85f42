"""Context entries that lead to PASID tables: binding a table, exchanging it, taking it away.

A context entry of requester r leads to a table t; a table has entries for some PASIDs (static: what
a table contains is another family's matter). Everything cached of a table lies behind the context
entry, and the caches outlive it: context cache (by r), PASID cache (by DID and PASID), IOTLB (by
DID), device TLB (tagged and untagged entries apart).

In extended mode (2018) all entries behind a context entry carry the DID of its RID domain. In
scalable mode each PASID entry has its own, and the DID field of the context entry is not there: a
flush that takes its DID from the context entry names nothing. Requests without PASID have no
PASID-table entry in extended mode: the second level of the context entry is theirs.

What a device TLB holds comes as a translated request, which the unit lets through only by a context
entry that is present (VT-d 4.2.3, table 30 SCT.2, SCT.5): which one does not matter.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product
from typing import Annotated, Literal

from pydantic import Field

from dmaproof.model.families import vocabulary as w
from dmaproof.model.families.hardware import evict, fill
from dmaproof.model.families.programs import Program, Work, program
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    Update,
    action,
    compose,
    delete,
    delete_where,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
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
    or_,
    substitute,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can
from dmaproof.model.vfio import vocabulary as v

TABLE = Sort("PasidTable")  # the host's, or a guest's
_T, _NEW = Var("t", TABLE), Var("new", TABLE)
_R1, _P1, _T1, _N1 = v.R1, v.P1, Var("t1", TABLE), Var("new1", TABLE)
KEY, OTHER = (v.R, v.P, _T), (_R1, _P1, _T1)
_SORTS = (v.RID, v.PASID, TABLE)

HAS = Rel("has_entry", (TABLE, v.PASID), Kind.STATIC)  # the table has an entry for the PASID
CONTEXT = Rel("context", (v.RID, TABLE))  # a present context entry
BUSY = Rel("busy", (v.RID, TABLE, TABLE))  # a call from one table to another runs
CONTEXT_CACHE = Rel("context_cache", (v.RID, TABLE))
PASID_CACHE = Rel("pasid_cache", _SORTS)
IOTLB = Rel("iotlb", _SORTS)
DEVICE_TLB = Rel("device_tlb", _SORTS)
GRANT = Rel("grant", (v.RID, TABLE), Kind.GHOST)  # a live call gave the table to the function


class Step(StrEnum):
    """A micro-step of a change."""

    WRITE = "write-entry"  # the new pointer, or Present cleared
    CONTEXT_CACHE = "context-cache"
    PASID_CACHE_DOMAIN = "pasid-cache-domain"
    IOTLB_DOMAIN = "iotlb-domain"
    IOTLB_OF_CONTEXT = "iotlb-did-of-context-entry"
    DEVICE_TLB = "device-tlb-whole-function"
    DEVICE_TLB_UNTAGGED = "device-tlb-untagged"


_Steps = Annotated[tuple[Step, ...], Field(min_length=1, max_length=8)]


class ContextOptions(Options):
    """The programs.

    Attributes:
        exchange: from one table to another (bind of a guest's table, 2018).
        clear: taking the table away.
        mode: extended (2018) or scalable: where DIDs are.
        ats: whether devices may have ATS on.
    """

    exchange: _Steps
    clear: _Steps
    mode: Literal["extended", "scalable"] = "scalable"
    ats: Literal["on", "off"] = "on"


@rule("caches.flush.by-context", "VT-d 6.5.2, table 28",
      "A context-cache invalidation drops the context entry alone, not what was found behind it")
def _flush(step: Step, options: ContextOptions) -> tuple[list[Update], str]:
    match step:
        case Step.CONTEXT_CACHE:
            return [delete_where(CONTEXT_CACHE, (_R1, _T1), Eq(_R1, v.R))], "the context cache"
        case Step.PASID_CACHE_DOMAIN:
            return [_all_of(PASID_CACHE)], "the PASID cache for each DID used"
        case Step.IOTLB_DOMAIN:
            return [_all_of(IOTLB)], "the IOTLB for each DID used"
        case Step.IOTLB_OF_CONTEXT:
            known = [_all_of(IOTLB)] if options.mode == "extended" else []
            return known, "the IOTLB for the DID that the context entry holds"
        case Step.DEVICE_TLB:
            return [_all_of(DEVICE_TLB)], "the device TLB, with every PASID and without"
        case Step.DEVICE_TLB_UNTAGGED:
            bare = and_(Eq(_R1, v.R), Eq(_P1, v.NO_PASID))
            return [delete_where(DEVICE_TLB, OTHER, bare)], "the device TLB without a PASID"
        case Step.WRITE:
            raise AssertionError("not a flush")


def _all_of(cache: Rel) -> Update:
    return delete_where(cache, OTHER, Eq(_R1, v.R))


def _works(
    name: str, steps: tuple[Step, ...], written: Work, options: ContextOptions
) -> list[Work]:
    found = []
    for step in steps:
        if step is Step.WRITE:
            found.append(written)
            continue
        updates, what = _flush(step, options)
        kept = tuple(u for u in updates if options.ats == "on" or u.rel != DEVICE_TLB)
        found.append(Work(step.value, f"The {name} of {{r}} flushes {what}, and waits", kept))
    return found


def _exchange(options: ContextOptions) -> Program:
    enter = Work(
        "enter", "{r} is to use table {new} instead of {t}",
        (insert(GRANT, v.R, _NEW), insert(BUSY, v.R, _T, _NEW)),
        (Guard("context-present", CONTEXT(v.R, _T), "-EINVAL",
               "drivers/iommu/intel-iommu.c intel_iommu_bind_pasid_table"),
         Guard("another-table", ne(_T, _NEW)), _unlocked()),
    )
    written = Work(Step.WRITE.value, "The context entry of {r} gets the pointer to {new}",
                   (delete(CONTEXT, v.R, _T), insert(CONTEXT, v.R, _NEW)))
    done = Work("return", "The bind returns: {r} must no longer find anything of {t}",
                (delete(GRANT, v.R, _T), delete(BUSY, v.R, _T, _NEW)))
    return program("exchange", (v.R, _T, _NEW), enter,
                   [*_works("bind", options.exchange, written, options), done])


def _clear(options: ContextOptions) -> Program:
    enter = Work("enter", "The table {t} of {r} is to be taken away", (insert(BUSY, v.R, _T, _T),),
                 (Guard("context-present", CONTEXT(v.R, _T)), _unlocked()))
    written = Work(Step.WRITE.value, "Present is cleared in the context entry of {r}",
                   (delete(CONTEXT, v.R, _T),))
    done = Work("return", "The call returns: {r} must no longer find anything of {t}",
                (delete(GRANT, v.R, _T), delete(BUSY, v.R, _T, _T)))
    return program("clear", (v.R, _T), enter,
                   [*_works("clearing", options.clear, written, options), done])


def _unlocked() -> Guard:
    return Guard("not-locked", forall((_T1, _N1), not_(BUSY(v.R, _T1, _N1))),
                 source="drivers/iommu/intel/iommu.c iommu->lock")


def _driver(programs: tuple[Program, ...]) -> Module:
    setup = action(
        "setup", (v.R, _T),
        [Guard("no-context-entry", forall((_T1,), not_(CONTEXT(v.R, _T1)))), _unlocked()],
        [insert(CONTEXT, v.R, _T), insert(GRANT, v.R, _T)],
        Actor.USER, "{r} gets a context entry that leads to table {t}",
    )
    return Module(
        "driver", (v.NO_PASID.fn,),
        (CONTEXT, BUSY, GRANT, *(s for p in programs for s in p.stages)),
        actions=(setup, *(a for p in programs for a in p.actions)),
    )


def _caches(options: ContextOptions) -> Module:
    context = or_(CONTEXT(v.R, _T), CONTEXT_CACHE(v.R, _T))
    entry = or_(and_(context, HAS(_T, v.P)), PASID_CACHE(*KEY))
    extended = options.mode == "extended"
    chain: list[tuple[Rel, tuple[Var, ...], Formula, str]] = [
        (CONTEXT_CACHE, (v.R, _T), CONTEXT(v.R, _T),
         "The context cache takes the entry of {r}, which leads to {t}"),
        (PASID_CACHE, KEY,
         and_(context, HAS(_T, v.P), *([ne(v.P, v.NO_PASID)] if extended else [])),
         "The PASID cache takes the entry for PASID {p} of {t}, for {r}"),
        (IOTLB, KEY, entry, "The IOTLB takes a translation of {r}, PASID {p}, by {t}"),
    ]
    ats = options.ats == "on"
    if ats:
        chain.append((DEVICE_TLB, KEY, and_(w.ATS(v.R), or_(entry, IOTLB(*KEY))),
                      "The device of {r} takes a translation of PASID {p} by {t} (ATS)"))
    return Module(
        "caches", (), (HAS, *(c for c, *_ in chain), *([w.ATS] if ats else [])),
        actions=(*(fill(c, key, found, says) for c, key, found, says in chain),
                 *(evict(c, key) for c, key, *_ in chain)),
    )


def build(options: ContextOptions) -> Scenario:
    """One call at a time for each requester id; walks at any moment."""
    ats = options.ats == "on"
    programs = (_exchange(options), _clear(options))
    return Scenario(
        compose("context-entry", _driver(programs), _caches(options)),
        {c.id: c for c in _claims(ats=ats)}, _worlds(ats=ats),
        frames=((v.R, v.P, _T, _NEW), *_bare_frame(options)),
        stages=tuple(p.stages for p in programs), size=2,
    )


def _bare_frame(options: ContextOptions) -> list[tuple[Term, ...]]:
    """Where a flush names entries without PASID, clauses have to."""
    untagged = Step.DEVICE_TLB_UNTAGGED in {*options.exchange, *options.clear}
    return [(v.R, v.NO_PASID, _T, _NEW)] if untagged else []


def _claims(*, ats: bool) -> list[Claim]:
    hit = or_(and_(CONTEXT(_R1, _T1), HAS(_T1, _P1)), IOTLB(*OTHER), PASID_CACHE(*OTHER))
    among: tuple[Var, ...] = OTHER
    if ats:
        passes = or_(CONTEXT(_R1, _N1), CONTEXT_CACHE(_R1, _N1))
        hit, among = or_(hit, and_(DEVICE_TLB(*OTHER), passes)), (*OTHER, _N1)
    live = GRANT(_R1, _T1)
    last = DEVICE_TLB if ats else IOTLB
    return [
        always("unbind-final", "a function finds what a table holds only while it is bound",
               forall(among, implies(hit, live)),
               "a request of {r1} with PASID {p1} still finds the entry of {t1}"),
        always("unbind-final-rid", "the same of requests without PASID",
               forall([x for x in among if x != _P1], implies(_bare(hit), live)),
               "a request of {r1} without PASID still finds the entry of {t1}"),
        always("one-table", "a context entry leads to one table",
               forall((v.R, _T, _T1), implies(and_(CONTEXT(v.R, _T), CONTEXT(v.R, _T1)),
                                              Eq(_T, _T1))),
               "the context entry of {r} leads to {t} and to {t1}"),
        always("one-call-at-a-time", "calls on one entry do not overlap",
               forall((v.R, _T, _NEW, _T1, _N1), implies(
                   and_(BUSY(v.R, _T, _NEW), BUSY(v.R, _T1, _N1)),
                   and_(Eq(_T, _T1), Eq(_NEW, _N1)))),
               "a call from {t} to {new} and one from {t1} to {new1} run on {r} at once"),
        can("can-bind", "a table can be used, from the last cache",
            exists(KEY, and_(GRANT(v.R, _T), last(*KEY)))),
    ]


def _bare(hit: Formula) -> Formula:
    return substitute(hit, {_P1: v.NO_PASID})


def _worlds(*, ats: bool) -> tuple[Instance, ...]:
    def world(rids: int, tables: int, pasids: tuple[str, ...] = ("p1", "none")) -> Instance:
        facts = {HAS: frozenset(product(range(tables), range(len(pasids)))),
                 w.ATS: frozenset((r,) for r in range(rids))}
        return Instance(
            {v.RID: tuple(f"rid({x})" for x in "AB"[:rids]), v.PASID: pasids,
             TABLE: ("host", "guest", "another")[:tables]},
            {v.NO_PASID.fn: {(): len(pasids) - 1}},
            {rel: known for rel, known in facts.items() if ats or rel != w.ATS},
        )

    return world(1, 2), world(1, 2, ("none",)), world(2, 2), world(1, 3, ("none",))


FAMILY = Family("context-entry", "giving, exchanging and clearing what a context entry leads to",
                ContextOptions, build)
