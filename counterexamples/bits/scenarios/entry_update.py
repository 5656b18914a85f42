"""The family `entry-update`: an entry that a walk fetches in two parts while it is written.

A PASID-table entry is fetched as 128 bits with Present, PGTT, the second stage and the DID, then
128 bits with the first stage (VT-d 9.6). A legacy context entry has one chunk of 128 bits, which
the driver wrote as two quadwords: pointer and Present, then the DID (VT-d 9.3); there the parts are
quadwords. What a walk has put together goes through the engine as if it had been one entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.host import AW
from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, Seen
from dmaproof.counterexamples.bits.places import VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Entry,
    Handler,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board, PageTable
from dmaproof.counterexamples.bits.unit import Tables
from dmaproof.model.algebra import Image
from dmaproof.model.families import entry_update as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.caches import Hardware
from dmaproof.model.vtd.invalidation import Command, Op

_PASID = 1
_PROGRAMS = ("setup", "replace", "teardown")
Words = tuple[int, ...]


class Bits(BitsOfFamily):
    """Every entry is a requester's own; every content leads to a page of its own under its DID."""

    stutters: ClassVar[Mapping[str, str]] = {
        **{f"{name}.enter": "the call has entered and holds the lock; its steps follow"
           for name in _PROGRAMS},
        "walk.end": "a walk that ends leaves what it has cached",
    }
    cached = (family.CACHED,)

    def boot(self) -> Board:
        """Entries are zero; page tables of all contents are there."""
        self.context = self.options.entry == "context"
        board = Board(Tables.LEGACY if self.context else Tables.SCALABLE)
        self.wires = {e: board.wire(e) for e in self.elements(family.ENTRY)}
        self.where: dict[int, int] = {}
        for e, wire in self.wires.items():
            if self.context:
                with board.frames.purpose(f"context table of bus {wire.bus:02x}", 16):
                    self.where[e] = board.frames.legacy(wire.rid, 0, present=0)
                board.write(self.where[e], 0, 0)
            else:
                board.plug(wire)
                self.where[e] = board.entry(wire, _PASID)
        self.goal: dict[int, PageTable] = {}
        self.page: dict[int, int] = {}
        for c in self.elements(family.CONTENT):
            name = f"content {self.name(family.CONTENT, c)}"
            # The low chunks differ: each has a DID, and a second stage, of its own.
            parent = None if self.context else board.page_table(f"second stage of {name}")
            self.goal[c] = board.page_table(name, parent=parent)
            self.page[c] = board.page()
            board.map(self.goal[c], VIRTUAL, self.page[c])
        for table in self.goal.values():  # a guest's pages are there for whoever stands on it
            for page in self.page.values():
                for other in self.goal.values():
                    if table.parent is not None:
                        board.map(table.parent, page, page)
                        self._lend(board, table.parent, other)
        self._fetched: dict[tuple[int, int], Words] = {}
        return board

    @staticmethod
    def _lend(board: Board, parent: PageTable, table: PageTable) -> None:
        """Map the frames of a guest's tables into a second stage, too."""
        for frame in [f for f, t in board.owner.items() if t == table]:
            board.map(parent, frame, frame)

    def did(self, content: int) -> int:
        """Return the domain id of a content."""
        return 0x10 + content

    def words(self, content: int) -> Words:
        """Return the words of a content, Present included."""
        table = self.goal[content]
        if self.context:
            return tuple(map(int, entries.legacy_context(table.top, AW, self.did(content))))
        return Board.content(table, self.did(content))[:4]

    def _halves(self, words: Words) -> tuple[Words, Words]:
        middle = len(words) // 2
        return words[:middle], words[middle:]

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Each write is that of one chunk; a walk fetches one chunk after the other."""
        found: dict[str, Handler] = {"walk.low": self._fetch, "walk.high": self._finish}
        for name in _PROGRAMS:
            found |= {
                f"{name}.clear-present": self._present(0),
                f"{name}.set-present": self._present(1),
                f"{name}.write-low": self._low,
                f"{name}.write-high": self._high,
                f"{name}.flush": self._flush,
            }
        return found

    def _present(self, bit: int) -> Handler:
        def write(m: Moment) -> None:
            where = self.where[m["e"]]
            self.board.write(where, self.board.memory[where] & ~1 | bit)

        return write

    def _low(self, m: Moment) -> None:
        """Write the first chunk at once, with Present as it is."""
        where = self.where[m["e"]]
        low, _ = self._halves(self.words(m["new"]))
        present = self.board.memory[where] & 1
        self.board.write(where, low[0] & ~1 | present, *low[1:])

    def _high(self, m: Moment) -> None:
        low, high = self._halves(self.words(m["new"]))
        self.board.write(self.where[m["e"]] + 8 * len(low), *high)

    def _flush(self, m: Moment) -> None:
        """Flush under the DID of what was there and under that of what is to be."""
        wire = self.wires[m["e"]]
        for content in self.goal:
            did = self.did(content)
            if self.context:
                inner = Command(Op.CONTEXT_DEVICE, did=did, sid=wire.rid)
            else:
                inner = Command(Op.PASID_CACHE_PASID, did=did, pasid=_PASID)
            self.board.flush(wire, inner, Command(Op.IOTLB_DOMAIN, did=did))

    def _fetch(self, m: Moment) -> None:
        where = self.where[m["e"]]
        low = self.board.words(where, len(self._halves(self.words(m["v"]))[0]))
        self._fetched[m["e"], m["v"]] = low

    def _finish(self, m: Moment) -> str:
        """Let the engine walk with the low chunk fetched before and the high one of now.

        Raises:
            NotReproduced: no low chunk was fetched.
        """
        low, wire = self._fetched.get((m["e"], m["v"])), self.wires[m["e"]]
        if low is None:
            raise NotReproduced("no walk has fetched the low chunk")
        unit = self.board.unit(wire)
        seen = Image(self.board.memory.words, self.board.memory.ram)
        for n, word in enumerate(low):
            seen[self.where[m["e"]] + 8 * n] = word
        walker = Hardware(seen, unit.hardware.registers, ())
        part = "context" if self.context else "pasid"
        kept = False
        for way in walker.ways(self.board.request(wire, self._pasid)):
            for cache, held in way.entries:
                if cache == part:
                    unit.keep(cache, held)
                    kept = True
        return "" if kept else "the entry that was put together is none that hardware takes"

    @property
    def _pasid(self) -> int | None:
        return None if self.context else _PASID

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read Present and both chunks; zeros are no content."""
        found: dict[Rel, set[Row]] = {family.PRESENT: set(), family.LOW: set(), family.HIGH: set()}
        for e, where in self.where.items():
            if self.board.memory[where] & 1:
                found[family.PRESENT].add((e,))
            for c in self.goal:
                words = self.words(c)
                low, high = self._halves(words)
                here = self.board.words(where, len(words))
                if (here[0] | 1, *here[1:len(low)]) == low:
                    found[family.LOW].add((e, c))
                if here[len(low):] == high:
                    found[family.HIGH].add((e, c))
        return found

    def held(self) -> Iterator[Entry]:
        """Read what walks have put together."""
        for e, wire in self.wires.items():
            caches = self.board.unit(wire).hardware.caches
            for held in caches.context if self.context else caches.pasid:
                if held.tag.sid == wire.rid:
                    yield Entry(family.CACHED, frozenset(self._rows(e, held.value[0])),
                                f"the unit holds {held.tag}")

    def _rows(self, e: int, value: tuple[int, ...]) -> Iterator[Row]:
        for low in self.goal:
            for high in self.goal:
                words = (*self._halves(self.words(low))[0], *self._halves(self.words(high))[1])
                if tuple(value) == words[:len(value)]:
                    yield (e, low, high)

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request that the entry put together by a walk translates."""
        if claim == "can-walk":
            note(seen, self._lands(self.wires[o["e1"]], o["v1"]), "one whole content")
            return
        low, high = o["v1"], o["w1"]
        # A legacy entry has the pointer in its low half, a PASID-table entry in its high one.
        names = [self.name(family.CONTENT, c) for c in (low, high)]
        pointer, tag = (low, high) if self.context else (high, low)
        pairs = {low: names[0], high: names[1]}
        issued = self._lands(self.wires[o["e1"]], pointer)
        note(seen, issued, f"the page of content {pairs[pointer]}, found with"
                           f" {'DID' if self.context else 'second stage and DID'} of content"
                           f" {pairs[tag]} ({self.did(tag):#x}): no content says so")

    def _lands(self, wire: Bdf, content: int) -> Issued:
        return self.board.lands(wire, self._pasid, self.page[content], cached=True)


BITS = Bits
