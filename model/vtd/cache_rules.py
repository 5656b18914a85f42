"""The caches of the IOMMU and of ATS devices at the level of rules.

A cache may fill whenever what it would hold is found by a walk or in an inner cache, and may evict
at any time (VT-d 6.1, 6.2). Only an invalidation guarantees that an entry is gone.
"""

from __future__ import annotations

from dmaproof.model.logic.system import Actor, Guard, Module, Update, action, delete_where, insert
from dmaproof.model.logic.system import delete as remove
from dmaproof.model.logic.terms import Formula, Rel, Var, and_, or_
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.scheme import Scheme

_SAYS = {
    v.PASID_CACHE: "The IOMMU walks the tables for {r}, PASID {p}, and caches the entry that leads"
    " to {s} in its PASID cache",
    v.IOTLB: "The IOMMU caches the translation of {r}, PASID {p}, to {s} in its IOTLB",
    v.DEVICE_TLB: "The device behind {r} caches its translation of PASID {p} to {s} in its"
    " device TLB",
}


def caches(scheme: Scheme) -> Module:
    """Fill and evict for every cache of the design."""
    key = (v.R, v.P, v.S)
    actions = []
    found: Formula = scheme.walk(*key)
    for cache in scheme.caches:
        name = cache.name.replace("_", "-")
        guard = Guard("entry-found", found, source="VT-d 6.2")
        actions.append(
            action(f"{name}.fill", key, [guard], [insert(cache, *key)], Actor.HARDWARE,
                   _SAYS[cache])
        )
        held = Guard("entry-held", cache(*key))
        actions.append(
            action(f"{name}.evict", key, [held], [remove(cache, *key)], Actor.HARDWARE,
                   f"The {cache.name.replace('_', ' ')} evicts {{r}}, PASID {{p}}")
        )
        found = or_(found, cache(*key))
    return Module("caches", rels=scheme.caches, actions=tuple(actions))


def flush(cache: Rel, requesters: Formula, requester: Var, pasid: Formula, p: Var) -> Update:
    """An invalidation: drops what *requesters* (of *requester*) and *pasid* (of *p*) name.

    Hardware may drop more than asked (VT-d 6.5); the evict actions stand for that.
    """
    space = Var(f"{cache.name}.s", v.SPACE)
    return delete_where(cache, (requester, p, space), and_(requesters, pasid))
