"""Devices that vanish: device-TLB invalidations that nobody will answer.

An invalidation request to a device that is not there never completes, and the wait behind it hangs
or ends in a time-out (VT-d 6.5.2.10). The driver can look first: at the flag that the hot-plug
driver sets once it has noticed (``pci_dev_is_disconnected``), or at the device itself
(``pci_device_is_present``). Between the look and the request time passes.
"""

from __future__ import annotations

from typing import Literal

from dmaproof.model.families.programs import Work, program
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
from dmaproof.model.logic.terms import Rel, exists, forall, implies, not_
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can
from dmaproof.model.vfio import vocabulary as v

R, R1 = v.R, v.R1
_KEY = (v.RID,)

GONE = Rel("gone", _KEY)
NOTICED = Rel("disconnected", _KEY)  # the hot-plug driver's flag
USED = Rel("attached", _KEY)
REQUESTED = Rel("invalidation_requested", _KEY)
ABSENT = Rel("requested_while_absent", _KEY)
LATE = Rel("teardown_after_removal", _KEY)  # the device was gone when the teardown began
LATE_NOTICED = Rel("teardown_after_notice", _KEY)


class RemovalOptions(Options):
    """The detail that mattered.

    Attributes:
        look: what the driver looks at before it requests the invalidation.
    """

    look: Literal["nothing", "disconnected", "present"]


@rule("driver.device-tlb.absent", "drivers/iommu/intel/pasid.c devtlb_invalidation_with_pasid",
      "No device-TLB invalidation is requested of a device that is known to be gone")
def build(options: RemovalOptions) -> Scenario:
    """Devices are attached, taken down, and pulled out at any moment."""
    enter = Work(
        "enter", "The teardown of {r} begins",
        (insert(LATE, R, when=GONE(R)), insert(LATE_NOTICED, R, when=NOTICED(R)),
         delete(USED, R)),
        (Guard("attached", USED(R)),),
    )
    seen = {"nothing": None, "disconnected": NOTICED(R), "present": GONE(R)}[options.look]
    steps = [
        Work("flush-iotlb", "The entry of {r} is cleared, PASID cache and IOTLB are flushed"),
        Work("request", "A device-TLB invalidation is requested of {r}",
             (insert(REQUESTED, R), insert(ABSENT, R, when=GONE(R)))),
        Work("wait", "The wait behind the invalidation ends", (),
             (Guard("answered", not_(REQUESTED(R)), source="VT-d 6.5.2.8"),)),
        Work("return", "The teardown of {r} returns"),
    ]
    if seen is not None:
        steps.insert(1, Work("look", "The driver looks, and finds {r} there", (),
                             (Guard("found-there", not_(seen)),)))
    take = program("teardown", (R,), enter, steps)
    acts = list(take.actions)
    if seen is not None:
        here, there = take.stages[1], take.stages[-1]
        acts.append(action(
            "teardown.skip", (R,), [Guard("next-step", here(R)), Guard("found-gone", seen)],
            [delete(here, R), insert(there, R)], Actor.KERNEL,
            "The driver looks, finds {r} gone and leaves its device TLB alone"))
    attach = action("attach", (R,), [Guard("not-attached", not_(USED(R)), "-EBUSY"),
                                     Guard("plugged-in", not_(GONE(R)), "-ENODEV"),
                                     Guard("not-locked", not_(take.running(R)))],
                    [insert(USED, R)], Actor.USER, "{r} is attached, with ATS on")
    driver = Module("driver", rels=(USED, REQUESTED, ABSENT, LATE, LATE_NOTICED, *take.stages),
                    actions=(attach, *acts))
    platform = Module("platform", rels=(GONE, NOTICED), actions=(
        action("remove", (R,), [Guard("there", not_(GONE(R)))], [insert(GONE, R)],
               Actor.PLATFORM, "{r} is pulled out"),
        action("notice", (R,), [Guard("gone", GONE(R)), Guard("unnoticed", not_(NOTICED(R)))],
               [insert(NOTICED, R)], Actor.KERNEL, "The hot-plug driver notices that {r} is gone"),
        action("device.answer", (R,), [Guard("requested", REQUESTED(R)),
                                       Guard("there", not_(GONE(R)))],
               [delete(REQUESTED, R)], Actor.HARDWARE, "{r} answers the invalidation"),
    ))
    return Scenario(
        compose("surprise-removal", driver, platform), {c.id: c for c in _claims()},
        (Instance({v.RID: ("rid(A)",)}, {}, {}),), frames=((R,),), stages=(take.stages,), size=3,
    )


def _claims() -> list[Claim]:
    return [
        always("no-request-after-notice",
               "a teardown that begins after the removal was noticed requests nothing of it",
               forall((R1,), implies(ABSENT(R1), not_(LATE_NOTICED(R1)))),
               "{r1} was known to be gone, and an invalidation was requested of it"),
        always("no-request-after-removal",
               "a teardown that begins after the removal requests nothing of the device",
               forall((R1,), implies(ABSENT(R1), not_(LATE(R1)))),
               "{r1} was gone, and an invalidation was requested of it"),
        always("no-request-to-absent", "nothing is ever requested of a device that is gone",
               forall((R1,), not_(ABSENT(R1))),
               "{r1} went away between the look and the request"),
        can("can-tear-down", "a teardown requests an invalidation that is answered",
            exists((R,), REQUESTED(R))),
    ]


FAMILY = Family("surprise-removal", "device-TLB invalidations of devices that are gone",
                RemovalOptions, build)
