"""The family `aliases`: every id under which a function's requests arrive has an entry of its own.

Requests without PASID, through the entry of RID_PASID; legacy tables have the same in the context
entry itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.scenarios.base import Row
from dmaproof.counterexamples.bits.scenarios.board import Board, PageTable
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place, Shot
from dmaproof.model.families import aliases as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import RID, SPACE


class Bits(EntryBits):
    """A requester id is one on the wire; a space is a second stage."""

    following = (family.ENTRY,)
    shots: ClassVar[Mapping[str, tuple[Shot, ...]]] = {
        "aliases-agree": (Shot(("r",), "w", "its function is attached to something else"),),
        "attached-translates": (Shot(("r",), "", "its function is attached"),),
        "nothing-left": (Shot(("r",), "t", "no function behind that id is attached to it"),),
        "can-attach-both": (Shot(("r",), "t", "two functions are attached to it"),),
        "can-translate": (Shot(("r",), "t", "its function is attached to it"),),
    }

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Spaces."""
        return ((s, self.name(SPACE, s)) for s in self.elements(SPACE))

    def table(self, board: Board, name: str) -> PageTable:
        """Make a second stage."""
        return board.page_table(name)

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Every id has an entry for requests without PASID."""
        for r in self.elements(RID):
            wire = board.wire(r)
            board.plug(wire)
            yield (r,), (wire, None)


BITS = Bits
