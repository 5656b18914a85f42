"""The family `entry-update`: an entry that a walk fetches in two parts while it is written.

A PASID-table entry is fetched as 128 bits with Present, PGTT, the second stage and the DID, then
128 bits with the first stage (VT-d 9.6). Of context entries the first 128 bits count, which the
driver writes as two quadwords: pointer and Present, then the DID (legacy, VT-d 9.3) or RID_PASID
(scalable mode, VT-d 9.4); there the parts are quadwords. What a walk has put together goes through
the engine as if it had been one entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.host import AW
from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
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
_RPS = 1 << 49  # ECAP: RID_PASID may be other than 0
_PROGRAMS = ("setup", "replace", "teardown")
Words = tuple[int, ...]


class Layout(ABC):
    """One kind of entry: what contents are, and what a walk through it finds.

    Attributes:
        board: the machine.
        contents: the names of the contents, by element.
        where: address of each entry.
        pages: the page that the low half of one content finds with the high half of another.
        part: the cache that holds entries of this kind.
        pasid: of the requests that use the entry (None: without).
    """

    part: ClassVar[str]
    pasid: ClassVar[int | None] = None

    def __init__(self, board: Board, wires: Mapping[int, Bdf], contents: Mapping[int, str]) -> None:
        self.board, self.wires, self.contents = board, wires, contents
        self.pages: dict[tuple[int, int], int] = {}
        self.fill()
        self.where = {e: self.place(wire) for e, wire in wires.items()}

    @abstractmethod
    def fill(self) -> None:
        """Build what contents lead to."""

    @abstractmethod
    def place(self, wire: Bdf) -> int:
        """Plug a requester in and return the address of its entry, which is zero."""

    @abstractmethod
    def words(self, content: int) -> Words:
        """Return the words of a content, Present included."""

    @abstractmethod
    def flush(self, wire: Bdf) -> None:
        """Flush what was there and what is to be, in the order of VT-d 6.5.3.3."""

    @abstractmethod
    def found(self, low: int, high: int) -> str:
        """Say what a walk with halves of two contents has found."""

    @staticmethod
    def did(content: int) -> int:
        """Return the domain id of a content."""
        return 0x10 + content


class PasidEntry(Layout):
    """PASID-table entry: nested contents, each with a second stage, a first stage and a DID."""

    part, pasid = "pasid", _PASID

    def fill(self) -> None:
        """Build tables; guests' memory is mapped alike in all second stages."""
        board = self.board
        self.goal: dict[int, PageTable] = {}
        for content, name in self.contents.items():
            parent = board.page_table(f"second stage of content {name}")
            self.goal[content] = board.page_table(f"content {name}", parent=parent)
        own = {high: board.page() for high in self.goal}
        for high, table in self.goal.items():
            board.map(table, VIRTUAL, own[high])
        frames = [f for f, t in board.owner.items() if t.parent is not None]
        for low, table in self.goal.items():
            assert table.parent is not None
            for frame in (*frames, *own.values()):
                board.map(table.parent, frame, frame)
            self.pages |= {(low, high): own[high] for high in self.goal}

    def place(self, wire: Bdf) -> int:
        """The entry of one PASID."""
        self.board.plug(wire)
        return self.board.entry(wire, _PASID)

    def words(self, content: int) -> Words:
        """Both chunks; the others are reserved."""
        return Board.content(self.goal[content], self.did(content))[:4]

    def flush(self, wire: Bdf) -> None:
        """PASID cache and IOTLB."""
        for content in self.goal:
            did = self.did(content)
            self.board.flush(wire, Command(Op.PASID_CACHE_PASID, did=did, pasid=_PASID),
                             Command(Op.IOTLB_DOMAIN, did=did))

    def found(self, low: int, high: int) -> str:
        """The first stage is in the high half."""
        return (f"the first stage of content {self.contents[high]}, on the second stage and under"
                f" the DID of content {self.contents[low]} ({self.did(low):#x})")


class LegacyContext(Layout):
    """Context entry of legacy mode: a second stage and a DID."""

    part = "context"

    def fill(self) -> None:
        """Build second stages."""
        self.goal: dict[int, PageTable] = {}
        for content, name in self.contents.items():
            self.goal[content] = self.board.page_table(f"content {name}")
            page = self.board.page()
            self.board.map(self.goal[content], VIRTUAL, page)
            self.pages |= {(content, high): page for high in self.contents}

    def place(self, wire: Bdf) -> int:
        """The entry of the requester."""
        with self.board.frames.purpose(f"context table of bus {wire.bus:02x}", 16):
            where = self.board.frames.legacy(wire.rid, 0, present=0)
        self.board.write(where, 0, 0)
        return where

    def words(self, content: int) -> Words:
        """Both quadwords."""
        found = entries.legacy_context(self.goal[content].top, AW, self.did(content))
        return tuple(map(int, found))

    def flush(self, wire: Bdf) -> None:
        """Context cache and IOTLB."""
        for content in self.goal:
            did = self.did(content)
            self.board.flush(wire, Command(Op.CONTEXT_DEVICE, did=did, sid=wire.rid),
                             Command(Op.IOTLB_DOMAIN, did=did))

    def found(self, low: int, high: int) -> str:
        """The second stage is in the low half."""
        return (f"the second stage of content {self.contents[low]}, under the DID of content"
                f" {self.contents[high]} ({self.did(high):#x})")


class ScalableContext(Layout):
    """Context entry of scalable mode: a PASID directory, and which entry is for no PASID."""

    part = "context"

    def fill(self) -> None:
        """Build directories; each has an entry for every content's RID_PASID."""
        board = self.board
        self._directory: dict[int, int] = {}
        for low, name in self.contents.items():
            with board.frames.purpose(f"PASID directory of content {name}"):
                self._directory[low] = board.frames.frame()
            with board.frames.purpose(f"PASID table of content {name}", 64):
                table = board.frames.frame()
            board.write(self._directory[low], int(entries.directory(table)))
            for high in self.contents:
                goal = board.page_table(f"RID_PASID {self._rid_pasid(high)} of content {name}")
                self.pages[low, high] = board.page()
                board.map(goal, VIRTUAL, self.pages[low, high])
                board.write(table + 64 * self._rid_pasid(high),
                            *Board.content(goal, 0x20 + 8 * low + high))

    @staticmethod
    def _rid_pasid(content: int) -> int:
        return 2 + content

    def place(self, wire: Bdf) -> int:
        """The entry of the requester."""
        with self.board.frames.purpose(f"context table of bus {wire.bus:02x}", 32):
            return self.board.frames.scalable(wire.rid, 0, present=0)

    def words(self, content: int) -> Words:
        """The first two quadwords; the others are reserved."""
        found = entries.scalable_context(self._directory[content], paside=1,
                                         rid_pasid=self._rid_pasid(content))
        return tuple(map(int, found[:2]))

    def flush(self, wire: Bdf) -> None:
        """Context cache, then what lies behind."""
        self.board.flush(wire, Command(Op.CONTEXT_DEVICE, sid=wire.rid),
                         Command(Op.PASID_CACHE_GLOBAL), Command(Op.IOTLB_GLOBAL))

    def found(self, low: int, high: int) -> str:
        """The directory is in the low half."""
        return (f"the directory of content {self.contents[low]}, at the RID_PASID of content"
                f" {self.contents[high]} ({self._rid_pasid(high)})")


_LAYOUTS: Mapping[str, type[Layout]] = {
    "PASID": PasidEntry, "context": LegacyContext, "scalable context": ScalableContext,
}


class Bits(BitsOfFamily):
    """Every entry is a requester's own."""

    stutters: ClassVar[Mapping[str, str]] = {
        **{f"{name}.enter": "the call has entered and holds the lock; its steps follow"
           for name in _PROGRAMS},
        "walk.end": "a walk that ends leaves what it has cached",
    }
    cached = (family.CACHED,)

    def boot(self) -> Board:
        """Entries are zero; what all contents lead to is there."""
        kind = _LAYOUTS[self.options.entry]
        board = Board(Tables.LEGACY if kind is LegacyContext else Tables.SCALABLE, ecap=_RPS)
        self.wires = {e: board.wire(e) for e in self.elements(family.ENTRY)}
        names = {c: self.name(family.CONTENT, c) for c in self.elements(family.CONTENT)}
        self.layout = kind(board, self.wires, names)
        self._fetched: dict[tuple[int, int], Words] = {}
        return board

    @staticmethod
    def _halves(words: Words) -> tuple[Words, Words]:
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
                f"{name}.flush": lambda m: self.layout.flush(self.wires[m["e"]]),
            }
        return found

    def _present(self, bit: int) -> Handler:
        def write(m: Moment) -> None:
            where = self.layout.where[m["e"]]
            self.board.write(where, self.board.memory[where] & ~1 | bit)

        return write

    def _low(self, m: Moment) -> None:
        """Write the first chunk at once, with Present as it is."""
        where = self.layout.where[m["e"]]
        low, _ = self._halves(self.layout.words(m["new"]))
        present = self.board.memory[where] & 1
        self.board.write(where, low[0] & ~1 | present, *low[1:])

    def _high(self, m: Moment) -> None:
        low, high = self._halves(self.layout.words(m["new"]))
        self.board.write(self.layout.where[m["e"]] + 8 * len(low), *high)

    def _fetch(self, m: Moment) -> None:
        size = len(self._halves(self.layout.words(m["v"]))[0])
        self._fetched[m["e"], m["v"]] = self.board.words(self.layout.where[m["e"]], size)

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
            seen[self.layout.where[m["e"]] + 8 * n] = word
        walker = Hardware(seen, unit.hardware.registers, ())
        kept = False
        for way in walker.ways(self.board.request(wire, self.layout.pasid)):
            for cache, held in way.entries:
                if cache == self.layout.part:
                    unit.keep(cache, held)
                    kept = True
        return "" if kept else "the entry that was put together is none that hardware takes"

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read Present and both chunks; zeros are no content."""
        found: dict[Rel, set[Row]] = {family.PRESENT: set(), family.LOW: set(), family.HIGH: set()}
        for e, where in self.layout.where.items():
            if self.board.memory[where] & 1:
                found[family.PRESENT].add((e,))
            for c in self.layout.contents:
                words = self.layout.words(c)
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
            for held in getattr(self.board.unit(wire).hardware.caches, self.layout.part):
                if held.tag.sid == wire.rid:
                    yield Entry(family.CACHED, frozenset(self._rows(e, held.value[0])),
                                f"the unit holds {held.tag}")

    def _rows(self, e: int, value: tuple[int, ...]) -> Iterator[Row]:
        halves = {c: self._halves(self.layout.words(c)) for c in self.layout.contents}
        for low, high in self.layout.pages:
            words = (*halves[low][0], *halves[high][1])
            if tuple(value) == words[:len(value)]:
                yield (e, low, high)

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request that the entry put together by a walk translates."""
        low = o["v1"]
        high = low if claim == "can-walk" else o["w1"]
        issued = self.board.lands(self.wires[o["e1"]], self.layout.pasid,
                                  self.layout.pages[low, high], cached=True)
        note(seen, issued, f"found by {self.layout.found(low, high)}")


BITS = Bits
