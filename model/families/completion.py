"""Queued is not done: unmaps on several CPUs, one queue of invalidations, and who waits for what.

An invalidation is queued, later carried out by the unit, and known to be done only by a wait
descriptor (VT-d) or completion-wait command (AMD) behind it. The page goes back to its owner when
the unmap returns.
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
    insert,
)
from dmaproof.model.logic.terms import (
    Fn,
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
from dmaproof.model.scenario import Claim, Family, Options, Scenario, always, can

CPU = Sort("Cpu")
C, X = Var("cpu", CPU), Var("x", w.PAGE)
C1, X1 = Var("cpu1", CPU), Var("x1", w.PAGE)

QUEUE_OF = Fn("queue_of", (w.PAGE,), w.UNIT)  # the unit whose domain maps the page
MAPS = Rel("maps", (w.PAGE,))
QUEUED = Rel("queued", (w.PAGE,))  # an invalidation of the page waits in the queue
NEED_SYNC = Rel("need_sync", (w.UNIT,))  # something was queued since the last wait command
CACHED = Rel("cached", (w.PAGE,))
BUSY = Rel("in_call", (CPU,))
MAPPED = Rel("mapped", (w.PAGE,), Kind.GHOST)


class CompletionOptions(Options):
    """The detail that mattered.

    Attributes:
        wait: each call waits for its own invalidation; only the call that finds the flag set does,
            and clears it; or nobody waits.
    """

    wait: Literal["own", "if-flag-set", "none"]


@rule("driver.invalidation.wait", "VT-d 6.5.2.8; drivers/iommu/intel/dmar.c qi_submit_sync",
      "A call that frees memory returns only after its own invalidation was carried out")
def _unmap(options: CompletionOptions) -> tuple[Program, list[Action]]:
    enter = Work(
        "clear", "{cpu} unmaps {x}: its leaf is cleared", (delete(MAPS, X), insert(BUSY, C)),
        (Guard("mapped", MAPS(X), "-ENOENT"), Guard("cpu-idle", not_(BUSY(C)))),
    )
    queue = Work("queue", "{cpu} queues the invalidation of {x}",
                 (insert(QUEUED, X), insert(NEED_SYNC, QUEUE_OF(X))))
    flagged = Guard("flag-set", NEED_SYNC(QUEUE_OF(X)))
    needed = Work("wait-needed", "{cpu} finds need_sync set and clears it: it is to wait",
                  (delete(NEED_SYNC, QUEUE_OF(X)),), (flagged,))
    wait = Work("wait", "{cpu} has waited: the invalidation of {x} is done", (),
                (Guard("done", not_(QUEUED(X)), source="VT-d 6.5.2.8"),))
    done = Work("return", "The unmap on {cpu} returns: {x} goes back to its owner",
                (delete(MAPPED, X), delete(BUSY, C)))
    middle = {"own": [wait], "if-flag-set": [needed, wait], "none": []}[options.wait]
    found = program("unmap", (C, X), enter, [queue, *middle, done])
    if options.wait != "if-flag-set":
        return found, []
    here, there = found.stages[1], found.stages[-1]
    skip = action(
        "unmap.wait-skipped", (C, X),
        [Guard("next-step", here(C, X)), Guard("flag-clear", not_(NEED_SYNC(QUEUE_OF(X))))],
        [delete(here, C, X), insert(there, C, X)], Actor.KERNEL,
        "{cpu} finds need_sync clear and does not wait for {x}",
    )
    return found, [skip]


def build(options: CompletionOptions) -> Scenario:
    """Any number of CPUs unmap pages; the units work their queues off in any order."""
    unmap, more = _unmap(options)
    remap = action(
        "map", (X,), [Guard("not-mapped", not_(MAPS(X)), "-EEXIST"),
                      Guard("no-unmap-of-it", forall((C,), not_(unmap.running(C, X))))],
        [insert(MAPS, X), insert(MAPPED, X)], Actor.USER, "{x} is mapped",
    )
    driver = Module("driver", (QUEUE_OF,), (MAPS, QUEUED, NEED_SYNC, BUSY, MAPPED, *unmap.stages),
                    actions=(remap, *unmap.actions, *more))
    process = action("queue.process", (X,), [Guard("queued", QUEUED(X))],
                     [delete(QUEUED, X), delete(CACHED, X)], Actor.HARDWARE,
                     "The unit carries out the invalidation of {x}")
    unit = Module("unit", rels=(CACHED,), actions=(
        process, fill(CACHED, (X,), MAPS(X), "The IOTLB takes the translation to {x}"),
        evict(CACHED, (X,)),
    ))
    return Scenario(
        compose("completion", driver, unit), {c.id: c for c in _claims(unmap)}, _worlds(),
        frames=((C, C1, X),), stages=(unmap.stages,), size=3,
    )


def _claims(unmap: Program) -> list[Claim]:
    last = unmap.stages[-1]
    return [
        always("no-stale-after-unmap", "after unmap has returned no cache holds the page",
               forall((X1,), implies(CACHED(X1), MAPPED(X1))),
               "the IOTLB still holds {x1}, which went back to its owner"),
        always("done-before-return", "no call comes to its end while its invalidation is queued",
               forall((C1, X1), implies(last(C1, X1), not_(QUEUED(X1)))),
               "{cpu1} is to return while the invalidation of {x1} is still queued"),
        can("can-unmap-side-by-side", "two CPUs have invalidations queued at one unit",
            exists((X, X1), and_(QUEUED(X), QUEUED(X1), ne(X, X1)))),
    ]


def _worlds() -> tuple[Instance, ...]:
    def world(cpus: int, pages: int) -> Instance:
        return Instance(
            {CPU: tuple(f"CPU {i}" for i in range(cpus)), w.UNIT: ("unit",),
             w.PAGE: tuple(f"page {i + 1}" for i in range(pages))},
            {QUEUE_OF: {(x,): 0 for x in range(pages)}}, {},
        )

    return world(1, 1), world(2, 2)


FAMILY = Family("completion", "queued invalidations and who waits for them",
                CompletionOptions, build)
