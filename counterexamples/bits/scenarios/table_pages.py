"""The family `table-pages`: a table page that is freed while a paging-structure cache leads to it.

All address spaces share the upper tables of one region, as processes share those of the kernel;
each table page stands for 2 MiB of it. Its next owner writes what he likes into it, here an entry
that leads to a page of a victim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import ClassVar

from dmaproof.counterexamples.bits.host import LEVELS, POINTER
from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Entry,
    Handler,
    Lookup,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.model.families import table_pages as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.caches import Held
from dmaproof.model.vtd.invalidation import Command, Op

_SVA_DID = 1  # drivers/iommu/intel/pasid.h FLPT_DEFAULT_DID
_REGION = 0x7F00_0000_0000
_PAGES = 2 << 20
_LISTS = "lists and locks are the kernel's; no table is written"


class Bits(BitsOfFamily):
    """An address space is a first stage under its own PASID and the DID of all processes."""

    stutters: ClassVar[Mapping[str, str]] = {
        "take.return": _LISTS, "page.back": "memory changes hands, its content stays",
        "bind.enter": _LISTS, "bind.list": _LISTS, "bind.return": _LISTS,
        "unbind.enter": _LISTS, "unbind.unlist": _LISTS, "unbind.return": _LISTS,
    }
    cached = (family.STRUCTURE,)

    def boot(self) -> Board:
        """Upper tables are there; no table page is linked, no entry is present."""
        board = Board()
        self.wire = board.wire(0)
        board.plug(self.wire)
        self.victim, self.kernel = board.page(), board.page()
        with board.frames.purpose("upper tables of the shared region"):
            levels = [board.frames.frame() for _ in range(LEVELS - 2)]  # of 1 GiB and 2 MiB entries
        for upper, lower in pairwise(levels):
            board.write(board.frames.index(upper, 3, _REGION), int(entries.first_stage(lower)))
        self._last = levels[-1]
        self.spaces = {}
        for k in self.elements(v.SPACE):
            self.spaces[k] = board.page_table(self.name(v.SPACE, k), first=True)
            where = board.frames.index(self.spaces[k].top, LEVELS, _REGION)
            board.write(where, int(entries.first_stage(levels[0])))
        self.frame = {}
        for t in self.elements(family.TABLE_PAGE):
            with board.frames.purpose(self.name(family.TABLE_PAGE, t)):
                self.frame[t] = board.frames.frame()
        return board

    @staticmethod
    def _address(t: int) -> int:
        return _REGION + _PAGES * t

    @staticmethod
    def _pasid(k: int) -> int:
        return 1 + k

    def _pointer(self, t: int) -> int:
        """Return the address of the entry that leads to a table page."""
        return self.board.frames.index(self._last, 2, self._address(t))

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Writes of tables, descriptors, and walks that leave pointers in the caches."""
        return {
            "link": self._link,
            "take.enter": lambda m: self.board.write(self.frame[m["t"]], 0),
            "take.unlink": lambda m: self.board.write(self._pointer(m["t"]), 0),
            "take.free": self._free,
            "take.flush-with-structures": lambda m: self._flush(m, Op.PASID_IOTLB_PASID),
            "take.flush-leaves-only": lambda m: self._flush(m, Op.PASID_IOTLB_PAGE),
            "bind.set-up-entry": lambda m: self.board.enter(
                self.wire, self._pasid(m["s"]), self.spaces[m["s"]], _SVA_DID),
            "unbind.clear": lambda m: self.board.clear(self.wire, self._pasid(m["s"])),
            "unbind.flush": lambda m: self.board.flush(
                self.wire, *(Command(op, did=_SVA_DID, pasid=self._pasid(m["s"]))
                             for op in (Op.PASID_CACHE_PASID, Op.PASID_IOTLB_PASID))),
            "paging-structure-cache.fill": self._fill,
            "paging-structure-cache.evict": self._evict,
        }

    def _link(self, m: Moment) -> None:
        """The page holds one leaf, of a page of the kernel's, before something leads to it."""
        self.board.write(self.frame[m["t"]], int(entries.first_stage(self.kernel)))
        self.board.write(self._pointer(m["t"]), int(entries.first_stage(self.frame[m["t"]])))

    def _free(self, m: Moment) -> None:
        """The next owner writes into the page."""
        self._written(m["t"])

    def _written(self, t: int) -> None:
        self.board.write(self.frame[t], int(entries.first_stage(self.victim)))

    def _flush(self, m: Moment, op: Op) -> str:
        """Flush every space on the list; a flush of leaves alone names the page, with IH=1."""
        listed = sorted(k for (k,) in m.before[family.LISTED])
        for k in listed:
            command = Command(op, did=_SVA_DID, pasid=self._pasid(k))
            if op is Op.PASID_IOTLB_PAGE:
                command = Command(op, did=_SVA_DID, pasid=self._pasid(k), ih=True,
                                  address=self._address(m["t"]))
            self.board.flush(self.wire, command)
        return "" if listed else "no space is listed: nothing is queued"

    def _fill(self, m: Moment) -> str:
        """A walk leaves its pointer to the table page, wherever it ends."""
        unit = self.board.unit(self.wire)
        request = self.board.request(self.wire, self._pasid(m["s"]), self._address(m["t"]))
        kept = False
        for way in list(unit.hardware.ways(request)):
            for cache, held in way.entries:
                if cache == "paging" and (m["s"], m["t"]) in self._rows(held):
                    unit.keep(cache, held)
                    kept = True
        return "" if kept else "the hardware has nothing that leads there, and fills nothing"

    def _evict(self, m: Moment) -> None:
        self.board.unit(self.wire).evict("paging", lambda tag, value: (
            (m["s"], m["t"]) in self._rows(Held(tag, value))))

    # -- alpha ------------------------------------------------------------------------------

    def _rows(self, held: Held) -> set[Row]:
        """Return which space and table page an entry of the paging-structure cache is about."""
        return {
            (k, t) for k in self.spaces for t, frame in self.frame.items()
            if held.tag.first and held.tag.pasid == self._pasid(k)
            and held.value[0] & POINTER == frame
        }

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read what leads to table pages, and the entries of the spaces."""
        linked: set[Row] = {(t,) for t, frame in self.frame.items()
                  if self.board.memory[self._pointer(t)] & POINTER == frame}
        live: set[Row] = {(k,) for k in self.spaces
                if self.board.read_entry(self.wire, self._pasid(k)) == (_SVA_DID, self.spaces[k])}
        return {family.LINKED: linked, family.LIVE: live}

    def held(self) -> Iterator[Entry]:
        """Read the paging-structure cache, as far as it leads to table pages."""
        for held in self.board.unit(self.wire).hardware.caches.paging:
            rows = self._rows(held)
            if rows:
                yield Entry(family.STRUCTURE, frozenset(rows), f"the unit holds {held.tag}")

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every space for every table page's part."""
        for k in self.spaces:
            for t, frame in self.frame.items():
                entry = self.board.memory[frame]
                leads = frozenset({entry & POINTER} if entry & 1 else ())
                walks = (k,) in state[family.LIVE] and (t,) in state[family.LINKED]
                cached = (k,) in state[family.LIVE] and (k, t) in state[family.STRUCTURE]
                yield Lookup(
                    self.wire, self.board.request(self.wire, self._pasid(k), self._address(t)),
                    leads if walks else frozenset(), leads if cached else frozenset(),
                    f"{self.name(v.SPACE, k)}, through {self.name(family.TABLE_PAGE, t)},")

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request that goes through a page which somebody else writes."""
        if claim == "can-walk":
            k, t = o["s"], o["t"]
            issued = self.board.lands(self.wire, self._pasid(k), self.kernel, self._address(t))
            note(seen, issued, "through the tables")
            return
        k, t = o["s1"], o["t1"]
        if not self._cached(k, t):
            raise NotReproduced("no cached paging structure leads to the page")
        if claim == "no-stale-structure":
            self._written(t)  # whoever gets it next does, if he has not yet
        issued = self.board.lands(self.wire, self._pasid(k), self.victim, self._address(t),
                                  cached=True)
        note(seen, issued, f"where an entry leads that the next owner of"
                           f" {self.name(family.TABLE_PAGE, t)} wrote into it")

    def _cached(self, k: int, t: int) -> bool:
        caches = self.board.unit(self.wire).hardware.caches
        return any((k, t) in self._rows(held) for held in caches.paging)


BITS = Bits
