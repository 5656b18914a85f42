"""The dirty log of a second stage that nested tables stand on.

With dirty tracking on, hardware marks a page of the second stage as dirty only where the PASID
entry that led there enables it (SSADE). A parent's tracking has to reach the entries of PASIDs that
are nested on it, also of those that come later.
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
    not_,
    or_,
)
from dmaproof.model.rules import rule
from dmaproof.model.scenario import Family, Options, Scenario, always, can
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID

PARENT, PAGE = Sort("Parent"), Sort("Page")
F, P, D, G = Var("f", FUNCTION), Var("p", PASID), Var("d", PARENT), Var("g", PAGE)
_X, _Q, _D, _G = Var("x", FUNCTION), Var("q", PASID), Var("d1", PARENT), Var("g1", PAGE)

NESTED = Rel("nested_on", (FUNCTION, PASID, PARENT))
DIRECT = Rel("attached_to", (FUNCTION, PARENT))  # by RID, second stage alone
ENABLED = Rel("ssade", (FUNCTION, PASID, PARENT))  # of nested entries
ENABLED_RID = Rel("ssade_rid", (FUNCTION, PARENT))
TRACKING = Rel("tracking", (PARENT,))
LOGGED = Rel("dirty", (PARENT, PAGE))
WRITTEN = Rel("written", (PARENT, PAGE), Kind.GHOST)  # since tracking began


class DirtyOptions(Options):
    """What differs between kernels.

    Attributes:
        reaches_nested: setting dirty tracking reaches the entries of nested PASIDs.
        set_up_with: an entry that is set up while tracking is on has it enabled.
    """

    reaches_nested: StrictBool
    set_up_with: StrictBool = True


@rule("linux.dirty-tracking.nested",
      "drivers/iommu/intel/iommu.c intel_iommu_set_dirty_tracking",
      "Tracking of a parent is set in every entry that stands on it, nested PASIDs included.")
def _begin(options: DirtyOptions) -> list[Update]:
    found = [insert(TRACKING, D),
             insert_where(ENABLED_RID, (_X, _D), and_(DIRECT(_X, D), Eq(_D, D)))]
    if options.reaches_nested:
        found.append(insert_where(
            ENABLED, (_X, _Q, _D), and_(NESTED(_X, _Q, D), Eq(_D, D))))
    return found


def build(options: DirtyOptions) -> Scenario:
    """The system under some options."""
    late = TRACKING(D) if options.set_up_with else not_(Eq(D, D))
    marks = {"direct": ENABLED_RID(F, D), "nested": ENABLED(F, P, D)}
    acts = (
        action("attach", (F, D), [], [insert(DIRECT, F, D),
                                      insert(ENABLED_RID, F, D, when=late)], Actor.USER,
               "{f} is attached to {d}"),
        action("attach_nested", (F, P, D), [],
               [insert(NESTED, F, P, D), insert(ENABLED, F, P, D, when=late)], Actor.USER,
               "{f}, PASID {p}, is attached to a table nested on {d}"),
        action("tracking.start", (D,), [Guard("off", not_(TRACKING(D)))], _begin(options),
               Actor.USER, "Dirty tracking of {d} begins"),
        action("tracking.stop", (D,), [Guard("on", TRACKING(D))],
               [delete(TRACKING, D), delete_where(WRITTEN, (_D, _G), Eq(_D, D))], Actor.USER,
               "Dirty tracking of {d} ends"),
        action("write", (F, D, G), [Guard("attached", DIRECT(F, D))],
               [insert(WRITTEN, D, G, when=TRACKING(D)),
                insert(LOGGED, D, G, when=marks["direct"])], Actor.HARDWARE,
               "{f} writes to {g} through {d}"),
        action("write_nested", (F, P, D, G), [Guard("attached", NESTED(F, P, D))],
               [insert(WRITTEN, D, G, when=TRACKING(D)),
                insert(LOGGED, D, G, when=marks["nested"])], Actor.HARDWARE,
               "{f}, PASID {p}, writes to {g} through a table nested on {d}"),
    )
    module = Module("dirty-log", actions=acts, rels=(
        NESTED, DIRECT, ENABLED, ENABLED_RID, TRACKING, LOGGED, WRITTEN))
    claims = [
        always("log-complete", "what was written while tracking is on is in the dirty log",
               forall((_D, _G), implies(WRITTEN(_D, _G), LOGGED(_D, _G))),
               "{g1} of {d1} was written and is not in the log: a migration loses it"),
        can("can-log", "a write through nested tables is logged",
            exists((_X, _Q, _D, _G), and_(NESTED(_X, _Q, _D), LOGGED(_D, _G),
                                          or_(WRITTEN(_D, _G), TRACKING(_D))))),
    ]
    world = Instance({FUNCTION: ("A",), PASID: ("p1",), PARENT: ("S2",), PAGE: ("page",)}, {}, {})
    return Scenario(compose("dirty-log", module), {c.id: c for c in claims}, (world,),
                    frames=((F, P, D, G),), size=3)


FAMILY = Family("dirty-log", "dirty tracking of second stages that nested tables stand on",
                DirtyOptions, build)
