"""Runs of scenarios on the bits: one module a family, with what its actions write and who may look.

`MODULES` names the module of each family whose actions touch VT-d state; that module defines
``BITS``. `REASONS` says of every other family why there is nothing to replay. A test keeps the two
complete: no family is skipped in silence.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmaproof.counterexamples.bits.scenarios.base import BitsOfFamily

NOTHING: Final = "no VT-d state: "
"""How every reason begins."""

_HERE: Final = "dmaproof.counterexamples.bits.scenarios"

MODULES: dict[str, str] = {
    "vdevice": f"{_HERE}.vdevice",
    "shared-pf": f"{_HERE}.shared_pf",
    "tlps": f"{_HERE}.tlps",
    "dirty-log": f"{_HERE}.dirty_log",
    "surprise-removal": f"{_HERE}.surprise_removal",
    "did-references": f"{_HERE}.did_references",
    "page-requests": f"{_HERE}.page_requests",
    "completion": f"{_HERE}.completion",
    "table-pages": f"{_HERE}.table_pages",
    "table-publication": f"{_HERE}.table_publication",
    "container-as-group": f"{_HERE}.container_as_group",
    "reset-window": f"{_HERE}.reset_window",
    "pasid-attach": f"{_HERE}.pasid_attach",
    "pasid-space": f"{_HERE}.pasid_space",
    "nesting": f"{_HERE}.nesting",
    "aliases": f"{_HERE}.aliases",
    "cache-tags": f"{_HERE}.cache_tags",
    "context-entry": f"{_HERE}.context_entry",
    "entry-update": f"{_HERE}.entry_update",
    "invalidation": f"{_HERE}.invalidation",
}

REASONS: dict[str, str] = {
    "ownership": f"{NOTHING}who may open what is the kernel's bookkeeping; no table is written",
    "fault-groups": f"{NOTHING}lists of faults and who frees them are memory of the kernel; the"
    " queue that they come from is in the family page-requests",
    "device-directory": f"{NOTHING}the directory is that of a RISC-V IOMMU, another vendor's"
    " hardware",
}


def bits_of(family: str) -> type[BitsOfFamily]:
    """Return the bits of a family.

    Raises:
        KeyError: the family has none (see `REASONS`).
    """
    from dmaproof.counterexamples.bits.scenarios.base import BitsOfFamily

    found = import_module(MODULES[family]).BITS
    assert issubclass(found, BitsOfFamily)
    return found  # type: ignore[no-any-return]
