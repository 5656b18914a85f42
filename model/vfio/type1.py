"""VFIO type1: MAP and UNMAP in the container's RID domain.

The container has one IOVA map; every function of a group that joins is attached to it, by re-use of
a domain or by replay of the mappings (vfio_iommu_type1.c attach_group). A map is granted under
"no PASID", which is what requests without PASID use.
"""

from __future__ import annotations

from dmaproof.model.driver.teardown import Teardown
from dmaproof.model.logic.system import Action, Actor, Guard, Module, action, delete, insert
from dmaproof.model.logic.terms import Eq, not_, or_
from dmaproof.model.vfio import ghosts
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.scheme import Scheme


class Mapper:
    """MAP_DMA and UNMAP_DMA of one design."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme = scheme
        self.unmap = Teardown(
            "unmap", (scheme.key, v.S), scheme.design.teardown.steps, scheme.caches,
            "The unmap of {s} in container {k}",
        )

    def module(self) -> Module:
        """Relations and actions of MAP and UNMAP."""
        scheme = self.scheme
        assert scheme.content is not None
        rels = (scheme.slot, scheme.content, *self.unmap.stages)
        return Module("type1", rels=rels, actions=(self._map(), self._unmap(), *self._steps()))

    def _running(self) -> Guard:
        running = or_(*(r(v.C, v.S) for r in self.unmap.stages))
        return Guard("no-call-in-progress", not_(running))

    def _map(self) -> Action:
        scheme = self.scheme
        assert scheme.content is not None
        guards = [
            Guard("function-in-container", v.IN(v.group(v.F), v.C), "EINVAL"),
            Guard("not-mapped", not_(scheme.content(v.C, v.S)), "EEXIST",
                  "vfio_iommu_type1.c vfio_dma_do_map"),
            self._running(),
        ]
        updates = [insert(scheme.content, v.C, v.S), *ghosts.granted(scheme, v.NO_PASID)]
        return action("map", (v.F, v.C, v.S), guards, updates, Actor.USER,
                      "For {f}, the user maps {s} in container {c} (VFIO_IOMMU_MAP_DMA)")

    def _unmap(self) -> Action:
        assert self.scheme.content is not None
        guards = [
            Guard("function-in-container", v.IN(v.group(v.F), v.C), "EINVAL"),
            Guard("mapped", self.scheme.content(v.C, v.S), "ENOENT"),
            self._running(),
        ]
        return action("unmap.enter", (v.F, v.C, v.S), guards, [insert(self.unmap.first, v.C, v.S)],
                      Actor.USER, "For {f}, the user unmaps {s} in container {c}"
                      " (VFIO_IOMMU_UNMAP_DMA)")

    def _steps(self) -> list[Action]:
        scheme = self.scheme
        content = scheme.content
        assert content is not None
        return self.unmap.actions(
            lambda: [delete(content, scheme.key, v.S)],
            lambda r: scheme.member_rid(scheme.key, r),
            lambda p: Eq(p, v.NO_PASID),
            ghosts.revoked(scheme, ghosts.subject_of_map()),
            "VFIO_IOMMU_UNMAP_DMA of {s} returns",
        )
