"""What families have in common that bind any number of spaces at a PASID, and note where DMA lands.

Each (function, PASID) has a first stage of its own, in which every space has its own address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Issued, by_tables
from dmaproof.counterexamples.bits.places import OFFSET, VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import BitsOfFamily, Lookup, Moment, Row
from dmaproof.counterexamples.bits.scenarios.board import Board, PageTable, device_flush
from dmaproof.model.algebra import PAGE
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID, SPACE
from dmaproof.model.vtd.invalidation import Command, Op


class SpaceBits(BitsOfFamily):
    """Functions, PASIDs and spaces.

    Attributes:
        entry: the relation of bindings: function, PASID, space.
        landed_in: the relation that says whose requests were served where.
        ats: whether context entries allow ATS requests.
    """

    entry: ClassVar[Rel]
    landed_in: ClassVar[Rel]

    @property
    def ats(self) -> bool:
        """Whether context entries allow translation and translated requests."""
        return True

    def boot(self) -> Board:
        """No entry is present; the page tables map nothing."""
        board = Board()
        self.wires = {f: board.wire(f) for f in self.elements(FUNCTION)}
        for wire in self.wires.values():
            board.plug(wire, ats=self.ats)
        self.page = {s: board.page() for s in self.elements(SPACE)}
        self.spaces: dict[tuple[int, int], PageTable] = {
            (f, p): board.page_table(
                f"{self.name(FUNCTION, f)}, PASID {self.name(PASID, p)}", first=True)
            for f in self.wires for p in self.elements(PASID)
        }
        self.landed: dict[Row, Issued] = {}
        return board

    @staticmethod
    def pasid(p: int) -> int:
        """Return the number of a PASID."""
        return 1 + p

    @staticmethod
    def did(f: int, p: int) -> int:
        """Return a domain id: one PASID of two requesters is two spaces here (VT-d 6.2.3.1)."""
        return 0x10 + 8 * f + p

    @staticmethod
    def address(s: int) -> int:
        """Return the address of a space."""
        return VIRTUAL + PAGE * s

    # -- gamma ------------------------------------------------------------------------------

    def bind(self, m: Moment) -> None:
        """Map the space, and set the entry up if it is the first."""
        f, p, s = m["f"], m["p"], m["s"]
        self.board.map(self.spaces[f, p], self.address(s), self.page[s])
        if self.board.read_entry(self.wires[f], self.pasid(p)) is None:
            self.board.enter(self.wires[f], self.pasid(p), self.spaces[f, p], self.did(f, p))

    def unbind(self, m: Moment) -> None:
        """Clear the leaf, flush the page, and take the entry down with the last space."""
        f, p, s = m["f"], m["p"], m["s"]
        wire, pasid = self.wires[f], self.pasid(p)
        self.board.unmap(self.spaces[f, p], self.address(s))
        self.board.flush(wire, Command(Op.PASID_IOTLB_PAGE, did=self.did(f, p), pasid=pasid,
                                       address=self.address(s)))
        if self.ats:
            self.board.flush(wire, *device_flush(wire, pasid, self.address(s)))
        if not any(self._maps(f, p, other) for other in self.page):
            self.board.tear_down(wire, pasid)

    def ask(self, wire: Bdf, m: Moment, sender: int) -> str:
        """Send an untranslated request with a PASID and note where it lands."""
        request = self.board.request(wire, self.pasid(m["p"]), self.address(m["s"]) + OFFSET,
                                     write=True)
        self.serve(sender, by_tables(self.board.unit(wire).hardware, wire, request))
        return ""

    def serve(self, sender: int, issued: Issued) -> None:
        """Note where a request of a function lands, if it does."""
        for s, page in self.page.items():
            if issued.hpa == page + OFFSET:
                self.landed[sender, s] = issued

    def _maps(self, f: int, p: int, s: int) -> bool:
        return self.board.mapped(self.spaces[f, p], self.address(s)) == self.page[s]

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read entries and leaves; where requests landed is what was noted."""
        found: set[Row] = set()
        for (f, p), table in self.spaces.items():
            wanted = (self.did(f, p), table)
            if self.board.read_entry(self.wires[f], self.pasid(p)) == wanted:
                found |= {(f, p, s) for s in self.page if self._maps(f, p, s)}
        return {self.entry: found, self.landed_in: set(self.landed)}

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every function with every PASID for every space."""
        if not self.board.units[0].hardware.registers.enabled:
            return
        for f, wire in self.wires.items():
            for p in self.elements(PASID):
                for s, page in self.page.items():
                    here = frozenset({page} if (f, p, s) in state[self.entry] else ())
                    held = any(
                        tag.sid == wire.rid and value[0] == page
                        for tag, value, _ in self.board.unit(wire).hardware.caches.device)
                    yield Lookup(
                        wire, self.board.request(wire, self.pasid(p), self.address(s)), here,
                        frozenset({page} if held else ()),
                        f"{self.name(FUNCTION, f)}, PASID {self.name(PASID, p)}, for"
                        f" {self.name(SPACE, s)}")
