"""The family `container-as-group`: the same calls on a container, and on one large group beside it.

Each of the two worlds is a remapping unit of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Seen
from dmaproof.counterexamples.bits.scenarios.base import Objects, Row, note
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place, Shot
from dmaproof.model.families import container_as_group as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE


class Bits(EntryBits):
    """A function has an entry behind either unit."""

    following = (family.LEFT, family.RIGHT)
    shots: ClassVar[Mapping[str, tuple[Shot, ...]]] = {
        "can-reach-across": (
            Shot(("x", "q"), "t", "by a call for another group", family.LEFT),
            Shot(("y", "q"), "t", "by a call for another member", family.RIGHT)),
    }

    def machine(self) -> Board:
        """Return a machine with a unit for either world."""
        return Board(units=2)

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Spaces."""
        return ((s, self.name(SPACE, s)) for s in self.elements(SPACE))

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Every function has a PASID table of its own, in either world."""
        for f in self.elements(FUNCTION):
            wire = board.wire(f, 0 if rel == family.LEFT else 1)
            board.plug(wire)
            for p in self.elements(PASID):
                yield (f, p), (wire, 1 + p)

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue the same request in both worlds."""
        if claim != "same-tables":
            super().show(claim, o, seen)
            return
        for rel in self.following:
            wire, pasid = self.places[rel][o["x"], o["q"]]
            if self.board.read_entry(wire, pasid) is None:
                note(seen, self.board.blocked(wire, pasid), f"so {rel.name} has it")
            else:
                note(seen, self.board.lands(wire, pasid, self.page[o["t"]]),
                     f"so {rel.name} has it")


BITS = Bits
