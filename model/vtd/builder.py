"""Builds concrete table images: frames are taken one after the other, entries written in place.

The builder writes final states, not the driver's order of writes (for that see `programs`).
"""

from __future__ import annotations

from dmaproof.model.algebra import PAGE, Image
from dmaproof.model.vtd import entries

_SECOND_TABLE = entries.R | entries.W
_FIRST_TABLE = entries.P | entries.RW | entries.US


class Builder:
    """An image under construction.

    Args:
        image: memory to write to.
        base: first free frame, page-aligned.

    Attributes:
        root: address of the root table (RTADDR without mode bits).

    """

    def __init__(self, image: Image | None = None, base: int = 0x100000) -> None:
        self.image = Image() if image is None else image
        self._next = base
        self.root = self.frame()

    def frame(self, count: int = 1) -> int:
        """Take *count* free frames and return the address of the first."""
        taken = self._next
        self._next += count * PAGE
        return taken

    def put(self, address: int, *words: int) -> int:
        """Write quadwords from *address* on; return *address*."""
        for offset, word in enumerate(words):
            self.image[address + 8 * offset] = word
        return address

    # ---- second and first stage

    def second_stage(self, top: int, levels: int, iova: int, hpa: int, rights: int = 3, *,
                     size_level: int = 1, table_rights: int = _SECOND_TABLE) -> int:
        """Map *iova* to *hpa* in the second stage at *top*; return the address of the leaf entry.

        Missing tables are added with *table_rights*; *size_level* 1, 2, 3 is 4 KiB, 2 MiB, 1 GiB.
        """
        where = self._descend(top, levels, iova, size_level, table_rights)
        return self.put(where, entries.second_stage(hpa, rights, large=size_level > 1))

    def first_stage(self, top: int, levels: int, address: int, page: int, rights: int = 7, *,
                    size_level: int = 1, table_rights: int = _FIRST_TABLE,
                    offset: int = 0) -> int:
        """Map *address* to *page* in the first stage at *top*; return the leaf entry's address.

        *offset* (guest-physical minus host-physical) is added to addresses written into entries.
        """
        where = self._descend(top, levels, address, size_level, table_rights, offset)
        return self.put(where, entries.first_stage(page, rights, large=size_level > 1))

    def _descend(self, top: int, levels: int, address: int, last: int, rights: int,
                 offset: int = 0) -> int:
        table = top
        for level in range(levels, last, -1):
            where = self.index(table, level, address)
            if not self.image[where]:
                self.image[where] = (self.frame() + offset) | rights
            table = (self.image[where] & 0x000FFFFFFFFFF000) - offset
        return self.index(table, last, address)

    @staticmethod
    def index(table: int, level: int, address: int) -> int:
        """Return the address of the entry of *table* that *address* selects at *level*."""
        return table + 8 * (address >> (3 + 9 * level) & 511)

    # ---- root and context

    def legacy(self, sid: int, table: int, aw: int = 2, did: int = 1, **fields: int) -> int:
        """Write root and context entry of a legacy-mode requester; return the context address."""
        where = self.root + 16 * (sid >> 8)
        if not self.image[where]:
            self.put(where, *entries.legacy_root(self.frame()))
        context = (self.image[where] & ~0xFFF) + 16 * (sid & 0xFF)
        return self.put(context, *entries.legacy_context(table, aw, did, **fields))

    def _half(self, sid: int) -> int:
        where = self.root + 16 * (sid >> 8) + 8 * (sid >> 7 & 1)
        if not self.image[where]:
            self.put(where, entries.scalable_root_half(self.frame()))
        return (self.image[where] & ~0xFFF) + 32 * (sid & 0x7F)

    def scalable(self, sid: int, directory: int | None = None, **fields: int) -> int:
        """Write root half and context entry of a scalable-mode requester; return its address."""
        context = self._half(sid)
        directory = self.frame() if directory is None else directory
        return self.put(context, *entries.scalable_context(directory, **fields))

    def pasid(self, context: int, pasid: int, pgtt: int, did: int = 1, **fields: int) -> int:
        """Write directory and PASID-table entry below the context entry at *context*."""
        directory = (self.image[context] & ~0xFFF) + 8 * (pasid >> 6)
        if not self.image[directory]:
            self.put(directory, entries.directory(self.frame()))
        where = (self.image[directory] & ~0xFFF) + 64 * (pasid & 63)
        return self.put(where, *entries.pasid(pgtt, did, **fields))

    def extended(self, sid: int, second: int, aw: int = 2, did: int = 1, **fields: int) -> int:
        """Write root half and extended context entry (rev 2.x); return the context address."""
        return self.put(self._half(sid), *entries.extended_context(second, aw, did, **fields))
