"""Caches, entry by entry: what the rule layer says of them, the bits do (z3).

What a teardown must make unreachable, its flush commands drop, for arbitrary entries.
"""

from __future__ import annotations

from dataclasses import replace

from dmaproof.model.algebra import SymbolicMemory, Term, cond_z3
from dmaproof.model.vtd.invalidation import (
    DeviceTag,
    IotlbTag,
    PagingTag,
    PasidTag,
    drops_device,
    drops_iotlb,
    drops_paging,
    drops_pasid,
)
from dmaproof.model.vtd.obligations import Obligation
from dmaproof.model.vtd.programs import Flush, clear_pasid


def teardown_drops(pgtt: int) -> list[Obligation]:
    """Claim that the driver's teardown of a PASID drops what it must make unreachable.

    For arbitrary entries: every entry of the PASID cache, the IOTLB, the first-stage
    paging-structure caches and the device TLB that was made for this requester and PASID while the
    PASID entry held this domain id and type. That is what the rule layer removes for (requester,
    PASID).

    Args:
        pgtt: type of the PASID entry, 1 to 4.
    """
    import z3

    def word(name: str) -> Term:
        return Term(z3.BitVec(name, 64))

    did, pasid, sid, page = word("did"), word("pasid"), word("sid"), word("page")
    steps = clear_pasid(0, (pgtt << 6 | 1, 0, 0, 0, 0, 0, 0, 0), 0, 0, ats=True)
    commands = [
        replace(c, did=did, pasid=pasid, sid=sid)
        for s in steps if isinstance(s, Flush) for c in s.commands
    ]
    carrier = SymbolicMemory().carrier()
    bounds = [cond_z3(page < 1 << 57), cond_z3((page & 0xFFF) == 0)]
    entries = {
        "PASID cache": [drops_pasid(c, PasidTag(sid, pasid, did)) for c in commands],
        "IOTLB": [
            drops_iotlb(c, IotlbTag(sid, True, pasid, did, pgtt, page)) for c in commands
        ],
        "device TLB": [
            drops_device(carrier, c, DeviceTag(sid, True, pasid, page)) for c in commands
        ],
    }
    if pgtt in (1, 3):
        for level in (2, 3, 4, 5):
            tag = PagingTag(True, did, pasid, level, page)
            entries[f"paging level {level}"] = [drops_paging(c, tag) for c in commands]
    return [
        Obligation(
            name, bounds, z3.Or([cond_z3(drop) for drop in drops]), SymbolicMemory().array,
            {"did": did, "pasid": pasid, "sid": sid, "page": page},
        )
        for name, drops in entries.items()
    ]
