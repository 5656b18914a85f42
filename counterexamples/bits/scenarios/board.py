"""One machine under replay: memory, remapping units, requesters, page tables and the pages in them.

It writes what the driver writes (`model.vtd.programs`) and reads its own bytes back. What a family
calls a function, a slot or a requester id is here a *wire*: the segment's unit and a requester id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dmaproof.counterexamples.bits.host import AW, LEVELS, POINTER
from dmaproof.counterexamples.bits.landing import Issued, NotReproduced, by_tables, landed
from dmaproof.counterexamples.bits.memory import SPACES, Frames, Journal
from dmaproof.counterexamples.bits.places import OFFSET, VIRTUAL
from dmaproof.counterexamples.bits.unit import Tables, Unit, registers
from dmaproof.model.algebra import PAGE
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Step, Write
from dmaproof.model.vtd.requests import Kind, Request
from dmaproof.model.vtd.translate import Outcome, translate

CM, PSI = 1 << 7, 1 << 39
"""CAP: caching mode, page-selective invalidation."""

PRS, SSADS = 1 << 29, 1 << 45
"""ECAP: page requests, second-stage accessed and dirty flags."""

FIRST, SECOND, NESTED = 1, 2, 3
"""PGTT of a PASID-table entry (VT-d 9.6)."""

EVERY_PAGE = (1 << 63) - 1 & ~0xFFF
"""Address of a device-TLB flush with S=1 that names every page."""

_PWSNP = 1  # page walks snoop, so that hardware may set accessed and dirty flags
_ROOM = 4096  # pages of spaces


@dataclass(frozen=True)
class PageTable:
    """A page table that a PASID-table or context entry can lead to.

    Attributes:
        name: as traces call it.
        top: host-physical address of its top table.
        first: a first stage.
        parent: the second stage that a first stage stands on (nested), None if it stands alone.
    """

    name: str
    top: int
    first: bool = False
    parent: PageTable | None = None


class Board:
    """A machine with some remapping units.

    Args:
        tables: the table format.
        units: how many remapping units.
        cap, ecap: capability bits that are set besides those that the format needs.

    Attributes:
        memory, frames: the memory, and the frames taken from it.
        units: the remapping units.
        tables: the table format.
        context: address of the context entry of each wire.
        owner: the page table that each frame of tables belongs to.
    """

    def __init__(
        self, tables: Tables = Tables.SCALABLE, units: int = 1, *, cap: int = 0, ecap: int = 0
    ) -> None:
        self.tables = tables
        self.memory = Journal()
        self.frames = Frames(self.memory)
        self.units: list[Unit] = []
        self.context: dict[Bdf, int] = {}
        self.owner: dict[int, PageTable] = {}
        self._roots: list[int] = []
        self._directories: dict[Bdf, int] = {}
        self._pages = 0
        for number in range(units):
            root = self.frames.frame() if number else self.frames.root
            self.frames.name(root, "root table", 16)
            self._roots.append(root)
            found = registers(tables, root, cap, ecap)
            self.units.append(Unit(self.memory, found, number))

    # -- pages and page tables --------------------------------------------------------------

    def page(self) -> int:
        """Take a page that is no table: somebody's data.

        Raises:
            InputError: there is no room.
        """
        if self._pages == _ROOM:
            raise InputError(
                f"the replay on the bits has room for {_ROOM} pages of data", "steps",
                "a run of thousands of steps, edited by hand",
                "write the run anew: it is minimal then",
            )
        found = SPACES + PAGE * self._pages
        self._pages += 1
        self.frames.name(found, "a page of data", 0)
        return found

    def page_table(
        self, name: str, *, first: bool = False, parent: PageTable | None = None
    ) -> PageTable:
        """Make an empty page table; the frames of one with a *parent* are mapped there 1:1."""
        with self.frames.purpose(f"page table of {name}"):
            top = self.frames.frame()
        found = PageTable(name, top, first or parent is not None, parent)
        self._own(found, {top})
        return found

    def map(self, table: PageTable, address: int, page: int) -> int:
        """Map a page and return the address of the leaf entry."""
        before = set(self.frames.named)
        with self.frames.purpose(f"page table of {table.name}"):
            build = self.frames.first_stage if table.first else self.frames.second_stage
            leaf = build(table.top, LEVELS, address, page)
        self._own(table, set(self.frames.named) - before)
        return leaf

    def _own(self, table: PageTable, frames: set[int]) -> None:
        for frame in frames:
            self.owner[frame] = table
            if table.parent is not None:
                self.map(table.parent, frame, frame)

    def leaf(self, table: PageTable, address: int) -> int | None:
        """Return the address of the leaf entry of an address, None where a table is missing."""
        where = table.top
        for level in range(LEVELS, 1, -1):
            entry = self.memory[self.frames.index(where, level, address)]
            if not entry & 3:
                return None
            where = entry & POINTER
        return self.frames.index(where, 1, address)

    def unmap(self, table: PageTable, address: int) -> None:
        """Clear a leaf entry."""
        leaf = self.leaf(table, address)
        if leaf is not None:
            self.write(leaf, 0)

    def mapped(self, table: PageTable, address: int) -> int | None:
        """Return the page that a leaf entry maps, None if it maps none."""
        leaf = self.leaf(table, address)
        entry = 0 if leaf is None else self.memory[leaf]
        return entry & POINTER if entry & 3 else None

    # -- requesters -------------------------------------------------------------------------

    def wire(self, number: int, unit: int = 0) -> Bdf:
        """Return the requester id of the n-th requester behind a unit."""
        return Bdf(unit, 1, number, 0)

    def _at(self, wire: Bdf) -> Frames:
        self.frames.root = self._roots[wire.domain]
        return self.frames

    def plug(
        self, wire: Bdf, *, ats: bool = True, pre: bool = False, directory: int | None = None
    ) -> None:
        """Write the scalable-mode context entry of a requester, with an empty PASID table.

        Args:
            wire: the requester.
            ats: translation and translated requests are allowed (DTE).
            pre: page requests are allowed (PRE).
            directory: a PASID directory that others use, too (None: one of its own).
        """
        frames = self._at(wire)
        if directory is None:
            with frames.purpose(f"PASID directory of {wire}"):
                directory = frames.frame()
            with frames.purpose(f"PASID table of {wire}", 64):
                self.memory[directory] = entries.directory(frames.frame())
        self._directories[wire] = directory
        with frames.purpose(f"context table of bus {wire.bus:02x}", 32):
            self.context[wire] = frames.scalable(
                wire.rid, directory, dte=int(ats), pre=int(pre), paside=1
            )

    def directory(self, wire: Bdf) -> int:
        """Return the address of a requester's PASID directory."""
        return self._directories[wire]

    def entry(self, wire: Bdf, pasid: int | None) -> int:
        """Return the address of a PASID-table entry; None is RID_PASID, which is 0."""
        number = pasid or 0
        table = self.memory[self._directories[wire] + 8 * (number >> 6)] & POINTER
        return table + 64 * (number & 63)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return quadwords of memory."""
        return tuple(self.memory[address + 8 * n] for n in range(count))

    @staticmethod
    def content(table: PageTable, did: int, **fields: int) -> tuple[int, ...]:
        """Return the PASID-table entry that leads to a page table under a domain id."""
        if table.parent is not None:
            return entries.pasid(NESTED, did, first=table.top, second=table.parent.top, aw=AW,
                                 pwsnp=_PWSNP, **fields)
        if table.first:
            return entries.pasid(FIRST, did, first=table.top, pwsnp=_PWSNP, **fields)
        return entries.pasid(SECOND, did, second=table.top, aw=AW, pwsnp=_PWSNP, **fields)

    def enter(self, wire: Bdf, pasid: int | None, table: PageTable, did: int, **f: int) -> None:
        """Set a PASID-table entry up: all fields, then Present."""
        steps = programs.set_pasid(self.entry(wire, pasid), self.content(table, did, **f))
        self.unit(wire).perform(steps)

    def clear(self, wire: Bdf, pasid: int | None) -> None:
        """Clear Present in a PASID-table entry, and do nothing else."""
        where = self.entry(wire, pasid)
        self.unit(wire).perform([Write(where, (self.memory[where] & ~1,)), Barrier()])

    def tear_down(self, wire: Bdf, pasid: int | None) -> None:
        """Take a PASID-table entry down as the driver does: clear, flushes in order, zero."""
        where = self.entry(wire, pasid)
        words = self.words(where, 8)
        if not words[0] & 1:
            return
        ats = bool(self.memory[self.context[wire]] & 4)
        steps = programs.clear_pasid(where, words, wire.rid, pasid or 0, ats=ats and bool(pasid))
        self.unit(wire).perform(steps)
        if ats and not pasid:
            self.flush(wire, *device_flush(wire, None))

    def read_entry(self, wire: Bdf, pasid: int | None) -> tuple[int, PageTable] | None:
        """Return the domain id and page table that a present PASID-table entry names, else None."""
        where = self.entry(wire, pasid)
        words = self.words(where, 3)
        return self.named(words) if words[0] & 1 else None

    def named(self, words: tuple[int, ...]) -> tuple[int, PageTable] | None:
        """Return the domain id and page table that the words of a PASID-table entry name."""
        table = self.owner.get((words[0] if words[0] >> 6 & 7 == SECOND else words[2]) & POINTER)
        return None if table is None else (words[1] & 0xFFFF, table)

    # -- the unit ---------------------------------------------------------------------------

    def unit(self, wire: Bdf) -> Unit:
        """Return the unit that judges the requests under an id."""
        return self.units[wire.domain]

    def write(self, address: int, *words: int) -> None:
        """Write quadwords, one after the other."""
        for n, word in enumerate(words):
            self.memory[address + 8 * n] = word

    def perform(self, wire: Bdf, steps: Iterable[Step]) -> None:
        """Let the driver of a wire's unit execute a program."""
        self.unit(wire).perform(steps)

    def flush(self, wire: Bdf, *commands: Command) -> None:
        """Queue commands at a wire's unit, each waited for before the next."""
        for command in commands:
            self.unit(wire).flush([command])

    def evict(self, wire: Bdf, cache: str, **fields: object) -> None:
        """Let a cache lose the entries whose tag has these fields."""
        self.unit(wire).evict(cache, lambda tag, _: all(
            getattr(tag, name) == value for name, value in fields.items()
        ))

    # -- requests ---------------------------------------------------------------------------

    def request(
        self, wire: Bdf, pasid: int | None, address: int = VIRTUAL,
        kind: Kind = Kind.UNTRANSLATED, *, write: bool = False,
    ) -> Request:
        """Return a request under an id, with a PASID or (None) without."""
        return Request(wire.rid, address, write=write, pasid=pasid or 0,
                       with_pasid=pasid is not None, kind=kind)

    def outcome(self, wire: Bdf, request: Request) -> Outcome:
        """Return what the tables alone do with a request."""
        return translate(self.memory, self.unit(wire).hardware.registers, request)

    def lands(
        self, wire: Bdf, pasid: int | None, page: int, address: int = VIRTUAL, *,
        cached: bool = False,
    ) -> Issued:
        """Issue a write for a page and return it; *cached*: past what the tables say now.

        Raises:
            NotReproduced: neither tables nor caches lead there.
        """
        request = self.request(wire, pasid, address + OFFSET, write=True)
        sources = ("entries", "iotlb") if cached else ("memory", "entries", "iotlb")
        found = landed(self.unit(wire).hardware, wire, request, page + OFFSET, sources)
        if found is None:
            raise NotReproduced(f"no request of {wire}{tagged(pasid)} lands at {page:#x}")
        return found

    def blocked(self, wire: Bdf, pasid: int | None, address: int = VIRTUAL) -> Issued:
        """Issue a write that the tables block and return it.

        Raises:
            NotReproduced: they do not.
        """
        request = self.request(wire, pasid, address + OFFSET, write=True)
        found = by_tables(self.unit(wire).hardware, wire, request)
        if not found.condition:
            raise NotReproduced(f"a request of {wire}{tagged(pasid)} is not blocked")
        return found

    def pages_by_tables(self, wire: Bdf, request: Request) -> set[int]:
        """Return the page that the tables give to a request (none if they block it)."""
        outcome = self.outcome(wire, request)
        right = outcome.writable if request.write else outcome.readable
        return {int(outcome.hpa) & ~(PAGE - 1)} if not outcome.fault and right else set()

    def pages(self, wire: Bdf, request: Request) -> set[int]:
        """Return every page in which a request may land, whatever the unit answers it from."""
        return {
            way.legal.hpa & ~(PAGE - 1)
            for way in self.unit(wire).hardware.ways(request) if way.legal.hpa is not None
        }

    def device_pages(self, wire: Bdf, request: Request) -> Iterator[int]:
        """Yield every page that the device's own TLB gives to a request."""
        for legal in self.unit(wire).hardware.device_outcomes(request):
            if legal.hpa is not None:
                yield legal.hpa & ~(PAGE - 1)


def tagged(pasid: int | None) -> str:
    """Return how a sentence names a PASID, or that there is none."""
    return " without PASID" if pasid is None else f" with PASID {pasid:#x}"


def device_flush(wire: Bdf, pasid: int | None, page: int | None = None) -> list[Command]:
    """Return the command that empties a device TLB under one PASID (None: of what has none).

    Args:
        wire: the device.
        pasid: the PASID.
        page: one page; None: every page.
    """
    address, sized = (EVERY_PAGE, True) if page is None else (page, False)
    if pasid is None:
        return [Command(Op.DEVICE_TLB, sid=wire.rid, address=address, sized=sized)]
    return [Command(Op.PASID_DEVICE_TLB, sid=wire.rid, pasid=pasid, address=address,
                    sized=sized)]
