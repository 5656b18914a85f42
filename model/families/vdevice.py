"""vIOMMU and vDEVICE of iommufd: a guest's invalidation reaches its own device, all of it.

A vDEVICE ties a device to the id under which a guest's IOMMU knows it. The guest's invalidation
names that id; the kernel has to flush every stream or requester id of that device and none of
another's.
"""

from __future__ import annotations

from pydantic import StrictBool

from dmaproof.model.logic.sets import Instance
from dmaproof.model.logic.system import (
    Actor,
    Guard,
    Module,
    System,
    action,
    compose,
    delete,
    delete_where,
    insert,
    insert_where,
)
from dmaproof.model.logic.terms import (
    Eq,
    Kind,
    Rel,
    Sort,
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
from dmaproof.model.vfio.vocabulary import FUNCTION, RID

VIOMMU, VIRT = Sort("Viommu"), Sort("VirtualId")
F, V, I, R = Var("f", FUNCTION), Var("v", VIOMMU), Var("i", VIRT), Var("r", RID)  # noqa: E741
_X, _V, _W, _I, _J, _R = (
    Var("x", FUNCTION), Var("v1", VIOMMU), Var("w1", VIOMMU), Var("i1", VIRT), Var("j1", VIRT),
    Var("r1", RID),
)

OWNS = Rel("owns_id", (FUNCTION, RID), Kind.STATIC)  # requester or stream ids of a device
VDEVICE = Rel("vdevice", (VIOMMU, VIRT, FUNCTION))
FIRST = Rel("first_id", (RID,), Kind.STATIC)  # the id that the driver looks up first
CACHED = Rel("device_tlb", (RID,))  # some translation that the guest has changed since
FLUSHED = Rel("flushed", (FUNCTION,), Kind.GHOST)  # a guest's flush has returned, nothing since
FOREIGN = Rel("foreign_flush", (FUNCTION,), Kind.GHOST)  # lost entries by another's flush

_SOURCE = "drivers/iommu/iommufd/viommu.c iommufd_vdevice_alloc_ioctl"


class VdeviceOptions(Options):
    """What differs between kernels.

    Attributes:
        unique_id: a virtual id is taken once in a vIOMMU.
        one_each: a device has one vDEVICE.
        every_rid: an invalidation reaches every id of the device, not the first alone.
    """

    unique_id: StrictBool = True
    one_each: StrictBool = True
    every_rid: StrictBool = True


@rule("iommufd.vdevice.alloc", _SOURCE,
      "A device has one vDEVICE, and a virtual id names one device of a vIOMMU: -EEXIST.")
def _guards(options: VdeviceOptions) -> list[Guard]:
    guards = []
    if options.one_each:
        guards.append(Guard("device-has-none", forall((_V, _I), not_(VDEVICE(_V, _I, F))),
                            "-EEXIST", _SOURCE))
    if options.unique_id:
        guards.append(Guard("virtual-id-free", forall((_X,), not_(VDEVICE(V, I, _X))), "-EEXIST",
                            _SOURCE))
    return guards


def build(options: VdeviceOptions) -> Scenario:
    """The system under some options."""
    names = VDEVICE(V, I, _X)
    hit = exists((_X,), and_(names, OWNS(_X, _R)))
    if not options.every_rid:
        hit = and_(hit, FIRST(_R))
    meant = VDEVICE(V, I, F)
    acts = (
        action("vdevice_alloc", (F, V, I), _guards(options), [insert(VDEVICE, V, I, F)],
               Actor.USER, "The user makes {f} known to {v} as {i}"),
        action("vdevice_destroy", (F, V, I), [Guard("exists", VDEVICE(V, I, F))],
               [delete(VDEVICE, V, I, F)], Actor.USER, "The user destroys {i} of {v}"),
        action("fill", (F, R), [Guard("own-id", OWNS(F, R))],
               [insert(CACHED, R), delete(FLUSHED, F), delete(FOREIGN, F)], Actor.HARDWARE,
               "The device {f} caches a translation under {r}"),
        action("invalidate", (F, V, I), [Guard("names-a-device", meant)],
               [delete_where(CACHED, (_R,), hit), insert(FLUSHED, F),
                insert_where(FOREIGN, (_X,), and_(VDEVICE(V, I, _X), ne(_X, F)))], Actor.USER,
               "The guest invalidates the device that {v} knows as {i}, which is {f}"),
    )
    module = Module("vdevice", rels=(OWNS, FIRST, VDEVICE, CACHED, FLUSHED, FOREIGN), actions=acts,
                    axioms={"one-device-an-id": forall((_X, F, _R), implies(
                        and_(OWNS(_X, _R), OWNS(F, _R)), Eq(_X, F)))})
    system = compose("vdevice", module)
    claims = [*_claims(), *refusals(system, options)]
    world = Instance(
        {FUNCTION: ("A", "B"), RID: ("A.1", "A.2", "B.1"), VIOMMU: ("V1", "V2"),
         VIRT: ("i1", "i2")}, {},
        {OWNS: frozenset({(0, 0), (0, 1), (1, 2)}), FIRST: frozenset({(0,), (2,)})})
    return Scenario(system, {c.id: c for c in claims}, (world,),
                    frames=((F, V, I, R), (F, V, I, _V, _I), (F, _X, V, I)), size=2)


def _claims() -> list[Claim]:
    return [
        always("virtual-id-names-one", "a virtual id names one device",
               forall((_V, _I, _X, F), implies(
                   and_(VDEVICE(_V, _I, _X), VDEVICE(_V, _I, F)), Eq(_X, F))),
               "{v1} knows {x} and {f} as {i1}"),
        always("one-vdevice", "a device has one vDEVICE",
               forall((_V, _W, _I, _J, _X), implies(
                   and_(VDEVICE(_V, _I, _X), VDEVICE(_W, _J, _X)),
                   and_(Eq(_V, _W), Eq(_I, _J)))),
               "{x} is {i1} of {v1} and {j1} of {w1}"),
        always("invalidation-complete", "after a guest's invalidation nothing of the device is "
               "cached under any of its ids",
               forall((_X, _R), not_(and_(FLUSHED(_X), OWNS(_X, _R), CACHED(_R)))),
               "{x} was invalidated and still has a translation under {r1}"),
        always("invalidation-own", "a guest's invalidation leaves other devices alone",
               forall((_X,), not_(FOREIGN(_X))),
               "{x} lost its translations by an invalidation of another device"),
        can("can-invalidate", "a guest's invalidation reaches a device",
            exists((_X,), FLUSHED(_X))),
    ]


def refusals(system: System, options: VdeviceOptions) -> list[Claim]:
    """The errno rows, read off the guards of the system's calls."""
    alloc = system.action("vdevice_alloc")
    found = []
    if options.one_each:
        found.append(refused("errno-second-vdevice", "a second vDEVICE of a device is refused",
                             alloc, exists((_V, _I), VDEVICE(_V, _I, F)), "-EEXIST"))
    if options.unique_id:
        found.append(refused("errno-virtual-id-taken", "a virtual id that is taken is refused",
                             alloc, exists((_X,), VDEVICE(V, I, _X)), "-EEXIST"))
    return found


FAMILY = Family("vdevice", "vIOMMU, vDEVICE and a guest's invalidation (iommufd)",
                VdeviceOptions, build)
