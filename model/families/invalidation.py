"""PASID-table entries, the caches that hold them, and the programs that take them down.

A request (r, p) finds an entry with DID d that leads to space s. What was found may sit in four
caches, each with a tag of its own for invalidation (VT-d 6.2, 6.5.2):

===================== ============================ =======================================
cache                 found by                     dropped by
===================== ============================ =======================================
PASID cache           r, p                         d with p
IOTLB                 r, p                         d; or d with p
paging structures     first stage: d, p;           d; or d with p, which leaves second stage
                      second stage: d
device TLB            p, in the device of r        r with p; untagged entries only untagged
===================== ============================ =======================================

Cached entries carry all of (r, p, d, s): more than hardware keeps, but an invalidation looks only
at its own tag. Identifiers are in use from bind until the unbind frees them, and then go to whoever
comes next. An address space is a first-stage table's, or a second-stage (possibly nested) one's:
a proof is for both at once. A new entry needs no flush, as nothing is cached of what was not
present (V6; in caching mode a stale "not present" costs availability only).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from dmaproof.model.families import vocabulary as w
from dmaproof.model.families.hardware import evict, fill
from dmaproof.model.families.programs import Program, Work, program
from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
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
    FALSE,
    TRUE,
    Eq,
    Formula,
    Kind,
    Rel,
    Var,
    and_,
    exists,
    forall,
    implies,
    ne,
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can
from dmaproof.model.vfio import vocabulary as v

KEY = (v.R, v.P, w.D, v.S)
_R1, _P1, _D1, _S1 = OTHER = (v.R1, v.P1, w.D1, v.S1)
_SORTS = tuple(x.sort for x in KEY)
_OWN = Var("own", v.SPACE)

ENTRY = Rel("entry", _SORTS)  # a present PASID-table entry
USES = Rel("uses", _SORTS)  # the binding holds its PASID and a reference on its DID
BUSY = Rel("busy", _SORTS)  # an unbind runs, under the group's mutex
PASID_CACHE = Rel("pasid_cache", _SORTS)
IOTLB = Rel("iotlb", _SORTS)
STRUCTURE = Rel("paging_structure_cache", _SORTS)
DEVICE_TLB = Rel("device_tlb", _SORTS)
GRANT = Rel("grant", _SORTS, Kind.GHOST)  # a live call gave s, under the DID that it got


class Step(StrEnum):
    """A micro-step of an unbind."""

    CLEAR = "clear"
    PASID_CACHE = "pasid-cache"
    PASID_CACHE_NOTHING = "pasid-cache-without-type"
    IOTLB_PASID = "iotlb-pasid"
    IOTLB_DOMAIN = "iotlb-domain"
    IOTLB_BY_STAGE = "iotlb-by-stage"
    DEVICE_TLB = "device-tlb"
    DEVICE_TLB_UNTAGGED = "device-tlb-untagged"
    DEVICE_TLB_SWAPPED = "device-tlb-swapped"
    DEVICE_TLB_UNLESS_CM = "device-tlb-unless-caching-mode"
    FREE = "free"


class InvalidationOptions(Options):
    """The program and the allocator.

    Attributes:
        unbind: the program that takes a binding down.
        ats: whether devices may have ATS on.
        pasid: whether the PASID of a process is its own everywhere, or each device has its own
            numbers.
    """

    unbind: Annotated[tuple[Step, ...], Field(min_length=1, max_length=12)]
    ats: Literal["on", "off"] = "on"
    pasid: Literal["global", "per-device"] = "global"


@rule("caches.flush.pasid-cache", "VT-d 6.5.2.2",
      "A PASID-selective invalidation drops what has the DID and the PASID, of every requester")
def _drop_pasid_cache() -> list[Update]:
    return [_drop(PASID_CACHE, and_(Eq(_D1, w.D), Eq(_P1, v.P)))]


@rule("caches.flush.iotlb", "VT-d 6.5.2.4, 6.5.2.5",
      "PASID-selective leaves second-stage paging structures, which have no PASID in their tag;"
      " domain-selective drops all of the DID")
def _drop_iotlb(by_pasid: Formula) -> list[Update]:
    here, same = Eq(_D1, w.D), Eq(_P1, v.P)
    first = and_(same, w.FIRST_STAGE(_S1))
    return [_drop(IOTLB, and_(here, or_(not_(by_pasid), same))),
            _drop(STRUCTURE, and_(here, or_(not_(by_pasid), first)))]


@rule("caches.flush.device-tlb", "VT-d 6.5.2.6, 6.5.2.7",
      "An untagged invalidation drops what was translated without PASID, a tagged one what has"
      " its PASID")
def _drop_device_tlb(tagged: Formula, untagged: Formula) -> list[Update]:
    bare = Eq(_P1, v.NO_PASID)
    named = or_(and_(tagged, not_(bare), Eq(_P1, v.P)), and_(untagged, bare))
    return [_drop(DEVICE_TLB, and_(Eq(_R1, v.R), named))]


def _drop(cache: Rel, condition: Formula) -> Update:
    return delete_where(cache, OTHER, and_(_same_unit(), condition))


def _same_unit() -> Formula:
    return Eq(w.UNIT_OF(_R1), w.UNIT_OF(v.R))


def _work(step: Step) -> tuple[list[Update], str]:
    """What a step does, and how a trace says it."""
    bare = Eq(v.P, v.NO_PASID)
    right = _drop_device_tlb(not_(bare), bare)
    match step:
        case Step.CLEAR:
            return [delete(ENTRY, *KEY)], "clears Present in the entry of {r}, PASID {p}"
        case Step.PASID_CACHE:
            return _drop_pasid_cache(), "flushes DID {d}, PASID {p} from the PASID cache and waits"
        case Step.PASID_CACHE_NOTHING:
            return [], "queues a PASID-cache descriptor of no type: hardware drops nothing"
        case Step.IOTLB_PASID:
            return _drop_iotlb(TRUE), "flushes DID {d}, PASID {p} from the IOTLB and waits"
        case Step.IOTLB_DOMAIN:
            return _drop_iotlb(FALSE), "flushes DID {d} from the IOTLB and waits"
        case Step.IOTLB_BY_STAGE:
            says = "flushes DID {d} (if {s} is first-stage, its PASID {p} only) from the IOTLB"
            return _drop_iotlb(w.FIRST_STAGE(v.S)), f"{says} and waits"
        case Step.DEVICE_TLB:
            return right, "flushes PASID {p} from the device TLB of {r} and waits"
        case Step.DEVICE_TLB_UNTAGGED:
            says = "flushes the device TLB of {r} without naming a PASID, and waits"
            return _drop_device_tlb(FALSE, TRUE), says
        case Step.DEVICE_TLB_SWAPPED:
            says = "flushes the device TLB of {r}, naming a PASID where {p} is none and only there"
            return _drop_device_tlb(bare, not_(bare)), says
        case Step.DEVICE_TLB_UNLESS_CM:
            says = "flushes PASID {p} from the device TLB of {r}, but not in caching mode"
            return [_unless(w.CACHING_MODE(v.R), u) for u in right], says
        case Step.FREE:
            return [delete(USES, *KEY)], "frees PASID {p} and its reference on DID {d}"


def _unless(condition: Formula, update: Update) -> Update:
    return delete_where(update.rel, update.variables, and_(not_(condition), update.delete))


@rule("driver.teardown.order", "VT-d 6.5.3.3; drivers/iommu/intel/pasid.c",
      "Clear Present, PASID cache, IOTLB, device TLB, each complete before the next")
def _unbind(options: InvalidationOptions) -> Program:
    enter = Work(
        "enter", "An unbind of {r}, PASID {p}, from {s} begins", (insert(BUSY, *KEY),),
        (Guard("bound", ENTRY(*KEY), "-EINVAL"), _unlocked()),
    )
    steps = []
    for step in options.unbind:
        updates, says = _work(step)
        kept = tuple(u for u in updates if options.ats == "on" or u.rel != DEVICE_TLB)
        steps.append(Work(step.value, f"The unbind {says}", kept))
    done = Work("return", "The unbind returns: PASID {p} of {r} must no longer lead to {s}",
                (delete(GRANT, *KEY), delete(BUSY, *KEY)))
    return program("unbind", KEY, enter, [*steps, done])


def _unlocked() -> Guard:
    return Guard("group-not-locked", forall((_D1, _S1), not_(BUSY(v.R, v.P, _D1, _S1))),
                 source="drivers/iommu/iommu.c group->mutex")


@rule("driver.did.allocation", "drivers/iommu/intel/iommu.c domain_attach_iommu, intel/pasid.h",
      "A DID in use belongs to one page table; all SVA entries of a unit share one DID")
def _did_fits() -> Guard:
    shared = and_(Eq(w.D, w.SHARED_DID), w.FIRST_STAGE(v.S), w.FIRST_STAGE(_S1))
    taken = and_(USES(_R1, _P1, w.D, _S1), _same_unit())
    return Guard("did-free-or-own",
                 forall((_R1, _P1, _S1), implies(taken, or_(Eq(_S1, v.S), shared))),
                 source="drivers/iommu/intel/iommu.c domain_attach_iommu")


@rule("driver.pasid.global", "drivers/iommu/iommu-sva.c iommu_alloc_mm_data",
      "A process has one PASID, and no other process has it")
def _pasid_fits() -> Guard:
    taken = USES(_R1, v.P, w.SHARED_DID, _S1)
    own = forall((_R1, _S1), implies(taken, Eq(_S1, v.S)))
    return Guard("pasid-free-or-own", or_(ne(w.D, w.SHARED_DID), own),
                 source="drivers/iommu/iommu-sva.c")


def _driver(options: InvalidationOptions, unbind: Program) -> Module:
    free = forall((_D1, _S1), not_(USES(v.R, v.P, _D1, _S1)))
    guards = [
        _unlocked(),
        Guard("pasid-not-in-use", free, "-EBUSY",
              "drivers/iommu/iommu.c iommu_attach_device_pasid"),
        _did_fits(),
        *([_pasid_fits()] if options.pasid == "global" else []),
    ]
    bind = action(
        "bind", KEY, guards, [insert(r, *KEY) for r in (ENTRY, USES, GRANT)],
        Actor.USER, "{r}, PASID {p}, is bound to {s} under DID {d}",
    )
    return Module(
        "driver", (w.UNIT_OF, v.NO_PASID.fn, w.SHARED_DID.fn),
        (ENTRY, USES, BUSY, GRANT, w.FIRST_STAGE, w.CACHING_MODE, *unbind.stages),
        actions=(bind, *unbind.actions),
    )


def _caches(*, ats: bool) -> Module:
    known = or_(ENTRY(*KEY), PASID_CACHE(*KEY))
    fills = [
        fill(PASID_CACHE, KEY, ENTRY(*KEY),
             "The PASID cache takes the entry of {r}, PASID {p}, which leads to {s}"),
        fill(STRUCTURE, KEY, known,
             "A walk of {r}, PASID {p}, caches paging structures of {s} under DID {d}"),
        fill(IOTLB, KEY, known, "The IOTLB takes the translation of {r}, PASID {p}, to {s}"),
    ]
    caches = [PASID_CACHE, STRUCTURE, IOTLB]
    if ats:
        caches.append(DEVICE_TLB)
        found = and_(w.ATS(v.R), or_(known, IOTLB(*KEY)))
        fills.append(fill(DEVICE_TLB, KEY, found,
                          "The device of {r} takes its translation of PASID {p} to {s} (ATS)"))
    return Module(
        "caches", (w.UNIT_OF,), (*caches, w.FIRST_STAGE, *([w.ATS] if ats else [])),
        actions=(*fills, _through_structures(), *(evict(c, KEY) for c in caches)),
    )


@rule("caches.paging-structures.lookup", "VT-d 6.2.5",
      "Paging structures are found by DID, and by PASID too when they are first-stage")
def _through_structures() -> Action:
    first = and_(w.FIRST_STAGE(v.S), w.FIRST_STAGE(_OWN), Eq(_P1, v.P))
    second = and_(not_(w.FIRST_STAGE(v.S)), not_(w.FIRST_STAGE(_OWN)))
    found = and_(STRUCTURE(_R1, _P1, w.D, v.S), _same_unit(), or_(first, second))
    known = or_(ENTRY(v.R, v.P, w.D, _OWN), PASID_CACHE(v.R, v.P, w.D, _OWN))
    return action(
        "iotlb.fill-from-structures", (*KEY, _OWN),
        [Guard("entry-found", known), Guard("structures-found", exists((_R1, _P1), found))],
        [insert(IOTLB, *KEY)], Actor.HARDWARE,
        "A walk of {r}, PASID {p}, bound to {own}, finds paging structures of {s} under DID {d}",
    )


def build(options: InvalidationOptions) -> Scenario:
    """Bindings come and go, one call at a time for each (requester id, PASID)."""
    ats = options.ats == "on"
    unbind = _unbind(options)
    system = compose("invalidation", _driver(options, unbind), _caches(ats=ats))
    return Scenario(
        system, {c.id: c for c in _claims(ats=ats)}, _worlds(ats=ats),
        frames=(KEY,), stages=(unbind.stages,), size=2,
    )


def _claims(*, ats: bool) -> list[Claim]:
    last = DEVICE_TLB if ats else IOTLB
    places = [ENTRY, PASID_CACHE, IOTLB, *([DEVICE_TLB] if ats else [])]
    hit = or_(*(place(*OTHER) for place in places))
    live = exists((w.D,), GRANT(_R1, _P1, w.D, _S1))
    owner = USES(_R1, _P1, w.D, v.S)
    return [
        always("unbind-final", "a request finds a space only while a call covers it",
               forall(OTHER, implies(hit, live)),
               "a request of {r1} with PASID {p1} still finds {s1}, and no call covers it"),
        always("no-predecessor", "who gets a PASID finds nothing of who had it before",
               forall((*OTHER, w.D, v.S), implies(and_(hit, owner), Eq(v.S, _S1))),
               "PASID {p1} of {r1} is bound to {s} now, and a request still finds {s1}"),
        _one_space(),
        can("can-bind", "a binding can be used, from the last cache",
            exists(KEY, and_(GRANT(*KEY), last(*KEY)))),
    ]


@rule("driver.did.one-space", "VT-d 6.2.1; drivers/iommu/intel/pasid.h FLPT_DEFAULT_DID",
      "What one tag stands for leads to one address space at any time")
def _one_space() -> Claim:
    apart = and_(w.FIRST_STAGE(v.S), w.FIRST_STAGE(_S1), ne(v.P, _P1))
    tag = and_(Eq(w.D, _D1), _same_unit())
    binding = and_(Eq(v.R, _R1), Eq(v.P, _P1))
    formula = implies(and_(USES(*KEY), USES(*OTHER), or_(tag, binding)), or_(Eq(v.S, _S1), apart))
    return always("one-space-a-tag", "what one tag stands for leads to one address space",
                  forall((*KEY, *OTHER), formula), "{s} and {s1} are in use under one tag")


def _worlds(*, ats: bool) -> tuple[Instance, ...]:
    def world(
        rids: int, dids: int, spaces: tuple[str, ...], first: set[int], *, cm: bool = False
    ) -> Instance:
        every = frozenset((r,) for r in range(rids))
        facts = {w.FIRST_STAGE: frozenset((s,) for s in first),
                 w.CACHING_MODE: every if cm else frozenset(), w.ATS: every}
        return Instance(
            {v.RID: tuple(f"rid({x})" for x in "AB"[:rids]), v.PASID: ("p1", "none"),
             w.DID: tuple(f"{i + 1}" for i in range(dids)), v.SPACE: spaces, w.UNIT: ("unit",)},
            {w.UNIT_OF: {(r,): 0 for r in range(rids)}, v.NO_PASID.fn: {(): 1},
             w.SHARED_DID.fn: {(): 0}},
            {rel: known for rel, known in facts.items() if ats or rel != w.ATS},
        )

    return (
        world(1, 1, ("mm1",), {0}),
        world(1, 1, ("domain1", "domain2"), set()),
        world(1, 1, ("mm1", "mm2"), {0, 1}, cm=True),
        world(2, 1, ("mm1", "mm2"), {0, 1}),
        world(1, 2, ("mm1", "domain1"), {0}),
    )


FAMILY = Family("invalidation", "taking PASID-table entries down: what is flushed, in which order",
                InvalidationOptions, build)
