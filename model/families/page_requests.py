"""Page requests in flight while their PASID is unbound: drain before the handle is freed.

A device's page request names (function, PASID); the fault handler looks the binding's handle up and
works with it until it has responded. Unbinding clears the entry, drains the queue (waits until
nothing of that PASID is pending) and frees the handle, in the design's order.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

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
    insert,
)
from dmaproof.model.logic.terms import (
    Eq,
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

HANDLE = Sort("Handle")  # iommu_attach_handle, with what its fault handler uses

F, P, H = Var("f", FUNCTION), Var("p", PASID), Var("h", HANDLE)
_X, _Q, _K = Var("x", FUNCTION), Var("q", PASID), Var("k", HANDLE)

BOUND = Rel("bound", (FUNCTION, PASID, HANDLE))  # the entry, and the handle it was made with
PENDING = Rel("pending", (FUNCTION, PASID, HANDLE))  # a request that its handler works on
FREED = Rel("freed", (HANDLE,))
TOUCHED = Rel("touched_after_free", (HANDLE,))

_SVA = "drivers/iommu/iommu-sva.c iommu_sva_unbind_device; drivers/iommu/intel/prq.c"


class Step(StrEnum):
    """A micro-step of unbind."""

    CLEAR = "clear"
    DRAIN = "drain"
    FREE = "free"


class RequestOptions(Options):
    """The program.

    Attributes:
        unbind: the order.
    """

    unbind: Annotated[tuple[Step, ...], Field(min_length=2, max_length=3)]

    @model_validator(mode="after")
    def _complete(self) -> RequestOptions:
        if len(set(self.unbind)) != len(self.unbind):
            raise ValueError("unbind names a step twice")
        if not {Step.CLEAR, Step.FREE} <= set(self.unbind):
            raise ValueError("unbind clears the entry and frees the handle, in some order")
        return self


@rule("linux.prq.drain", f"{_SVA} intel_iommu_drain_pasid_prq; VT-d 7.10",
      "Draining waits until no request of the PASID is in the queue or being handled.")
def _step(step: Step) -> tuple[list[Guard], list[Update]]:
    match step:
        case Step.CLEAR:
            return [], [delete(BOUND, F, P, H)]
        case Step.DRAIN:
            quiet = forall((_K,), not_(PENDING(F, P, _K)))
            return [Guard("nothing-pending", quiet, source=_SVA)], []
        case Step.FREE:
            return [], [insert(FREED, H)]


def build(options: RequestOptions) -> Scenario:
    """The system under some options."""
    labels = [s.value for s in options.unbind]
    places = [Rel(f"unbind_{i}_{name}", (FUNCTION, PASID, HANDLE))
              for i, name in enumerate(labels)]
    running = or_(*(p(F, P, _K) for p in places))
    new = and_(not_(FREED(H)), forall((_X, _Q), not_(or_(
        BOUND(_X, _Q, H), *(p(_X, _Q, H) for p in places)))))
    acts: list[Action] = [
        action("bind", (F, P, H), [
            Guard("pasid-unused", forall((_K,), not_(or_(BOUND(F, P, _K), running))), "-EBUSY"),
            Guard("new-handle", new)],
            [insert(BOUND, F, P, H)], Actor.USER, "The user binds {f}, PASID {p}, with {h}"),
        action("page.request", (F, P, H), [Guard("bound", BOUND(F, P, H))],
               [insert(PENDING, F, P, H)], Actor.HARDWARE,
               "{f} requests a page of PASID {p}: the handler finds {h}"),
        action("page.respond", (F, P, H), [
            Guard("pending", PENDING(F, P, H)), Guard("handle-lives", not_(FREED(H)))],
            [delete(PENDING, F, P, H)], Actor.KERNEL, "The handler responds and is done with {h}"),
        action("page.respond.freed", (F, P, H), [
            Guard("pending", PENDING(F, P, H)), Guard("handle-freed", FREED(H))],
            [delete(PENDING, F, P, H), insert(TOUCHED, H)], Actor.KERNEL,
            "The handler works with {h}, which is freed"),
        action("unbind.enter", (F, P, H), [
            Guard("bound", BOUND(F, P, H)),
            Guard("not-running", not_(or_(*(p(F, P, H) for p in places))))],
            [insert(places[0], F, P, H)], Actor.USER, "The user unbinds {f}, PASID {p}"),
    ]
    for i, step in enumerate(options.unbind):
        guards, updates = _step(step)
        onward = [insert(places[i + 1], F, P, H)] if i + 1 < len(places) else []
        acts.append(action(
            f"unbind.{step.value}", (F, P, H), [Guard("next-step", places[i](F, P, H)), *guards],
            [delete(places[i], F, P, H), *onward, *updates], Actor.KERNEL,
            f"The unbind of {{f}}, PASID {{p}}: {step.value}"))
    module = Module("page-requests", rels=(BOUND, PENDING, FREED, TOUCHED, *places),
                    actions=tuple(acts))
    claims = [
        always("no-use-after-free", "no fault handler works with a freed handle",
               forall((_K,), not_(TOUCHED(_K))), "a handler works with {k}, which is freed"),
        always("drained-before-free", "nothing is pending for a freed handle",
               forall((_X, _Q, _K), not_(and_(PENDING(_X, _Q, _K), FREED(_K)))),
               "a request of {x}, PASID {q}, is pending for {k}, which is freed"),
        can("can-free", "a handle that served a request is freed",
            exists((_K,), FREED(_K))),
        can("can-request", "a page request is pending", exists((_X, _Q, _K), PENDING(_X, _Q, _K))),
    ]
    world = Instance({FUNCTION: ("A",), PASID: ("p1", "p2"), HANDLE: ("h1", "h2")}, {}, {})
    one = forall((_X, _Q, _K, F, P), implies(
        and_(or_(BOUND(_X, _Q, _K), *(p(_X, _Q, _K) for p in places), PENDING(_X, _Q, _K)),
             or_(BOUND(F, P, _K), *(p(F, P, _K) for p in places), PENDING(F, P, _K))),
        and_(Eq(_X, F), Eq(_Q, P))))
    # Without a drain nothing keeps a handle from being freed while a request is pending; with the
    # drain behind the clear nothing does.
    safe = Step.DRAIN in options.unbind and (
        options.unbind.index(Step.CLEAR) < options.unbind.index(Step.DRAIN)
        < options.unbind.index(Step.FREE))
    idle = {"page.respond.freed": "no request is pending for a freed handle"} if safe else {}
    return Scenario(compose("page-requests", module), {c.id: c for c in claims}, (world,),
                    frames=((F, P, H), (F, P, H, _K)), stages=(tuple(places),),
                    invariants=(one,), size=3, idle=idle)


FAMILY = Family("page-requests", "page requests in flight while their PASID is unbound",
                RequestOptions, build)
