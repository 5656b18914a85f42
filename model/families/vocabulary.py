"""Words that the families of the VT-d driver share, beside those of `model.vfio.vocabulary`."""

from __future__ import annotations

from dmaproof.model.logic.terms import Fn, Kind, Rel, Sort, Var
from dmaproof.model.vfio import vocabulary as v

DID = Sort("Did")  # domain id, a number of one IOMMU unit
UNIT = Sort("Unit")  # IOMMU unit
DOMAIN = Sort("Domain")  # a page table with its attachments
PAGE = Sort("Page")  # what one leaf of a page table maps
SLOT = Sort("Slot")  # a requester id with a PASID, or without: where a domain can be attached

D = Var("d", DID)
D1 = Var("d1", DID)

UNIT_OF = Fn("unit", (v.RID,), UNIT)
SHARED_DID = Fn("flpt_default_did", (), DID)()  # one DID for all SVA entries of a unit

FIRST_STAGE = Rel("first_stage", (v.SPACE,), Kind.STATIC)  # the space is a first-stage table's
ATS = Rel("ats_on", (v.RID,), Kind.STATIC)
CACHING_MODE = Rel("caching_mode", (v.RID,), Kind.STATIC)  # of the unit that serves it
