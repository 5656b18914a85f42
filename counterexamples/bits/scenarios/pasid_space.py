"""The family `pasid-space`: a PASID table for each function, or one that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Seen
from dmaproof.counterexamples.bits.scenarios.base import Objects, Row, note
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place
from dmaproof.model.families import pasid_space as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE


class Bits(EntryBits):
    """With one table for the unit, all context entries lead to one PASID directory."""

    stutters: ClassVar[Mapping[str, str]] = {
        "allocate": "who holds a PASID number is the kernel's bookkeeping",
        "share": "the entry is there and serves the function, too; what a device is told to use is"
                 " the device's",
    }
    following = (family.OWN, family.SHARED)

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Spaces."""
        return ((s, self.name(SPACE, s)) for s in self.elements(SPACE))

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Plug the functions in, into one directory or into one each."""
        if (rel == family.SHARED) != (self.options.table == "iommu"):
            return
        self.wires = {f: board.wire(f) for f in self.elements(FUNCTION)}
        directory = None
        for wire in self.wires.values():
            board.plug(wire, directory=directory)
            if rel == family.SHARED:
                directory = board.directory(wire)
        for p in self.elements(PASID):
            if rel == family.SHARED:
                yield (p,), (self.wires[0], 1 + p)
            else:
                yield from (((f, p), (wire, 1 + p)) for f, wire in self.wires.items())

    def senders(self, rel: Rel, prefix: Row) -> Iterator[Place]:
        """A shared entry serves whoever emits its PASID."""
        if rel == family.SHARED:
            yield from ((wire, 1 + prefix[0]) for wire in self.wires.values())
        else:
            yield from super().senders(rel, prefix)

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request of x with PASID q."""
        wire, pasid = self.wires[o["x"]], 1 + o["q"]
        if claim == "nobody-else-unbinds":
            note(seen, self.board.blocked(wire, pasid),
                 "it was bound, and another user's call took the entry away")
            return
        says = {"device-isolation": "never bound for that function",
                "user-isolation": "a page of another user"}.get(claim, "as bound")
        goal = self._own(o) if claim == "can-two-users" else o["t"]
        note(seen, self.board.lands(wire, pasid, self.page[goal]), says)

    def _own(self, o: Objects) -> int:
        """Return the space that x has at PASID q."""
        entry = self.board.read_entry(self.wires[o["x"]], 1 + o["q"])
        return next(s for s, table in self.goals.items() if entry and entry[1] == table)


BITS = Bits
