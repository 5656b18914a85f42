"""The family `table-publication`: a page of PASID-table entries, in the CPU's cache and in memory.

What the CPU has written is one image, what memory holds another; a line gets from one to the other
when it is evicted or flushed. A walker that does not snoop reads memory. Before it was a table, the
page held entries of its last owner, which lead to that owner's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, Seen, by_tables
from dmaproof.counterexamples.bits.places import OFFSET, VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Handler,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.model.algebra import PAGE, Image
from dmaproof.model.families import table_publication as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.caches import Hardware

_WORDS = 8  # of an entry
_DID = 0x10


class Bits(BitsOfFamily):
    """Each page has 64 PASIDs of one directory; the first of them is what is looked at."""

    stutters: ClassVar[Mapping[str, str]] = {
        "add.enter": "a page is allocated; memory holds what its last owner left",
        "add.return": "the call returns; its steps have been taken",
    }

    def boot(self) -> Board:
        """The pages hold what their last owner left: entries that lead to the owner's data."""
        board = Board()
        self.wire = board.wire(0)
        board.plug(self.wire)
        victim = board.page_table("the last owner", first=True)
        self.victim = board.page()
        board.map(victim, VIRTUAL, self.victim)
        self.frame: dict[int, int] = {}
        for page in self.elements(family.LEAF):
            with board.frames.purpose(self.name(family.LEAF, page), 64):
                self.frame[page] = board.frames.frame()
            board.write(self.frame[page], *board.content(victim, _DID))
        self.cpu: dict[int, int] = {}  # lines that the CPU has written and memory has not got
        self.walked: dict[int, list[Issued]] = {page: [] for page in self.frame}
        return board

    def _pasid(self, page: int) -> int:
        return 64 * (1 + page)

    def _pointer(self, page: int) -> int:
        """Return the address of the directory entry of a page."""
        return self.board.directory(self.wire) + 8 * (1 + page)

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Writes go to the CPU's cache, flushes and evictions take them to memory."""
        return {
            "add.zero-page": lambda m: self._store(self.frame[m["page"]], (0,) * _WORDS),
            "add.write-pointer": lambda m: self._store(
                self._pointer(m["page"]), (int(entries.directory(self.frame[m["page"]])),)),
            "add.clflush-page": self._flush_page, "cpu-cache.evict-page": self._flush_page,
            "add.clflush-pointer": self._flush_pointer,
            "cpu-cache.evict-pointer": self._flush_pointer,
            "walk": self._walk,
        }

    def _store(self, address: int, words: tuple[int, ...]) -> None:
        for n, word in enumerate(words):
            self.cpu[address + 8 * n] = word

    def _reach_memory(self, address: int, words: int) -> str:
        """Let memory get the lines of some words, if the CPU has written them."""
        lines = [a for a in range(address, address + 8 * words, 8) if a in self.cpu]
        for where in lines:
            self.board.write(where, self.cpu.pop(where))
        return "" if lines else "the CPU's cache holds nothing of it"

    def _flush_page(self, m: Moment) -> str:
        return self._reach_memory(self.frame[m["page"]], _WORDS)

    def _flush_pointer(self, m: Moment) -> str:
        return self._reach_memory(self._pointer(m["page"]), 1)

    def _walk(self, m: Moment) -> None:
        """A device asks with a PASID of the page; a walker that snoops sees the CPU's lines."""
        seen = Image(self.board.memory.words, self.board.memory.ram)
        if self.options.coherent:
            for address, word in self.cpu.items():
                seen[address] = word
        registers = self.board.unit(self.wire).hardware.registers
        request = self.board.request(self.wire, self._pasid(m["page"]), VIRTUAL + OFFSET)
        walker = Hardware(seen, registers, ())
        self.walked[m["page"]].append(by_tables(walker, self.wire, request))

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read both images, and what walks have met."""
        found: dict[Rel, set[Row]] = {rel: set() for rel in (
            family.WRITTEN, family.CONTENT, family.LINKED, family.POINTER, family.WALKED,
            family.GARBAGE)}
        for page, frame in self.frame.items():
            pointer, memory = self._pointer(page), self.board.memory
            facts = {
                family.CONTENT: not memory[frame] & 1,
                family.WRITTEN: not self.cpu.get(frame, memory[frame]) & 1,
                family.POINTER: bool(memory[pointer] & 1),
                family.LINKED: bool(self.cpu.get(pointer, memory[pointer]) & 1),
                # Without a pointer the directory ends the walk (SPD.2): it has not come here.
                family.WALKED: any(i.condition != "SPD.2" for i in self.walked[page]),
                family.GARBAGE: bool(self._garbage(page)),
            }
            for rel, true in facts.items():
                if true:
                    found[rel].add((page,))
        return found

    def _garbage(self, page: int) -> list[Issued]:
        """Return the walks that took what the last owner left for entries."""
        return [i for i in self.walked[page]
                if i.hpa is not None and i.hpa & ~(PAGE - 1) == self.victim]

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show the request that was translated by what the last owner had left."""
        if claim == "can-walk":
            note(seen, self.walked[o["page"]][-1], "the walk has come to the page")
            return
        walks = self._garbage(o["page1"])
        if not walks:
            raise NotReproduced("no walk took what was left in the page for entries")
        note(seen, walks[-1], "data to which entries led that the page's last owner left in it")


BITS = Bits
