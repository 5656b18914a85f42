"""Attaching page tables to devices in iommufd and in the core of Linux 7.0, by RID and by PASID.

A call names a device, but the state is the group's: the first device of a group that attaches at a
PASID programs every member (the RID: all of them; a PASID: those that have PASIDs), later ones
join, and the last that detaches takes the entries away. A PASID is programmed member by member, and
a member that fails must be undone.
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
    FALSE,
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
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import CAPABLE, FITS, FUNCTION, GROUP, NO_PASID, PASID, PRESENT

HWPT = Sort("Hwpt")  # a page table object of iommufd: an iommu_domain

GROUP_OF = Fn("group", (FUNCTION,), GROUP)
F, P, H = Var("f", FUNCTION), Var("p", PASID), Var("h", HWPT)
M, OLD = Var("m", FUNCTION), Var("old", HWPT)
_X, _Y, _Q, _Z, _G = (
    Var("x", FUNCTION), Var("y", FUNCTION), Var("q", PASID), Var("z", HWPT), Var("grp", GROUP)
)
_W = Var("w", HWPT)

# Facts.
COMPAT = Rel("pasid_compatible", (HWPT,), Kind.STATIC)  # IOMMU_HWPT_ALLOC_PASID was given
RESERVED = Rel("maps_reserved", (HWPT, FUNCTION), Kind.STATIC)  # hits a device's reserved region
BOOT = Rel("present_at_boot", (FUNCTION,), Kind.STATIC)

# Kernel and hardware.
ATTACHED = Rel("attached", (FUNCTION, PASID))  # the device is in the group's set at that PASID
CORE = Rel("group_hwpt", (GROUP, PASID, HWPT))  # what the group has there: iommufd's, the core's
ENTRY = Rel("entry", (FUNCTION, PASID, HWPT))  # what the tables say for the function's requests
ATTACHING = Rel("attaching", (FUNCTION, PASID, HWPT))  # the call is visiting the members
LOCKED = Rel("locked", (GROUP, PASID, HWPT))  # group->mutex is held, by an attach at that PASID

# Ghosts: what the users asked for.
GRANT = Rel("grant", (FUNCTION, PASID, HWPT), Kind.GHOST)  # by a live call that names it
GGRANT = Rel("ggrant", (GROUP, PASID, HWPT), Kind.GHOST)  # live calls that name a member; a
# replace names its whole group
DETACHED = Rel("detached", (FUNCTION, PASID), Kind.GHOST)  # the user detached and did not attach
WANTED = Rel("wanted", (FUNCTION, PASID), Kind.GHOST)  # attached with success, never detached

_ATTACH = "drivers/iommu/iommufd/device.c iommufd_hw_pagetable_attach"
_CORE = "drivers/iommu/iommu.c iommu_attach_device_pasid"


class AttachOptions(Options):
    """What differs between kernels.

    Attributes:
        object: whose tables a call programs: every member's, or the named device's alone.
        rollback: a member that fails makes the call undo the members before it.
        counts_incapable: members without PASIDs take part in the check of the PASID's width.
        reserved_for_pasid: reserved regions are enforced for PASIDs, too, not only for the RID.
        unwind: what a call undoes that cannot copy its result back: the attach of its ``pasid``,
            or the attach of the ``rid``.
        hot_add: functions may appear in a group that is in use.
        replays_pasids: a function that appears gets the group's PASIDs, too.
    """

    object: Literal["group", "device"] = "group"
    rollback: StrictBool = True
    counts_incapable: StrictBool = False
    reserved_for_pasid: StrictBool = False
    unwind: Literal["pasid", "rid"] = "pasid"
    hot_add: StrictBool = False
    replays_pasids: StrictBool = False


def _group(function: Term) -> Term:
    return GROUP_OF(function)


def _mates(left: Term, right: Term) -> Formula:
    return Eq(_group(left), _group(right))


class Rules:
    """Guards and updates under some options."""

    def __init__(self, options: AttachOptions) -> None:
        self.o = options

    def present(self, function: Term) -> Formula:
        """Whether a function is there; always so on a static fabric."""
        return PRESENT(function) if self.o.hot_add else Eq(function, function)

    def serves(self, caller: Term, member: Term) -> Formula:
        """Whose tables a call of *caller* programs."""
        if self.o.object == "device":
            return Eq(caller, member)
        return and_(_mates(caller, member), self.present(member))

    @staticmethod
    def unlocked(function: Term) -> Guard:
        """The group's lock is free: attach, replace and detach hold it until they return."""
        free = forall((_Q, _Z), not_(LOCKED(_group(function), _Q, _Z)))
        return Guard("group-not-locked", free, source="drivers/iommu/iommu.c group->mutex")

    @staticmethod
    def alone(function: Term, pasid: Term) -> Formula:
        """No other device is in the group's set at a PASID."""
        other = and_(ATTACHED(_Y, pasid), _mates(_Y, function))
        return forall((_Y,), implies(other, Eq(_Y, function)))

    # -- guards -----------------------------------------------------------------------------

    @staticmethod
    @rule("iommufd.attach.not-twice", _ATTACH, "A device attaches once at a PASID: -EBUSY.")
    def not_attached(pasid: Term) -> Guard:
        """The device is not in the set at a PASID."""
        return Guard("not-attached", not_(ATTACHED(F, pasid)), "-EBUSY", _ATTACH)

    @rule("iommufd.attach.follow-the-first", _ATTACH,
          "A group has one hwpt at a PASID; another one is refused with -EINVAL.")
    def follows(self, pasid: Term) -> Guard:
        """The group has no other hwpt at a PASID."""
        other: Formula = CORE(_group(F), pasid, _Z)
        if self.o.object == "device":
            other = and_(other, ATTACHED(F, pasid))
        return Guard("follows-the-first", forall((_Z,), implies(other, Eq(_Z, H))), "-EINVAL",
                     _ATTACH)

    @staticmethod
    @rule("iommufd.attach.reserved-regions", f"{_ATTACH} (RID only)",
          "The maps of the IOAS must leave the device's reserved regions free: -EINVAL.")
    def free_of_reserved() -> Guard:
        """The hwpt maps none of the device's reserved regions."""
        return Guard("reserved-regions-free", not_(RESERVED(H, F)), "-EINVAL", _ATTACH)

    @staticmethod
    @rule("iommufd.attach.pasid-compatible",
          "drivers/iommu/iommufd/device.c iommufd_hwpt_pasid_compat",
          "PASIDs need hwpts made for them, for the PASID and for the RID: -EINVAL.")
    def compatible(pasid: Term) -> list[Guard]:
        """The hwpts of the RID and of PASIDs suit each other."""
        where = "drivers/iommu/iommufd/device.c iommufd_hwpt_pasid_compat"
        if pasid == NO_PASID:
            used = forall((_X, _Q), implies(
                and_(ATTACHED(_X, _Q), _mates(_X, F)), Eq(_Q, NO_PASID)))
            return [Guard("compatible-or-no-pasids", or_(COMPAT(H), used), "-EINVAL", where)]
        rid = forall((_Z,), implies(CORE(_group(F), NO_PASID, _Z), COMPAT(_Z)))
        return [Guard("hwpt-is-compatible", COMPAT(H), "-EINVAL", where),
                Guard("rid-hwpt-is-compatible", rid, "-EINVAL", where)]

    @rule("linux.attach-pasid.width", _CORE,
          "The PASID is below max_pasids of every member that has PASIDs: -EINVAL.")
    def fits(self) -> Guard:
        """The PASID is below the width of the members that count."""
        asked = and_(_mates(_X, F), self.present(_X))
        if not self.o.counts_incapable:
            asked = and_(asked, CAPABLE(_X))
        return Guard("pasid-fits", forall((_X,), implies(asked, FITS(_X, P))), "-EINVAL", _CORE)

    @staticmethod
    @rule("linux.attach-pasid.zero", _CORE, "PASID 0 is the RID's own: -EINVAL.")
    def not_zero() -> Guard:
        """The PASID is not the RID's."""
        return Guard("pasid-is-not-0", ne(P, NO_PASID), "-EINVAL", _CORE)

    @staticmethod
    @rule("linux.attach-pasid.in-use", _CORE, "The PASID is unused in the whole group: -EBUSY.")
    def unused() -> Guard:
        """The group has nothing at the PASID."""
        return Guard("pasid-unused-in-group",
                     forall((_Z,), not_(CORE(_group(F), P, _Z))), "-EBUSY", _CORE)

    # -- updates ----------------------------------------------------------------------------

    @staticmethod
    def wish(pasid: Term) -> list[Update]:
        """A call of the user for f: it asks for h there."""
        return [insert(GRANT, F, pasid, H), insert(GGRANT, _group(F), pasid, H),
                delete(DETACHED, F, pasid)]

    def unwish(self, pasid: Term) -> list[Update]:
        """The user detaches f: what nobody else in the group asks for is not asked for."""
        if self.o.object == "device":
            others = and_(GRANT(_Y, pasid, _Z), _mates(_Y, F))
            last = forall((_Y,), implies(others, Eq(_Y, F)))
        else:
            last = self.alone(F, pasid)
        return [
            delete_where(GRANT, (_X, _Q, _Z), and_(Eq(_X, F), Eq(_Q, pasid))),
            delete_where(GGRANT, (_G, _Q, _Z), and_(Eq(_G, _group(F)), Eq(_Q, pasid), last)),
        ]

    def failed(self) -> list[Update]:
        """The attach of f at P that is under way returns an error."""
        if self.o.object == "device":
            others = and_(GRANT(_Y, P, H), _mates(_Y, F))
            only = forall((_Y,), implies(others, Eq(_Y, F)))
        else:
            only = Eq(F, F)  # the first of the group: nobody else asked
        return [delete(GRANT, F, P, H), delete(GGRANT, _group(F), P, H, when=only),
                *self.unlock()]

    @staticmethod
    def unlock() -> list[Update]:
        """The attach that is under way returns."""
        return [delete(ATTACHING, F, P, H), delete(LOCKED, _group(F), P, H)]

    def program(self, pasid: Term, members: Formula) -> Update:
        """Set the entries of some members (of the variable _X).

        Without a rollback one may be left over from an attach that failed: it is written over.
        """
        here = and_(members, Eq(_Q, pasid))
        return Update(ENTRY, (_X, _Q, _Z), insert=and_(here, Eq(_Z, H)),
                      delete=FALSE if self.o.rollback else here)

    def clear(self, pasid: Term) -> list[Update]:
        """Detach: the last device of the set blocks every member (its own entries, if each)."""
        last = self.alone(F, pasid)
        entries = Eq(_X, F) if self.o.object == "device" else and_(_mates(_X, F), last)
        return [
            delete_where(ENTRY, (_X, _Q, _Z), and_(entries, Eq(_Q, pasid))),
            delete_where(CORE, (_G, _Q, _Z), and_(Eq(_G, _group(F)), Eq(_Q, pasid), last)),
        ]


def _rid_calls(r: Rules) -> list[Action]:
    zero = NO_PASID
    here = Guard("function-present", r.present(F), "-ENODEV")
    attach = action(
        "attach_rid", (F, H),
        [here, r.unlocked(F), r.not_attached(zero), r.follows(zero), r.free_of_reserved(),
         *r.compatible(zero)],
        [*r.wish(zero), insert(ATTACHED, F, zero), insert(WANTED, F, zero),
         insert(CORE, _group(F), zero, H), r.program(zero, r.serves(F, _X))],
        Actor.USER, "The user attaches {f} to {h}",
    )
    detach = action(
        "detach_rid", (F,), [r.unlocked(F), Guard("attached", ATTACHED(F, zero))],
        [*r.unwish(zero), insert(DETACHED, F, zero), delete(ATTACHED, F, zero),
         delete(WANTED, F, zero), *r.clear(zero)],
        Actor.USER, "The user detaches {f}",
    )
    return [attach, detach]


def _pasid_calls(r: Rules) -> list[Action]:
    o = r.o
    here = Guard("function-present", r.present(F), "-ENODEV")
    capable = Guard("function-has-pasids", CAPABLE(F), "-EOPNOTSUPP", _CORE)
    order = [here, r.unlocked(F), r.not_attached(P), r.not_zero(), capable, r.follows(P)]
    if o.reserved_for_pasid:
        order.append(r.free_of_reserved())
    order += r.compatible(P)
    first = Guard("first-of-the-group", forall((_Z,), not_(CORE(_group(F), P, _Z))))
    joins = Guard("joins-the-group", CORE(_group(F), P, H))
    running = Guard("next-step", ATTACHING(F, P, H))
    member = and_(r.serves(F, M), CAPABLE(M))
    seen = forall((_X,), implies(and_(r.serves(F, _X), CAPABLE(_X)), ENTRY(_X, P, H)))
    undone = [delete_where(ENTRY, (_X, _Q, _Z), and_(r.serves(F, _X), Eq(_Q, P), Eq(_Z, H)))]
    done = [*r.unlock(), insert(ATTACHED, F, P), insert(WANTED, F, P)]
    acts = [
        action("attach_pasid.enter", (F, P, H), [*order, r.fits(), first],
               [*r.wish(P), insert(ATTACHING, F, P, H), insert(LOCKED, _group(F), P, H)],
               Actor.USER, "The user attaches {f}, PASID {p}, to {h}"),
        action("attach_pasid.visit", (F, P, H, M),
               [running, Guard("member-with-pasids", member),
                Guard("not-visited", not_(ENTRY(M, P, H)))],
               [insert(ENTRY, M, P, H) if o.rollback else r.program(P, Eq(_X, M))], Actor.KERNEL,
               "The call programs {m}, PASID {p}, with {h}"),
        action("attach_pasid.return", (F, P, H), [running, Guard("all-visited", seen)],
               [*done, insert(CORE, _group(F), P, H)], Actor.KERNEL,
               "The attach of {f}, PASID {p}, returns"),
        action("attach_pasid.fail", (F, P, H, M),
               [running, Guard("member-with-pasids", member),
                Guard("not-visited", not_(ENTRY(M, P, H)))],
               [*r.failed(), *(undone if o.rollback else [])],
               Actor.KERNEL, "The driver fails at {m}, and the attach of {f}, PASID {p}, "
               "returns an error"),
    ]
    if o.object == "group":
        acts.append(action("attach_pasid.join", (F, P, H), [*order, joins],
                           [*r.wish(P), insert(ATTACHED, F, P), insert(WANTED, F, P)], Actor.USER,
                           "The user attaches {f}, PASID {p}, to {h}: {f} joins its group"))
    acts.append(action(
        "detach_pasid", (F, P),
        [r.unlocked(F), Guard("pasid-is-not-0", ne(P, NO_PASID)),
         Guard("attached", ATTACHED(F, P))],
        [*r.unwish(P), insert(DETACHED, F, P), delete(ATTACHED, F, P), delete(WANTED, F, P),
         *r.clear(P)],
        Actor.USER, "The user detaches {f}, PASID {p}"))
    acts.append(action(
        "core_attach_pasid", (F, P, H),
        [here, r.unlocked(F), r.not_zero(), r.fits(), r.unused(), Guard("compatible", COMPAT(H)),
         *([r.free_of_reserved()] if o.reserved_for_pasid else [])],
        [*r.wish(P), insert(ATTACHED, F, P), insert(WANTED, F, P),
         insert(CORE, _group(F), P, H), r.program(P, and_(r.serves(F, _X), CAPABLE(_X)))],
        Actor.USER, "A driver in the kernel attaches {f}, PASID {p}, to {h}"))
    acts.append(_copy_back(r))
    return acts


@rule("vfio.attach-pt.copy-back", "drivers/vfio/device_cdev.c vfio_df_ioctl_attach_pt",
      "A result that cannot be copied to the user undoes the attach and returns -EFAULT.")
def _copy_back(r: Rules) -> Action:
    """The end of a PASID attach whose user pointer faults: -EFAULT, whatever was undone."""
    running = Guard("next-step", ATTACHING(F, P, H))
    seen = forall((_X,), implies(and_(r.serves(F, _X), CAPABLE(_X)), ENTRY(_X, P, H)))
    updates = r.failed()
    if r.o.unwind == "pasid":
        updates += [delete_where(ENTRY, (_X, _Q, _Z),
                                 and_(r.serves(F, _X), Eq(_Q, P), Eq(_Z, H)))]
    else:
        updates += [insert(ATTACHED, F, P), insert(CORE, _group(F), P, H),
                    delete(ATTACHED, F, NO_PASID), *r.clear(NO_PASID)]
    return action("attach_pasid.fault", (F, P, H), [running, Guard("all-visited", seen)], updates,
                  Actor.KERNEL, "The result cannot be copied to the user: the attach of {f}, "
                  "PASID {p}, returns -EFAULT")


@rule("iommufd.replace", "drivers/iommu/iommufd/device.c iommufd_device_do_replace",
      "Replace moves the whole group to another hwpt; a device that is not attached: -EINVAL.")
def _replace(r: Rules) -> Action:
    attached = Guard("attached", ATTACHED(F, P), "-EINVAL",
                     "drivers/iommu/iommufd/device.c iommufd_device_do_replace")
    # The RID's hwpt must suit PASIDs in use, and a PASID's must be made for PASIDs.
    others = forall((_X, _Q), implies(
        and_(ATTACHED(_X, _Q), _mates(_X, F)), Eq(_Q, NO_PASID)))
    fine = Guard("compatible", or_(COMPAT(H), and_(Eq(P, NO_PASID), others)), "-EINVAL",
                 "drivers/iommu/iommufd/device.c iommufd_hwpt_pasid_compat")
    whose = r.serves(F, _X)
    sees = or_(Eq(P, NO_PASID), CAPABLE(_X))
    guards = [r.unlocked(F), attached, fine]
    conflict = exists((_Y,), and_(ATTACHED(_Y, P), _mates(_Y, F), RESERVED(H, _Y)))
    asked = not_(conflict) if r.o.reserved_for_pasid else or_(ne(P, NO_PASID), not_(conflict))
    guards.append(Guard("reserved-regions-free", asked, "-EINVAL",
                        "drivers/iommu/iommufd/device.c iommufd_group_do_replace_reserved_iova"))
    here = and_(Eq(_G, _group(F)), Eq(_Q, P))
    return action(
        "replace", (F, P, H), guards,
        [Update(GRANT, (_X, _Q, _Z), insert=and_(Eq(_X, F), Eq(_Q, P), Eq(_Z, H)),
                delete=and_(Eq(_X, F), Eq(_Q, P))),
         Update(GGRANT, (_G, _Q, _Z), insert=and_(here, Eq(_Z, H)), delete=here),
         Update(ENTRY, (_X, _Q, _Z), insert=and_(whose, sees, Eq(_Q, P), Eq(_Z, H)),
                delete=and_(whose, Eq(_Q, P))),
         Update(CORE, (_G, _Q, _Z), insert=and_(here, Eq(_Z, H)), delete=here)],
        Actor.USER, "The user replaces what {f}, PASID {p}, is attached to by {h}",
    )


@rule("linux.probe.hot-add", "drivers/iommu/iommu.c __iommu_probe_device",
      "A function that appears is attached to its group's RID domain; PASIDs are not replayed.")
def _hot_add(r: Rules) -> Action:
    which = or_(Eq(_Q, NO_PASID), CAPABLE(F)) if r.o.replays_pasids else Eq(_Q, NO_PASID)
    gets = and_(Eq(_X, F), which, CORE(_group(F), _Q, _Z))
    return action(
        "hot_add", (F,), [Guard("absent", not_(PRESENT(F))), r.unlocked(F)],
        [insert(PRESENT, F), insert_where(ENTRY, (_X, _Q, _Z), gets)],
        Actor.PLATFORM, "{f} is plugged in",
    )


def build(options: AttachOptions) -> Scenario:
    """The system under some options."""
    r = Rules(options)
    acts = [*_rid_calls(r), *_pasid_calls(r)]
    if options.object == "group":
        acts.append(_replace(r))
    calls = Module(
        "interface", fns=(GROUP_OF, NO_PASID.fn),
        rels=(CAPABLE, FITS, COMPAT, RESERVED, ATTACHED, CORE, ENTRY, ATTACHING, LOCKED,
              GRANT, GGRANT, DETACHED, WANTED),
        axioms={"no-pasids-fit-none": forall(
            (_X, _Q), implies(and_(FITS(_X, _Q), ne(_Q, NO_PASID)), CAPABLE(_X)))},
        actions=tuple(acts),
    )
    modules = [calls]
    if options.hot_add:
        modules.append(Module("lifecycle", rels=(PRESENT, BOOT), actions=(_hot_add(r),),
                              initial={PRESENT: ((_X,), BOOT(_X))}))
    system = compose("pasid-attach", *modules)
    found = [*_isolation(r), *refusals(r, system)]
    return Scenario(
        system, {c.id: c for c in found}, _worlds(options),
        frames=((F, P, H, _group(F)), (_G, P, H, _W)),
        invariants=_by_hand(r), size=2,
    )


def _isolation(r: Rules) -> list[Claim]:
    uniform = forall((_X, M, _Q, _Z), implies(
        and_(ENTRY(_X, _Q, _Z), _mates(_X, M), CAPABLE(M), r.present(M),
             not_(LOCKED(_group(_X), _Q, _Z))),
        ENTRY(M, _Q, _Z)))
    return [
        always("device-isolation", "what a function reaches was attached for that function",
               forall((_X, _Q, _Z), implies(ENTRY(_X, _Q, _Z), GRANT(_X, _Q, _Z))),
               "{x}, PASID {q}, reaches {z}, which was never attached for it"),
        always("group-isolation", "what a function reaches was attached for a member of its group",
               forall((_X, _Q, _Z), implies(
                   ENTRY(_X, _Q, _Z), GGRANT(_group(_X), _Q, _Z))),
               "{x}, PASID {q}, reaches {z}, which nobody in its group has attached"),
        always("attached-means-own", "an attached device reaches what a call named for itself",
               forall((_X, _Q, _Z), implies(
                   and_(ATTACHED(_X, _Q), ENTRY(_X, _Q, _Z)), GRANT(_X, _Q, _Z))),
               "{x}, attached at PASID {q}, reaches {z}, which only a call for a sibling named"),
        always("one-hwpt", "a function has one hwpt at a PASID",
               forall((_X, _Q, _Z, _W), implies(
                   and_(ENTRY(_X, _Q, _Z), ENTRY(_X, _Q, _W)), Eq(_Z, _W))),
               "{x} has both {z} and {w} at PASID {q}"),
        always("attached-translates", "an attached device has the entry of its group",
               forall((_X, _Q, _Z), implies(
                   and_(ATTACHED(_X, _Q), CORE(_group(_X), _Q, _Z), CAPABLE(_X), r.present(_X)),
                   ENTRY(_X, _Q, _Z))),
               "{x} is attached at PASID {q}, and its entry for {z} is gone"),
        always("uniform", "members with PASIDs have the same entries when no call is running",
               uniform, "{x} has {z} at PASID {q}, and {m}, in the same group, has not"),
        always("detach-blocks-caller", "a device that was detached does not translate",
               forall((_X, _Q, _Z), not_(and_(DETACHED(_X, _Q), ENTRY(_X, _Q, _Z)))),
               "{x} was detached at PASID {q} and still reaches {z}"),
        always("no-silent-detach", "what was attached with success stays until the user detaches",
               forall((_X, _Q), implies(WANTED(_X, _Q), ATTACHED(_X, _Q))),
               "{x} is not attached at PASID {q} any more, and no call said so"),
        always("reserved-regions", "no entry leads to a table that maps a reserved region of the "
               "function named",
               forall((_X, _Q, _Z), not_(and_(
                   ENTRY(_X, _Q, _Z), ATTACHED(_X, _Q), RESERVED(_Z, _X)))),
               "{x}, PASID {q}, translates through {z}, which maps a reserved region"),
        always("rid-sees-rid-domain", "requests without PASID see the RID's hwpt alone",
               forall((_X, _Z), implies(
                   ENTRY(_X, NO_PASID, _Z), CORE(_group(_X), NO_PASID, _Z))),
               "{x} reaches {z} without PASID, which is not its group's RID hwpt"),
        can("can-attach-pasid", "a function gets a PASID",
            exists((_X, _Q, _Z), and_(ne(_Q, NO_PASID), ATTACHED(_X, _Q), ENTRY(_X, _Q, _Z)))),
        can("can-pasid-while-rid-blocked", "a PASID translates while the RID is blocked",
            exists((_X, _Q, _Z), and_(
                ne(_Q, NO_PASID), ATTACHED(_X, _Q), ENTRY(_X, _Q, _Z),
                forall((_W,), not_(ENTRY(_X, NO_PASID, _W)))))),
        can("can-reach-unattached", "a member that was never attached translates (K1)",
            exists((_X, _Q, _Z), and_(ENTRY(_X, _Q, _Z), not_(ATTACHED(_X, _Q)),
                                      not_(DETACHED(_X, _Q)),
                                      not_(LOCKED(_group(_X), _Q, _Z))))),
        can("can-attach-beside-incapable", "a PASID is attached in a group with a member that has "
            "none",
            exists((_X, _Y, _Q, _Z), and_(
                ne(_Q, NO_PASID), ATTACHED(_X, _Q), ENTRY(_X, _Q, _Z), _mates(_X, _Y),
                not_(CAPABLE(_Y))))),
    ]


def refusals(r: Rules, system: System) -> list[Claim]:
    """The errno rows, read off the guards of the system's calls."""
    pasid, rid = system.action("attach_pasid.enter"), system.action("attach_rid")
    free = and_(r.present(F), forall((_Q, _Z), not_(LOCKED(_group(F), _Q, _Z))))
    other = exists((_Z,), and_(CORE(_group(F), P, _Z), ne(_Z, H)))
    new = and_(free, not_(ATTACHED(F, P)), ne(P, NO_PASID), CAPABLE(F))
    empty = forall((_Z,), not_(CORE(_group(F), P, _Z)))
    claims = [
        refused("errno-pasid-0", "PASID 0 is refused", pasid,
                and_(free, not_(ATTACHED(F, P)), Eq(P, NO_PASID)), "-EINVAL"),
        refused("errno-attach-twice", "a second attach of a device at a PASID is refused", pasid,
                and_(free, ATTACHED(F, P)), "-EBUSY"),
        refused("errno-not-compatible", "an hwpt without ALLOC_PASID, such as an IOAS's auto "
                "domain, is refused for PASIDs", pasid,
                and_(new, empty, not_(COMPAT(H)),
                     *([not_(RESERVED(H, F))] if r.o.reserved_for_pasid else [])), "-EINVAL"),
        refused("errno-rid-not-compatible", "the RID cannot move to an hwpt without ALLOC_PASID "
                "while a PASID is attached", rid,
                and_(free, not_(ATTACHED(F, NO_PASID)), not_(COMPAT(H)), not_(RESERVED(H, F)),
                     forall((_Z,), not_(CORE(_group(F), NO_PASID, _Z))),
                     exists((_X, _Q), and_(ATTACHED(_X, _Q), _mates(_X, F), ne(_Q, NO_PASID)))),
                "-EINVAL"),
        refused("errno-width", "a PASID beyond the width of a member with PASIDs is refused",
                pasid,
                and_(new, empty, COMPAT(H), forall((_Z,), not_(CORE(_group(F), NO_PASID, _Z))),
                     *([not_(RESERVED(H, F))] if r.o.reserved_for_pasid else []),
                     exists((_X,), and_(_mates(_X, F), r.present(_X), CAPABLE(_X),
                                        not_(FITS(_X, P))))), "-EINVAL"),
        refused("errno-reserved", "an IOAS that maps a reserved region is refused for the RID",
                rid, and_(free, not_(ATTACHED(F, NO_PASID)), RESERVED(H, F)), "-EINVAL"),
    ]
    core = system.action("core_attach_pasid")
    claims.append(refused(
        "errno-core-in-use", "the core refuses a PASID that anyone in the group uses", core,
        and_(free, ne(P, NO_PASID), not_(empty), forall((_X,), implies(
            _mates(_X, F), and_(CAPABLE(_X), FITS(_X, P))))), "-EBUSY"))
    if r.o.object == "group":
        claims.append(refused(
            "errno-follow-the-first", "another hwpt at a PASID that the group has is refused",
            pasid, and_(new, other), "-EINVAL"))
    return claims


def _by_hand(r: Rules) -> tuple[Formula, ...]:
    """Clauses beyond what inference proposes: what a group has, each member with PASIDs has."""
    locked, has = LOCKED(_group(_X), _Q, _Z), CORE(_group(_X), _Q, _Z)
    fits = or_(FITS(_X, _Q), Eq(_Q, NO_PASID))
    return (
        forall((_X, _Q, _Z), implies(and_(has, CAPABLE(_X), r.present(_X)), ENTRY(_X, _Q, _Z))),
        forall((_X, _Q, _Z), implies(and_(has, ATTACHED(_X, _Q)), not_(RESERVED(_Z, _X)))),
        forall((_X, _Q), implies(ATTACHED(_X, _Q), exists((_Z,), has))),
        forall((_X, _Q, _Z), implies(and_(has, r.present(_X)), fits)),
        forall((_X, _Q, _Z), implies(and_(locked, r.present(_X)), FITS(_X, _Q))),
        forall((_X, _Q, _Z), implies(ENTRY(_X, _Q, _Z),
                                     or_(CORE(_group(_X), _Q, _Z), locked))),
        forall((_G, _Q, _Z, P, _W), implies(
            and_(LOCKED(_G, _Q, _Z), LOCKED(_G, P, _W)), and_(Eq(_Q, P), Eq(_Z, _W)))),
        forall((_G, _Z), not_(LOCKED(_G, NO_PASID, _Z))),
        forall((_X, _Q, _Z), implies(ATTACHING(_X, _Q, _Z), locked)),
        forall((_X, _Y, _Q, _Z), implies(
            and_(ATTACHING(_X, _Q, _Z), ATTACHING(_Y, _Q, _Z), _mates(_X, _Y)), Eq(_X, _Y))),
    )


def _worlds(options: AttachOptions) -> tuple[Instance, ...]:
    """Two functions with PASIDs in one group; one of them beside a function without."""
    def world(groups: tuple[int, ...], capable: tuple[int, ...], fits: bool) -> Instance:
        names = ("A", "B", "D")[: len(groups)]
        pasids = ("no PASID", "p1", "p2") if not fits else ("no PASID", "p1")
        hwpts = ("H1", "H2", "auto")
        wide = {(f, q) for f in capable for q in (0, 1)}
        facts = {
            CAPABLE: frozenset((f,) for f in capable),
            FITS: frozenset(wide | {(f, 0) for f in range(len(names))}
                            | ({(capable[0], 2)} if not fits else set())),
            COMPAT: frozenset({(0,), (1,)}),
            RESERVED: frozenset({(1, 0)}),
        }
        if options.hot_add:
            facts[BOOT] = frozenset((f,) for f in range(len(names) - 1))
        return Instance(
            {FUNCTION: names, GROUP: tuple(f"g{i}" for i in range(max(groups) + 1)),
             PASID: pasids, HWPT: hwpts},
            {GROUP_OF: {(i,): g for i, g in enumerate(groups)}, NO_PASID.fn: {(): 0}}, facts)

    return world((0, 0), (0, 1), True), world((0, 0), (0,), True), world((0, 0), (0, 1), False)


FAMILY = Family("pasid-attach", "attach, replace and detach by RID and by PASID (iommufd, 7.0)",
                AttachOptions, build)
