"""The family `nesting`: a guest's tables in the PASID entries of functions, on one second stage.

The containers of the family are one guest's, so that all of them map the same guest memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.scenarios.base import Row
from dmaproof.counterexamples.bits.scenarios.board import Board, PageTable
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place, Shot
from dmaproof.model.families import nesting as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE

_FOREIGN = "the guest bound that table for another device"


class Bits(EntryBits):
    """A space is a guest's first stage that stands on the guest's second stage."""

    following = (family.ENTRY,)
    shots: ClassVar[Mapping[str, tuple[Shot, ...]]] = {
        "device-isolation": (Shot(("x", "q"), "t", _FOREIGN),),
        "group-isolation": (Shot(("x", "q"), "t", _FOREIGN),),
        "container-isolation": (Shot(("x", "q"), "t", _FOREIGN),),
        "uniform": (Shot(("x", "q"), "t", "as bound"),
                    Shot(("y", "q"), "", "it is in the same container")),
        "can-own-tables": (Shot(("x", "q"), "t", "its own table"),
                           Shot(("y", "q"), "w", "its own table")),
        "can-bind": (Shot(("x", "q"), "t", "as bound"),),
        "can-share-stage-2": (),
    }

    def table(self, board: Board, name: str) -> PageTable:
        """Make a guest's table."""
        parent = next((t.parent for t in self.goals.values()), None)
        return board.page_table(name, parent=parent or board.page_table("the guest's memory"))

    def boot(self) -> Board:
        """The guest's pages are mapped in its second stage."""
        board = super().boot()
        for goal, table in self.goals.items():
            assert table.parent is not None
            board.map(table.parent, self.page[goal], self.page[goal])
        return board

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Guests' tables."""
        return ((s, self.name(SPACE, s)) for s in self.elements(SPACE))

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Every function has a PASID table of its own."""
        for f in self.elements(FUNCTION):
            wire = board.wire(f)
            board.plug(wire)
            for p in self.elements(PASID):
                yield (f, p), (wire, 1 + p)


BITS = Bits
