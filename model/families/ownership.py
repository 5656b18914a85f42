"""Who owns a group's DMA: VFIO's group and container, iommufd's contexts, kernel drivers.

A group belongs to one context (a container or an iommufd context) or to kernel drivers, never to
two of them. Opening through the group and through a device's own file exclude each other.
"""

from __future__ import annotations

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Action,
    Actor,
    Guard,
    Module,
    System,
    action,
    compose,
    delete,
    delete_where,
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
    Fn,
    Formula,
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
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can, refused
from dmaproof.model.vfio.vocabulary import FUNCTION, GROUP

CONTEXT = Sort("Context")  # a container with its IOMMU set, or an iommufd context

GROUP_OF = Fn("group", (FUNCTION,), GROUP)
F, G, C = Var("f", FUNCTION), Var("g", GROUP), Var("c", CONTEXT)
_X, _Y, _G, _C, _D = (
    Var("x", FUNCTION), Var("y", FUNCTION), Var("grp", GROUP), Var("ctx", CONTEXT),
    Var("other", CONTEXT),
)

GROUP_FILE = Rel("group_file_open", (GROUP,))
DEVICE_FILE = Rel("device_file_open", (FUNCTION,))
CONTAINER = Rel("container_of", (GROUP, CONTEXT))
BOUND = Rel("bound_to", (FUNCTION, CONTEXT))  # VFIO_DEVICE_BIND_IOMMUFD
OWNER = Rel("dma_owner", (GROUP, CONTEXT))
KERNEL = Rel("kernel_driver", (FUNCTION,))  # one that does DMA through the DMA API

_VFIO = "drivers/vfio/group.c"
_CDEV = "drivers/vfio/device_cdev.c"
_CORE = "drivers/iommu/iommu.c"


class OwnershipOptions(Options):
    """What differs between kernels.

    Attributes:
        claims_group: a context owns the whole group, not the device it names.
        probe_checks_owner: a kernel driver cannot be bound while the group is owned.
        viable: a context cannot own a group while a kernel driver does DMA in it.
    """

    claims_group: StrictBool = True
    probe_checks_owner: StrictBool = True
    viable: StrictBool = True


def _mate(function: Term, group: Term) -> Formula:
    return Eq(GROUP_OF(function), group)


@rule("linux.dma-owner.claim", f"{_CORE} iommu_group_claim_dma_owner, iommu_device_claim_dma_owner",
      "A group with a kernel driver's DMA, or owned by another context, is refused with -EPERM.")
def _claimable(group: Term, options: OwnershipOptions) -> list[Guard]:
    guards = []
    if options.viable:
        driven = and_(KERNEL(_X), _mate(_X, group))
        guards.append(Guard("no-kernel-driver", forall((_X,), not_(driven)), "-EPERM",
                            f"{_CORE} iommu_group_claim_dma_owner"))
    if options.claims_group:
        foreign = and_(OWNER(group, _C), ne(_C, C))
        guards.append(Guard("no-other-owner", forall((_C,), not_(foreign)), "-EPERM",
                            f"{_CORE} iommu_device_claim_dma_owner"))
    return guards


def _files() -> list[Action]:
    own = _mate(_X, G)
    return [
        action("open_group", (G,), [
            Guard("group-not-open", not_(GROUP_FILE(G)), "-EBUSY", f"{_VFIO} vfio_group_fops_open"),
            Guard("no-device-file-open", forall((_X,), not_(and_(own, DEVICE_FILE(_X)))),
                  "-EBUSY", f"{_VFIO} vfio_group_fops_open")],
            [insert(GROUP_FILE, G)], Actor.USER, "The user opens {g}"),
        action("close_group", (G,), [
            Guard("open", GROUP_FILE(G)),
            Guard("no-container", forall((_C,), not_(CONTAINER(G, _C))))],
            [delete(GROUP_FILE, G)], Actor.USER, "The user closes {g}"),
        action("open_device", (F,), [
            Guard("device-not-open", not_(DEVICE_FILE(F))),
            Guard("group-not-open", not_(GROUP_FILE(GROUP_OF(F))), "-EBUSY",
                  f"{_CDEV} vfio_device_fops_cdev_open")],
            [insert(DEVICE_FILE, F)], Actor.USER, "The user opens {f}"),
    ]


def _containers(options: OwnershipOptions) -> list[Action]:
    return [
        action("set_container", (G, C), [
            Guard("group-open", GROUP_FILE(G)),
            Guard("not-in-a-container", forall((_C,), not_(CONTAINER(G, _C))), "-EINVAL",
                  f"{_VFIO} vfio_group_ioctl_set_container"),
            *_claimable(G, options)],
            [insert(CONTAINER, G, C), insert(OWNER, G, C)], Actor.USER,
            "The user puts {g} into {c}"),
        action("unset_container", (G, C), [
            Guard("in-a-container", CONTAINER(G, C), "-EINVAL",
                  f"{_VFIO} vfio_group_ioctl_unset_container")],
            [delete(CONTAINER, G, C), delete(OWNER, G, C)], Actor.USER,
            "The user takes {g} out of {c}"),
    ]


def _contexts(options: OwnershipOptions) -> list[Action]:
    mates = and_(_mate(_X, GROUP_OF(F)), BOUND(_X, C))
    last = forall((_X,), implies(mates, Eq(_X, F)))
    return [
        action("bind_iommufd", (F, C), [
            Guard("opened-by-itself", DEVICE_FILE(F), "-EINVAL", f"{_CDEV} bind"),
            Guard("not-bound", forall((_C,), not_(BOUND(F, _C))), "-EINVAL", f"{_CDEV} bind"),
            *_claimable(GROUP_OF(F), options)],
            [insert(BOUND, F, C), insert(OWNER, GROUP_OF(F), C)], Actor.USER,
            "The user binds {f} to {c}"),
        action("close_device", (F, C), [
            Guard("bound", BOUND(F, C))],
            [delete(BOUND, F, C), delete(DEVICE_FILE, F),
             delete_where(OWNER, (_G, _C), and_(Eq(_G, GROUP_OF(F)), Eq(_C, C), last))],
            Actor.USER, "The user closes {f}, which is bound to {c}"),
    ]


@rule("linux.dma-owner.driver", f"{_CORE} iommu_device_use_default_domain",
      "While a context owns a group no driver that does DMA through the DMA API binds in it.")
def _drivers(options: OwnershipOptions) -> list[Action]:
    guards = [Guard("no-driver", not_(KERNEL(F)))]
    if options.probe_checks_owner:
        guards.append(Guard("group-not-owned", forall((_C,), not_(OWNER(GROUP_OF(F), _C))),
                            "-EBUSY", f"{_CORE} iommu_device_use_default_domain"))
    return [
        action("probe", (F,), guards, [insert(KERNEL, F)], Actor.PLATFORM,
               "A kernel driver is bound to {f}"),
        action("remove", (F,), [Guard("driver", KERNEL(F))], [delete(KERNEL, F)], Actor.PLATFORM,
               "The kernel driver of {f} is unbound"),
    ]


def build(options: OwnershipOptions) -> Scenario:
    """The system under some options."""
    acts = [*_files(), *_containers(options), *_contexts(options), *_drivers(options)]
    module = Module("ownership", fns=(GROUP_OF,), actions=tuple(acts),
                    rels=(GROUP_FILE, DEVICE_FILE, CONTAINER, BOUND, OWNER, KERNEL))
    system = compose("ownership", module)
    claims = [*_claims(), *refusals(system, options)]
    names = {FUNCTION: ("A", "B"), CONTEXT: ("C1", "C2")}
    worlds = tuple(
        Instance({**names, GROUP: tuple(f"g{i}" for i in range(max(groups) + 1))},
                 {GROUP_OF: {(i,): g for i, g in enumerate(groups)}}, {})
        for groups in ((0, 0), (0, 1)))
    uses = forall((_X, _C), implies(BOUND(_X, _C), OWNER(GROUP_OF(_X), _C)))
    return Scenario(system, {c.id: c for c in claims}, worlds,
                    frames=((F, GROUP_OF(F), C), (G, C, _D)), invariants=(uses,), size=2)


def _claims() -> list[Claim]:
    used = and_(BOUND(_X, _C), BOUND(_Y, _D), Eq(GROUP_OF(_X), GROUP_OF(_Y)))
    return [
        always("one-container", "a group is in one container",
               forall((_G, _C, _D), implies(
                   and_(CONTAINER(_G, _C), CONTAINER(_G, _D)), Eq(_C, _D))),
               "{grp} is in {ctx} and in {other}"),
        always("one-context", "the members of a group are bound to one context",
               forall((_X, _Y, _C, _D), implies(used, Eq(_C, _D))),
               "{x} is bound to {ctx} and {y}, of the same group, to {other}"),
        always("one-owner", "a group has one owner",
               forall((_G, _C, _D), implies(and_(OWNER(_G, _C), OWNER(_G, _D)), Eq(_C, _D))),
               "{grp} is owned by {ctx} and by {other}"),
        always("no-kernel-dma-beside-a-user", "no kernel driver does DMA in an owned group",
               forall((_X, _C), not_(and_(KERNEL(_X), OWNER(GROUP_OF(_X), _C)))),
               "a kernel driver does DMA with {x}, in a group that {ctx} owns"),
        can("can-own", "a context owns a group through its devices",
            exists((_X, _Y, _C), and_(ne(_X, _Y), BOUND(_X, _C), BOUND(_Y, _C),
                                      Eq(GROUP_OF(_X), GROUP_OF(_Y))))),
        can("can-split-a-container", "two groups are in two containers",
            exists((_G, G, _C, _D), and_(ne(_C, _D), CONTAINER(_G, _C), CONTAINER(G, _D)))),
    ]


def refusals(system: System, options: OwnershipOptions) -> list[Claim]:
    """The errno rows, read off the guards of the system's calls."""
    foreign = exists((_C,), and_(OWNER(GROUP_OF(F), _C), ne(_C, C)))
    driven = exists((_X,), and_(KERNEL(_X), _mate(_X, GROUP_OF(F))))
    fresh = and_(DEVICE_FILE(F), forall((_C,), not_(BOUND(F, _C))))
    act = system.action
    found = [
        refused("errno-open-twice", "a second open of a group is refused", act("open_group"),
                GROUP_FILE(G), "-EBUSY"),
        refused("errno-open-beside-device", "a group is not opened beside a member's own file",
                act("open_group"), exists((_X,), and_(_mate(_X, G), DEVICE_FILE(_X))), "-EBUSY"),
        refused("errno-open-beside-group", "a device is not opened beside its group's file",
                act("open_device"), and_(GROUP_FILE(GROUP_OF(F)), not_(DEVICE_FILE(F))), "-EBUSY"),
        refused("errno-container-twice", "a group cannot be put into a second container",
                act("set_container"),
                and_(GROUP_FILE(G), exists((_C,), CONTAINER(G, _C))), "-EINVAL"),
        refused("errno-bind-twice", "a bound device is not bound again", act("bind_iommufd"),
                and_(DEVICE_FILE(F), exists((_C,), BOUND(F, _C))), "-EINVAL"),
    ]
    if options.claims_group:
        found.append(refused(
            "errno-foreign-sibling", "another context cannot claim a sibling",
            act("bind_iommufd"), and_(fresh, foreign), "-EPERM"))
    if options.viable:
        found.append(refused(
            "errno-not-viable", "a group in which a kernel driver does DMA cannot be claimed",
            act("bind_iommufd"), and_(fresh, driven), "-EPERM"))
    if options.probe_checks_owner:
        found.append(refused(
            "errno-probe-owned", "no kernel driver binds in an owned group", act("probe"),
            and_(not_(KERNEL(F)), exists((_C,), OWNER(GROUP_OF(F), _C))), "-EBUSY"))
    return found


FAMILY = Family("ownership", "who owns a group's DMA: containers, contexts, kernel drivers",
                OwnershipOptions, build)
