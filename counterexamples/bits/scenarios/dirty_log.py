"""The family `dirty-log`: SSADE in PASID-table entries, dirty flags in second-stage leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, Seen, by_tables
from dmaproof.counterexamples.bits.places import IOVA, OFFSET, VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Handler,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import SSADS, Board, PageTable
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import dirty_log as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID

_SSADE = 1 << 9
_DIRTY = 1 << 9
_DID = 0x10


class Bits(BitsOfFamily):
    """A parent is a second stage; what is nested on it a first stage with the same pages."""

    stutters: ClassVar[Mapping[str, str]] = {
        "tracking.stop": "entries go on setting flags that nobody reads any more",
    }

    def boot(self) -> Board:
        """Nothing is attached; the parents map all pages."""
        board = Board(ecap=SSADS)
        self.wires = {f: board.wire(f) for f in self.elements(FUNCTION)}
        for wire in self.wires.values():
            board.plug(wire)
        self.parents, self.children = {}, {}
        self.page: dict[tuple[int, int], int] = {}
        for d in self.elements(family.PARENT):
            self.parents[d] = board.page_table(self.name(family.PARENT, d))
            child = board.page_table(f"a table nested on {self.parents[d].name}",
                                     parent=self.parents[d])
            for g in self.elements(family.PAGE):
                self.page[d, g] = board.page()
                board.map(self.parents[d], self._iova(g), self.page[d, g])
                board.map(child, VIRTUAL + PAGE * g, self._iova(g))
            self.children[d] = child
        self.written: dict[tuple[int, int], list[Issued]] = {}
        return board

    @staticmethod
    def _iova(g: int) -> int:
        return IOVA + PAGE * g

    def _pasid(self, p: int) -> int:
        return 1 + p

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Entries with or without SSADE, and writes that set flags where it is on."""
        return {
            "attach": self._attach,
            "attach_nested": self._attach_nested,
            "tracking.start": self._start,
            "write": lambda m: self._write(m, None, self._iova(m["g"])),
            "write_nested": lambda m: self._write(
                m, self._pasid(m["p"]), VIRTUAL + PAGE * m["g"]),
        }

    def _attach(self, m: Moment) -> None:
        on = (m["f"], m["d"]) in m.after[family.ENABLED_RID]
        self._enter(self.wires[m["f"]], None, self.parents[m["d"]], m["d"], on)

    def _attach_nested(self, m: Moment) -> None:
        on = (m["f"], m["p"], m["d"]) in m.after[family.ENABLED]
        self._enter(self.wires[m["f"]], self._pasid(m["p"]), self.children[m["d"]], m["d"], on)

    def _enter(self, wire: Bdf, pasid: int | None, table: PageTable, d: int, on: bool) -> None:
        self.board.tear_down(wire, pasid)
        self.board.enter(wire, pasid, table, _DID + d, ssade=int(on))

    def _start(self, m: Moment) -> None:
        """Set SSADE in the entries that the driver walks; caches are flushed as for any change."""
        for f, d in sorted(m.added(family.ENABLED_RID)):
            self._enter(self.wires[f], None, self.parents[d], d, True)
        for f, p, d in sorted(m.added(family.ENABLED)):
            self._enter(self.wires[f], self._pasid(p), self.children[d], d, True)

    def _write(self, m: Moment, pasid: int | None, address: int) -> None:
        """The device writes; the flags that the walk wants to set are set."""
        wire = self.wires[m["f"]]
        request = self.board.request(wire, pasid, address + OFFSET, write=True)
        outcome = self.board.outcome(wire, request)
        issued = by_tables(self.board.unit(wire).hardware, wire, request)
        for _, where, bits in outcome.updates:
            self.board.write(where, self.board.memory[where] | bits)
        self.written.setdefault((m["d"], m["g"]), []).append(issued)

    # -- alpha ------------------------------------------------------------------------------

    def _dirty(self, d: int, g: int) -> bool:
        leaf = self.board.leaf(self.parents[d], self._iova(g))
        return leaf is not None and bool(self.board.memory[leaf] & _DIRTY)

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read entries and dirty flags."""
        found: dict[Rel, set[Row]] = {rel: set() for rel in (
            family.DIRECT, family.NESTED, family.ENABLED, family.ENABLED_RID)}
        for f, wire in self.wires.items():
            for d in self.parents:
                if self.board.read_entry(wire, None) == (_DID + d, self.parents[d]):
                    found[family.DIRECT].add((f, d))
                    if self.board.memory[self.board.entry(wire, None)] & _SSADE:
                        found[family.ENABLED_RID].add((f, d))
                for p in self.elements(PASID):
                    number = self._pasid(p)
                    if self.board.read_entry(wire, number) == (_DID + d, self.children[d]):
                        found[family.NESTED].add((f, p, d))
                        if self.board.memory[self.board.entry(wire, number)] & _SSADE:
                            found[family.ENABLED].add((f, p, d))
        found[family.LOGGED] = {(d, g) for d, g in self.page if self._dirty(d, g)}
        return found

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show the write that landed, and the flag of its page."""
        d, g = o["d1"], o["g1"]
        writes = [i for i in self.written.get((d, g), ()) if i.hpa == self.page[d, g] + OFFSET]
        if not writes:
            raise NotReproduced("no write has landed in the page")
        dirty = self._dirty(d, g)
        if dirty == (claim == "log-complete"):
            raise NotReproduced(f"the dirty flag of the page is {'set' if dirty else 'clear'}")
        note(seen, writes[-1], f"the dirty flag of that page is {'set' if dirty else 'clear'}")


BITS = Bits
