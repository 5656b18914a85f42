"""Teardown programs: clear, then flush from the inside out, one micro-step each.

The order is the design's (`teardown.steps`); the right one is that of VT-d 6.5.3.3: clear the
entry, PASID cache, IOTLB, device TLB, each complete before the next, since an inner cache may
refill an outer one. A step acts on all members of the object at once: the kernel visits them one by
one, but each member's own order is the same and nothing between two members depends on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dmaproof.model.design import Step
from dmaproof.model.logic.system import Action, Actor, Guard, Update, action, delete, insert
from dmaproof.model.logic.terms import Formula, Rel, Var
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd.cache_rules import flush

CACHE_OF = {
    Step.FLUSH_PASID_CACHE: v.PASID_CACHE,
    Step.FLUSH_IOTLB: v.IOTLB,
    Step.FLUSH_DEVICE_TLB: v.DEVICE_TLB,
}
_SAYS = {
    Step.CLEAR: "clears the entries",
    Step.FLUSH_PASID_CACHE: "flushes the PASID cache and waits",
    Step.FLUSH_IOTLB: "flushes the IOTLB and waits",
    Step.FLUSH_DEVICE_TLB: "flushes the device TLB and waits",
}


class Teardown:
    """One teardown program of a kind of call.

    Attributes:
        stages: relations that say before which step a running call stands; the last one stands
            before the return.
    """

    def __init__(
        self,
        name: str,
        params: tuple[Var, ...],
        steps: Iterable[Step],
        caches: tuple[Rel, ...],
        says: str,
    ) -> None:
        """Lay out the program.

        Args:
            name: prefix of its actions, such as ``unbind``.
            params: what identifies the running call.
            steps: the order; a flush of a cache that the design does not have is left out.
            caches: the caches of the design.
            says: how a trace names the call, such as ``The unbind of {k}``.
        """
        self.name = name
        self.params = params
        self.steps = [s for s in steps if s is Step.CLEAR or CACHE_OF[s] in caches]
        sorts = tuple(p.sort for p in params)
        labels = [*(s.value for s in self.steps), "return"]
        self.stages = [Rel(f"{name}_at_{x.replace('-', '_')}", sorts) for x in labels]
        self.says = says

    @property
    def first(self) -> Rel:
        """The relation a call enters."""
        return self.stages[0]

    def begin(self, *args: Var) -> Update:
        """Enter the program."""
        return insert(self.first, *(args or self.params))

    def running(self, *args: Var) -> list[Formula]:
        """One condition a stage: the call is there."""
        return [s(*args) for s in self.stages]

    def actions(
        self,
        clear: Callable[[], list[Update]],
        requesters: Callable[[Var], Formula],
        pasids: Callable[[Var], Formula],
        on_return: Iterable[Update],
        return_says: str,
    ) -> list[Action]:
        """The micro-steps.

        Args:
            clear: the updates that clear the tables.
            requesters: which requester ids the flushes name.
            pasids: which PASIDs the flushes name.
            on_return: updates when the call returns.
            return_says: the sentence for the return.
        """
        found = []
        for step, here, there in zip(self.steps, self.stages, self.stages[1:], strict=False):
            move = [delete(here, *self.params), insert(there, *self.params)]
            work = clear() if step is Step.CLEAR else [_flush(step, requesters, pasids)]
            found.append(
                action(f"{self.name}.{step}", self.params,
                       [Guard("next-step", here(*self.params))], [*move, *work], Actor.KERNEL,
                       f"{self.says} {_SAYS[step]}")
            )
        last = self.stages[-1]
        found.append(
            action(f"{self.name}.return", self.params, [Guard("next-step", last(*self.params))],
                   [delete(last, *self.params), *on_return], Actor.KERNEL, return_says)
        )
        return found


def _flush(
    step: Step, requesters: Callable[[Var], Formula], pasids: Callable[[Var], Formula]
) -> Update:
    cache = CACHE_OF[step]
    requester, pasid = Var(f"{cache.name}.r", v.RID), Var(f"{cache.name}.p", v.PASID)
    return flush(cache, requesters(requester), requester, pasids(pasid), pasid)
