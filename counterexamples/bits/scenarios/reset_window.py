"""The family `reset-window`: entries of a group's members while one of them is reset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Seen
from dmaproof.counterexamples.bits.scenarios.base import Objects, Row, note
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place
from dmaproof.model.families import reset_window as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID


class Bits(EntryBits):
    """What the group has at a PASID is one page table; blocked is an entry that is not present."""

    following = (family.ENTRY,)
    unseen: ClassVar[Mapping[str, str]] = {
        "tracked-once": "tracking records are lists of the kernel; the entry is there once",
        "no-orphan-record": "tracking records are lists of the kernel; the entry is gone, as the"
                            " group's is",
    }

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """One page table for each PASID."""
        return ((p, f"the group's table at {self.name(PASID, p)}") for p in self.elements(PASID))

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Every function has a PASID table of its own."""
        for f in self.elements(FUNCTION):
            wire = board.wire(f)
            board.plug(wire)
            for p in self.elements(PASID):
                yield (f, p), (wire, 1 + p)

    def split(self, row: Row) -> tuple[Row, int]:
        """The goal of an entry is its PASID's."""
        return row, row[1]

    def join(self, prefix: Row, goal: int) -> Row | None:
        """The goal of an entry is its PASID's."""
        return prefix if prefix[1] == goal else None

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request of a function that is being reset, or that has lost its entry."""
        who = "y" if claim == "can-come-back" else "x"
        wire, pasid = self.places[family.ENTRY][o[who], o["q"]]
        if claim == "uniform-after-reset":
            note(seen, self.board.blocked(wire, pasid), "its group has that PASID")
            return
        says = {"blocked-while-reset": "it is being reset"}.get(claim, "another is being reset")
        note(seen, self.board.lands(wire, pasid, self.page[o["q"]]), says)


BITS = Bits
