"""Domains attached in several places, and the list of cache tags that an unmap flushes through.

A *slot* is a requester id with a PASID, or without one: where a domain can be attached. A domain
notes each of its slots as tags, one for the IOTLB of the slot's unit and one for the device's TLB;
an unmap flushes what the tags name, all of them under the list's lock. Attach, detach and unmap
otherwise run side by side: a slot whose entry leads to the domain while its tag is not on the list
is not flushed. A nested slot leads to the domain through a first-stage table: its tags are on the
list of the parent.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
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
    TRUE,
    Eq,
    Fn,
    Formula,
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
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused

A, M, X = Var("a", w.SLOT), Var("m", w.DOMAIN), Var("x", w.PAGE)
A1, A2, M1, X1 = Var("a1", w.SLOT), Var("a2", w.SLOT), Var("m1", w.DOMAIN), Var("x1", w.PAGE)
U1 = Var("u1", w.UNIT)
LINE, OTHER = (A, M, X), (A1, M1, X1)

UNIT_OF = Fn("unit_of_slot", (w.SLOT,), w.UNIT)
ATS = Rel("ats", (w.SLOT,), Kind.STATIC)  # the device can have ATS on
HAS_PASID = Rel("has_pasid", (w.SLOT,), Kind.STATIC)
NESTED = Rel("nested", (w.SLOT,), Kind.STATIC)  # attached to a child of the domain

ENTRY = Rel("entry", (w.SLOT, w.DOMAIN))  # hardware's: the slot's entry leads to the domain
HOLDS = Rel("holds", (w.SLOT, w.DOMAIN))  # bookkeeping: from the start of attach to detach's end
BOUND = Rel("bound", (w.SLOT, w.DOMAIN))  # attach has returned, detach has not begun
IOTLB_TAG = Rel("iotlb_tag", (w.DOMAIN, w.SLOT))
DEVTLB_TAG = Rel("devtlb_tag", (w.DOMAIN, w.SLOT))
NOTED = Rel("tag_names_unit", (w.DOMAIN, w.UNIT))  # the unit of the one tag (mutant)
MOVING = Rel("moving", (w.SLOT, w.DOMAIN))  # an attach or a detach runs (where a lock minds)
BATCH = Rel("has_batch", (w.DOMAIN,))  # memory for batched descriptors (qi_batch)
ATS_ON = Rel("ats_on_now", (w.SLOT,))
MAPS = Rel("maps", (w.DOMAIN, w.PAGE))
IOTLB = Rel("iotlb", (w.SLOT, w.DOMAIN, w.PAGE))
DEVICE_TLB = Rel("device_tlb", (w.SLOT, w.DOMAIN, w.PAGE))
MAPPED = Rel("mapped", (w.DOMAIN, w.PAGE), Kind.GHOST)  # until unmap returns


class Attach(StrEnum):
    """A micro-step of attach."""

    ENABLE_ATS = "enable-ats"
    BATCH = "allocate-batch"
    TAG = "add-tags"
    TAG_IOTLB = "add-iotlb-tag"
    ENTRY = "set-up-entry"
    ENTRY_IF_FIRST = "set-up-entry-if-first"


class Detach(StrEnum):
    """A micro-step of detach."""

    CLEAR = "clear-entry"
    FLUSH = "flush-slot"
    UNTAG = "remove-tags"
    DISABLE_ATS = "disable-ats"


class TagOptions(Options):
    """The programs.

    Attributes:
        attach: of a domain to a slot.
        nested: of a child of the domain to a slot (empty: there are none).
        detach: the way back.
        unmap: how the device TLB is named: as the tag says, or always without PASID.
        iotlb_tags: whether a tag is found again by DID and unit, or by DID alone.
        lock: what excludes attach and detach on one side and unmap on the other.
        ats: whether devices may have ATS on.
        neighbour: a device that stays attached on each unit has a tag there.
    """

    attach: Annotated[tuple[Attach, ...], Field(min_length=1, max_length=6)]
    nested: Annotated[tuple[Attach, ...], Field(max_length=6)] = ()
    detach: Annotated[tuple[Detach, ...], Field(min_length=1, max_length=6)]
    unmap: Literal["as-tagged", "untagged"] = "as-tagged"
    iotlb_tags: Literal["per-unit", "per-did"] = "per-unit"
    lock: Literal["none", "container"] = "none"
    ats: Literal["on", "off"] = "on"
    neighbour: bool = False

    @property
    def toggles(self) -> bool:
        """ATS is turned on and off by the programs."""
        on = Attach.ENABLE_ATS in {*self.attach, *self.nested}
        return on or Detach.DISABLE_ATS in self.detach

    @property
    def ats_now(self) -> Rel:
        """What says that a slot's device has ATS on."""
        return ATS_ON if self.toggles else ATS


@rule("driver.cache-tags.assign", "drivers/iommu/intel/cache.c cache_tag_assign_domain",
      "A domain has an IOTLB tag for every slot and a device-TLB tag where ATS is on")
def _attach_step(step: Attach, o: TagOptions) -> tuple[list[Update], str]:
    iotlb = [insert(IOTLB_TAG, M, A)]
    if o.iotlb_tags == "per-did":  # the first slot's unit is noted, others count as users
        iotlb.append(insert(NOTED, M, UNIT_OF(A), when=forall((A1,), not_(IOTLB_TAG(M, A1)))))
    match step:
        case Attach.ENABLE_ATS:
            return [insert(ATS_ON, A, when=ATS(A))], "ATS is turned on in the device of {a}"
        case Attach.BATCH:
            return [insert(BATCH, M)], "{m} gets its batch of descriptors"
        case Attach.TAG:
            device = insert(DEVTLB_TAG, M, A, when=o.ats_now(A))
            return [*iotlb, device], "{m} gets the cache tags of {a}"
        case Attach.TAG_IOTLB:
            return iotlb, "{m} gets the IOTLB tag of {a}, and no other"
        case Attach.ENTRY:
            return [insert(ENTRY, A, M)], "The entry of {a} is set up: it leads to {m}"
        case Attach.ENTRY_IF_FIRST:
            first = forall((A1,), not_(ENTRY(A1, M)))
            says = "The entry of {a} is set up only if it is the first of {m}"
            return [insert(ENTRY, A, M, when=first)], says


@rule("driver.cache-tags.unassign", "drivers/iommu/intel/cache.c cache_tag_unassign_domain",
      "The device-TLB tag is looked for only while ATS is on")
def _detach_step(step: Detach, o: TagOptions) -> tuple[list[Update], str]:
    match step:
        case Detach.CLEAR:
            return [delete(ENTRY, A, M)], "The entry of {a} is cleared"
        case Detach.FLUSH:
            own = and_(Eq(A1, A), Eq(M1, M))
            says = "Everything of {a} is flushed: PASID cache, IOTLB, device TLB"
            return [delete_where(c, OTHER, own) for c in (IOTLB, DEVICE_TLB)], says
        case Detach.UNTAG:
            gone = [delete(IOTLB_TAG, M, A), delete(DEVTLB_TAG, M, A, when=o.ats_now(A))]
            if o.iotlb_tags == "per-did":
                alone = forall((A1,), or_(Eq(A1, A), not_(IOTLB_TAG(M, A1))))
                gone.append(delete_where(NOTED, (M1, U1), and_(Eq(M1, M), alone)))
            return gone, "{m} loses the cache tags of {a}"
        case Detach.DISABLE_ATS:
            return [delete(ATS_ON, A)], "ATS is turned off in the device of {a}"


@rule("driver.cache-tags.flush", "drivers/iommu/intel/cache.c cache_tag_flush_range",
      "An unmap flushes what the domain's tags name: a DID on a unit, a device with its PASID")
def _flush_by_tags(o: TagOptions) -> Work:
    same = and_(Eq(M1, M), Eq(X1, X))
    tagged: Formula = exists((A2,), and_(IOTLB_TAG(M, A2), Eq(UNIT_OF(A2), UNIT_OF(A1))))
    if o.iotlb_tags == "per-did":
        tagged = NOTED(M, UNIT_OF(A1))
    named = not_(HAS_PASID(A1)) if o.unmap == "untagged" else TRUE
    updates = (
        delete_where(IOTLB, OTHER, same if o.neighbour else and_(same, tagged)),
        delete_where(DEVICE_TLB, OTHER, and_(same, DEVTLB_TAG(M, A1), named)),
    )
    says = "The unmap flushes {x} through the tags of {m}, and waits"
    return Work("flush-by-tags", says, updates)


def _programs(o: TagOptions) -> tuple[Program, ...]:
    def attach(name: str, steps: tuple[Attach, ...], kind: tuple[Guard, ...]) -> Program:
        enter = Work(
            "enter", "An attach of {m} to {a} begins", (insert(HOLDS, A, M),),
            (*kind, Guard("slot-free", forall((M1,), not_(HOLDS(A, M1))), "-EBUSY")),
        )
        works = [Work(s.value, says, _kept(updates, o)) for s in steps
                 for updates, says in [_attach_step(s, o)]]
        done = Work("return", "{a} is attached to {m}", (insert(BOUND, A, M),))
        return program(name, (A, M), enter, [*works, done])

    plain = (Guard("not-nested", not_(NESTED(A))),) if o.nested else ()
    found = [attach("attach", o.attach, plain)]
    if o.nested:
        found.append(attach("attach-nested", o.nested, (Guard("nested", NESTED(A)),)))
    begin = Work("enter", "A detach of {a} from {m} begins", (delete(BOUND, A, M),),
                 (Guard("attached", BOUND(A, M), "-EINVAL"),))
    works = [Work(s.value, says, _kept(updates, o)) for s in o.detach
             for updates, says in [_detach_step(s, o)]]
    done = Work("return", "{a} is detached from {m}", (delete(HOLDS, A, M),))
    return (*found, program("detach", (A, M), begin, [*works, done]))


def _kept(updates: Iterable[Update], o: TagOptions) -> tuple[Update, ...]:
    device = {DEVTLB_TAG, DEVICE_TLB, ATS_ON}
    return tuple(u for u in updates if o.ats == "on" or u.rel not in device)


def _unmap(o: TagOptions) -> Program:
    enter = Work("enter", "An unmap of {x} from {m} begins",
                 guards=(Guard("mapped", MAPS(M, X), "-ENOENT"),))
    clear = Work("clear-leaf", "The leaf of {x} in {m} is cleared", (delete(MAPS, M, X),))
    done = Work("return", "The unmap returns: {x} goes back to its owner", (delete(MAPPED, M, X),))
    flush = _flush_by_tags(o)
    flush = Work(flush.label, flush.says, _kept(flush.updates, o))
    return program("unmap", (M, X), enter, [clear, flush, done])


def _locked(o: TagOptions, slots: tuple[Program, ...], unmap: Program) -> list[Program]:
    """VFIO type1 holds one lock around attach, detach and unmap; iommufd does not."""
    if o.lock == "none":
        return [*slots, unmap]
    source = "drivers/vfio/vfio_iommu_type1.c iommu->lock"
    still = Guard("no-unmap-runs", forall((X1,), not_(unmap.running(M, X1))), source=source)
    quiet = Guard("no-attach-runs", forall((A1,), not_(MOVING(A1, M))), source=source)
    held = [p.guarded(still).around(insert(MOVING, A, M), delete(MOVING, A, M)) for p in slots]
    return [*held, unmap.guarded(quiet)]


def _driver(o: TagOptions, programs: list[Program], unmap: Program) -> Module:
    remap = action(
        "map", (M, X), [Guard("not-mapped", not_(MAPS(M, X)), "-EEXIST"),
                        Guard("no-unmap-of-it", not_(unmap.running(M, X)))],
        [insert(MAPS, M, X), insert(MAPPED, M, X)], Actor.USER, "{x} is mapped in {m}",
    )
    rels = [ENTRY, HOLDS, BOUND, IOTLB_TAG, MAPS, MAPPED, *(s for p in programs for s in p.stages)]
    rels += [ATS, DEVTLB_TAG] if o.ats == "on" else []
    rels += [ATS_ON] if o.toggles else []
    rels += [NOTED] if o.iotlb_tags == "per-did" else []
    rels += [MOVING] if o.lock == "container" else []
    rels += [NESTED, BATCH] if o.nested else []
    rels += [HAS_PASID] if o.unmap == "untagged" else []
    return Module("driver", (UNIT_OF,), tuple(rels),
                  actions=(remap, *(a for p in programs for a in p.actions)))


def _caches(o: TagOptions) -> Module:
    walk = and_(ENTRY(A, M), MAPS(M, X))
    acts = [fill(IOTLB, LINE, walk, "The IOTLB takes the translation of {a} to {x} in {m}"),
            evict(IOTLB, LINE)]
    if o.ats == "on":
        found = and_(o.ats_now(A), or_(walk, IOTLB(*LINE)))
        acts += [fill(DEVICE_TLB, LINE, found,
                      "The device of {a} takes its translation to {x} in {m} (ATS)"),
                 evict(DEVICE_TLB, LINE)]
    return Module("caches", (), (IOTLB, *([DEVICE_TLB] if o.ats == "on" else [])),
                  actions=tuple(acts))


def build(options: TagOptions) -> Scenario:
    """Attach, detach and unmap run at the same time, each as often as there are places for it."""
    slots, unmap = _programs(options), _unmap(options)
    programs = _locked(options, slots, unmap)
    system = compose("cache-tags", _driver(options, programs, unmap), _caches(options))
    return Scenario(
        system, {c.id: c for c in _claims(options, programs)}, _worlds(options),
        frames=(LINE,), stages=tuple(p.stages for p in programs), size=3,
    )


def _claims(o: TagOptions, programs: list[Program]) -> list[Claim]:
    tags = [IOTLB_TAG(M1, A1), *([DEVTLB_TAG(M1, A1)] if o.ats == "on" else [])]
    walk = and_(ENTRY(A1, M1), MAPS(M1, X1))
    device = [DEVICE_TLB(*OTHER)] if o.ats == "on" else []
    live = MAPPED(M1, X1)
    attach = programs[0].actions[0]
    found = [
        always("no-stale-after-unmap", "after unmap has returned no device finds the page",
               forall(OTHER, implies(or_(walk, IOTLB(*OTHER), *device), live)),
               "{a1} still finds {x1}, which was unmapped from {m1}"),
        always("no-stale-while-bound", "the same of slots whose attach or detach is not under way",
               forall(OTHER, implies(and_(or_(walk, IOTLB(*OTHER), *device), BOUND(A1, M1)), live)),
               "{a1}, attached to {m1} for good, still finds {x1}, which was unmapped"),
        always("no-stale-iotlb", "after unmap has returned no IOTLB holds the page",
               forall(OTHER, implies(or_(walk, IOTLB(*OTHER)), live)),
               "the IOTLB still holds {x1} of {m1} for {a1}"),
        always("no-tag-outlives", "no tag outlives the attachment that it stands for",
               forall((A1, M1), implies(or_(*tags), HOLDS(A1, M1))),
               "{m1} still has a tag of {a1}, which is detached"),
        always("attached-is-programmed", "a slot whose attach has returned has its entry",
               forall((A1, M1), implies(BOUND(A1, M1), ENTRY(A1, M1))),
               "{a1} is attached to {m1} and has no entry"),
        always("one-domain-a-slot", "a slot is attached to one domain at a time",
               forall((A, M, M1), implies(and_(HOLDS(A, M), HOLDS(A, M1)), Eq(M, M1))),
               "{a} is attached to {m} and to {m1}"),
        refused("errno-attach-twice", "a slot that has a domain is refused another", attach,
                and_(HOLDS(A, M), *(g.condition for g in attach.guards if g.name == "not-nested")),
                "-EBUSY"),
        can("can-cache", "an attached slot's translation gets into the last cache",
            exists(LINE, and_(BOUND(A, M), *([DEVICE_TLB(*LINE)] if device else [IOTLB(*LINE)])))),
    ]
    if o.nested:
        flushing = programs[-1].stages[1]
        found.append(always(
            "batch-before-flush", "a list of tags is flushed only with a batch to flush with",
            forall(OTHER, implies(and_(flushing(M1, X1), or_(*tags)), BATCH(M1))),
            "the unmap of {x1} walks the tags of {m1}, which has no batch (a NULL pointer)"))
    return found


def _worlds(o: TagOptions) -> tuple[Instance, ...]:
    def world(
        units: tuple[int, ...], ats: int, *, nested: bool = False, domains: int = 1
    ) -> Instance:
        every = frozenset((a,) for a in range(len(units)))
        facts = {ATS: frozenset((a,) for a in range(ats)), HAS_PASID: every,
                 NESTED: every if nested else frozenset()}
        known = {ATS: o.ats == "on", HAS_PASID: o.unmap == "untagged", NESTED: bool(o.nested)}
        return Instance(
            {w.SLOT: tuple("AB"[: len(units)]), w.PAGE: ("page 1",),
             w.DOMAIN: tuple(f"domain {i + 1}" for i in range(domains)),
             w.UNIT: tuple(f"unit {i}" for i in range(max(units) + 1))},
            {UNIT_OF: {(a,): u for a, u in enumerate(units)}},
            {rel: facts[rel] for rel, here in known.items() if here},
        )

    found = [world((0,), 1, nested=True)] if o.nested else []
    found += [world((0,), 1), world((0, 0), 1), world((0, 1), 2)]
    return (*found, *([world((0,), 1, domains=2)] if o.toggles else []))


FAMILY = Family("cache-tags", "attach, detach and unmap side by side: what a flush reaches",
                TagOptions, build)
