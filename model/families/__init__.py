"""Families of scenarios: one module each, with its options, its system and its claims.

`FAMILIES` names the module of each family; that module defines ``FAMILY``.
"""

FAMILIES: dict[str, str] = {
    "entry-update": "dmaproof.model.families.entry_update",
    "pasid-attach": "dmaproof.model.families.pasid_attach",
    "ownership": "dmaproof.model.families.ownership",
    "aliases": "dmaproof.model.families.aliases",
    "page-requests": "dmaproof.model.families.page_requests",
    "fault-groups": "dmaproof.model.families.fault_groups",
    "dirty-log": "dmaproof.model.families.dirty_log",
    "device-directory": "dmaproof.model.families.device_directory",
    "tlps": "dmaproof.model.families.tlps",
    "shared-pf": "dmaproof.model.families.shared_pf",
    "pasid-space": "dmaproof.model.families.pasid_space",
    "nesting": "dmaproof.model.families.nesting",
    "container-as-group": "dmaproof.model.families.container_as_group",
    "reset-window": "dmaproof.model.families.reset_window",
    "vdevice": "dmaproof.model.families.vdevice",
    "cache-tags": "dmaproof.model.families.cache_tags",
    "did-references": "dmaproof.model.families.did_references",
    "completion": "dmaproof.model.families.completion",
    "context-entry": "dmaproof.model.families.context_entry",
    "surprise-removal": "dmaproof.model.families.surprise_removal",
    "table-pages": "dmaproof.model.families.table_pages",
    "table-publication": "dmaproof.model.families.table_publication",
    "invalidation": "dmaproof.model.families.invalidation",
}
