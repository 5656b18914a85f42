"""The family `context-entry`: a context entry that leads to one PASID table or to another.

In scalable mode a table is a PASID directory; requests without PASID use its entry 0, and every
entry has a DID of its own. In extended mode (rev 2.x) the context entry has the DID, and beside the
PASID table the second level that requests without PASID use; both belong to the table here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from dmaproof.counterexamples.bits.host import AW, POINTER
from dmaproof.counterexamples.bits.landing import Seen
from dmaproof.counterexamples.bits.places import VIRTUAL
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
from dmaproof.counterexamples.bits.scenarios.board import (
    EVERY_PAGE,
    Board,
    PageTable,
    device_flush,
)
from dmaproof.counterexamples.bits.unit import Tables
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import context_entry as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd import entries
from dmaproof.model.vtd.extended import PASIDE
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.requests import Kind

_PARTS = {family.CONTEXT_CACHE: "context", family.PASID_CACHE: "pasid", family.IOTLB: "iotlb",
          family.DEVICE_TLB: "device"}
_ENTERED = "the call has entered and holds the lock; its steps follow"
_RETURNED = "the call returns; its steps have been taken"


class Bits(BitsOfFamily):
    """Each PASID of each table leads to a page of its own, at one address."""

    stutters: ClassVar[Mapping[str, str]] = {
        "exchange.enter": _ENTERED, "clear.enter": _ENTERED,
        "exchange.return": _RETURNED, "clear.return": _RETURNED,
    }
    cached = tuple(_PARTS)

    def boot(self) -> Board:
        """No context entry is present; the tables are filled and stay as they are."""
        self.extended = self.options.mode == "extended"
        board = Board(Tables.EXTENDED if self.extended else Tables.SCALABLE)
        self.wires = {r: board.wire(r) for r in self.elements(v.RID)}
        self.page: dict[tuple[int, int], int] = {}
        self._goal: dict[tuple[int, int], PageTable] = {}
        self._table: dict[int, int] = {}
        for t in self.elements(family.TABLE):
            self._table[t] = self._fill_table(board, t)
        for r, wire in self.wires.items():
            self._context(board, r, wire)
        return board

    def _fill_table(self, board: Board, t: int) -> int:
        """Build a PASID table (a directory, in scalable mode) and return its address."""
        name = self.name(family.TABLE, t)
        with board.frames.purpose(f"PASID table {name}", 8 if self.extended else 64):
            table = board.frames.frame()
        for p in self.elements(v.PASID):
            if not self.fact(family.HAS, t, p):
                continue
            goal = board.page_table(f"PASID {self.name(v.PASID, p)} of {name}",
                                    first=self._number(p) is not None)
            self._goal[t, p], self.page[t, p] = goal, board.page()
            board.map(goal, VIRTUAL, self.page[t, p])
            number = self._number(p)
            if not self.extended:
                where = table + 64 * (number or 0)
                board.write(where, *Board.content(goal, self._did(0, t, p)))
            elif number is not None:
                board.write(table + 8 * number, int(entries.extended_pasid(goal.top)))
        if self.extended:
            return table
        with board.frames.purpose(f"PASID directory {name}"):
            directory = board.frames.frame()
        board.write(directory, int(entries.directory(table)))
        return directory

    def _context(self, board: Board, r: int, wire: Bdf) -> None:
        with board.frames.purpose(f"context table of bus {wire.bus:02x}", 32):
            if self.extended:
                board.context[wire] = board.frames.extended(wire.rid, 0, AW, self._did(r, 0, 0),
                                                            present=0)
            else:
                board.context[wire] = board.frames.scalable(wire.rid, 0, present=0)

    # -- numbers ----------------------------------------------------------------------------

    def _number(self, p: int) -> int | None:
        return None if p == self.instance.functions[v.NO_PASID.fn][()] else p + 1

    def _did(self, r: int, t: int, p: int) -> int:
        """In extended mode the requester's RID domain has it, in scalable mode each entry."""
        return 0x10 + r if self.extended else 0x20 + 8 * t + p

    def _dids(self, r: int) -> list[int]:
        """Return every domain id that may be used behind a context entry."""
        return sorted({self._did(r, t, p) for t, p in self._goal})

    def _words(self, r: int, t: int) -> tuple[int, ...]:
        """Return a context entry that leads to a table, Present included."""
        ats = int(self.options.ats == "on")
        if not self.extended:
            return tuple(map(int, entries.scalable_context(self._table[t], dte=ats, paside=1)))
        bare = next((g for (t1, p), g in self._goal.items()
                     if t1 == t and self._number(p) is None), None)
        return tuple(map(int, entries.extended_context(
            bare.top if bare else 0, AW, self._did(r, t, 0), t=ats, pasid_table=self._table[t],
            paside=1)))

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Writes of context entries, descriptors and fills."""
        found: dict[str, Handler] = {
            "setup": self._set_up,
            "exchange.write-entry": lambda m: self._point(m["r"], m["new"]),
            "clear.write-entry": self._clear,
            **{f"{rel.name.replace('_', '-')}.fill": self._fill(rel) for rel in _PARTS},
            **{f"{rel.name.replace('_', '-')}.evict": self._evict(rel) for rel in _PARTS},
        }
        for name in ("exchange", "clear"):
            found |= {
                f"{name}.context-cache": self._context_cache,
                f"{name}.pasid-cache-domain": self._by_did(Op.PASID_CACHE_DOMAIN),
                f"{name}.iotlb-domain": self._by_did(Op.IOTLB_DOMAIN),
                f"{name}.iotlb-did-of-context-entry": self._did_of_context_entry,
                f"{name}.device-tlb-whole-function": self._device_whole,
                f"{name}.device-tlb-untagged": self._device_untagged,
            }
        return found

    def _set_up(self, m: Moment) -> None:
        self._point(m["r"], m["t"])

    def _point(self, r: int, t: int) -> None:
        """Write the further quadwords, then the first."""
        words, where = self._words(r, t), self.board.context[self.wires[r]]
        self.board.write(where + 8, *words[1:])
        self.board.write(where, words[0])

    def _clear(self, m: Moment) -> None:
        where = self.board.context[self.wires[m["r"]]]
        self.board.write(where, self.board.memory[where] & ~1)

    def _context_cache(self, m: Moment) -> None:
        wire = self.wires[m["r"]]
        did = self._did(m["r"], 0, 0) if self.extended else 0
        self.board.flush(wire, Command(Op.CONTEXT_DEVICE, did=did, sid=wire.rid))

    def _by_did(self, op: Op) -> Handler:
        def flush(m: Moment) -> None:
            wire = self.wires[m["r"]]
            self.board.flush(wire, *(Command(op, did=did) for did in self._dids(m["r"])))

        return flush

    def _did_of_context_entry(self, m: Moment) -> None:
        """Take the DID from where extended mode has it; in scalable mode nothing is there."""
        wire = self.wires[m["r"]]
        did = self.board.memory[self.board.context[wire] + 8] >> 8 & 0xFFFF
        self.board.flush(wire, Command(Op.IOTLB_DOMAIN, did=did))

    def _device_whole(self, m: Moment) -> str:
        if self.options.ats == "off":
            return "no device has ATS on: the driver queues nothing"
        wire = self.wires[m["r"]]
        tagged = Command(Op.PASID_DEVICE_TLB, sid=wire.rid, address=EVERY_PAGE, sized=True,
                         whole=True)
        self.board.flush(wire, *device_flush(wire, None), tagged)
        return ""

    def _device_untagged(self, m: Moment) -> str:
        if self.options.ats == "off":
            return "no device has ATS on: the driver queues nothing"
        wire = self.wires[m["r"]]
        self.board.flush(wire, *device_flush(wire, None))
        return ""

    def _fill(self, rel: Rel) -> Handler:
        def fill(m: Moment) -> str:
            wire, t = self.wires[m["r"]], m["t"]
            kind = Kind.TRANSLATION if rel == family.DEVICE_TLB else Kind.UNTRANSLATED
            pasids = [m["p"]] if "p" in m.args else list(self.elements(v.PASID))
            done = False
            for p in pasids:
                if (t, p) in self.page:  # any entry of the table will do for the context cache
                    request = self.board.request(wire, self._number(p), VIRTUAL, kind)
                    done |= self.board.unit(wire).fill(
                        request, self.page[t, p], frozenset({_PARTS[rel]}), lambda held: True)
            if done:
                return ""
            if rel == family.PASID_CACHE and self.extended:
                return "requests without PASID need no PASID-table entry in extended mode"
            return "the hardware has nothing that leads there, and fills nothing"

        return fill

    def _evict(self, rel: Rel) -> Handler:
        def evict(m: Moment) -> None:
            wire = self.wires[m["r"]]
            mine = (m["r"], m["t"]) if rel == family.CONTEXT_CACHE else (m["r"], m["p"], m["t"])

            def leaves(tag: Any, value: Any) -> bool:  # noqa: ANN401
                return mine in self._rows(rel, tag, value)

            self.board.unit(wire).evict(_PARTS[rel], leaves)

        return evict

    # -- alpha ------------------------------------------------------------------------------

    def _table_of(self, words: tuple[int, ...]) -> int | None:
        """Return the table to which the words of a context entry lead."""
        pointer = (words[2] if self.extended else words[0]) & POINTER
        if self.extended and not words[0] & PASIDE:
            return None
        return next((t for t, where in self._table.items() if where == pointer), None)

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the context entries."""
        found: set[Row] = set()
        for r, wire in self.wires.items():
            words = self.board.words(self.board.context[wire], 4)
            table = self._table_of(words) if words[0] & 1 else None
            if table is not None:
                found.add((r, table))
        return {family.CONTEXT: found}

    def held(self) -> Iterator[Entry]:
        """Read context cache, PASID cache, IOTLB and device TLBs."""
        (unit,) = self.board.units
        for rel, part in _PARTS.items():
            for held in getattr(unit.hardware.caches, part):
                yield Entry(rel, frozenset(self._rows(rel, held.tag, held.value)),
                            f"the unit's {rel.name.replace('_', ' ')} holds {held.tag}")

    def _rows(self, rel: Rel, tag: Any, value: Any) -> Iterator[Row]:  # noqa: ANN401
        (r,) = (r for r, wire in self.wires.items() if wire.rid == tag.sid)
        if rel == family.CONTEXT_CACHE:
            table = self._table_of((*value[0], 0, 0))
            if table is not None:
                yield (r, table)
            return
        tagged = tag.tagged if rel != family.PASID_CACHE else self.extended or tag.pasid != 0
        number = tag.pasid if tagged else None
        for (t, p), goal in self._goal.items():
            if self._number(p) != number:
                continue
            if rel != family.PASID_CACHE:
                leads = value[0] & ~(PAGE - 1) == self.page[t, p]
            elif self.extended:
                leads = value[0] & POINTER == goal.top
            else:
                named = self.board.named(value[0])
                leads = named is not None and named[1] == goal
            if leads:
                yield (r, p, t)

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every requester id with every PASID, for the one address."""
        for r, wire in self.wires.items():
            for p in self.elements(v.PASID):
                tables = {t for r1, t in state[family.CONTEXT] if r1 == r}
                caches = {t for r1, t in state[family.CONTEXT_CACHE] if r1 == r}
                further = {
                    t for rel in self.cached[1:] for r1, p1, t in state.get(rel, ())
                    if (r1, p1) == (r, p)
                }
                yield Lookup(
                    wire, self.board.request(wire, self._number(p)),
                    frozenset(self.page[t, p] for t in tables if (t, p) in self.page),
                    frozenset(self.page[t, p] for t in caches | further if (t, p) in self.page),
                    f"{self.name(v.RID, r)}, PASID {self.name(v.PASID, p)},",
                )

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request that lands in what a table gives."""
        one = "" if claim == "can-bind" else "1"
        bare: int = self.instance.functions[v.NO_PASID.fn][()]
        r, t = o[f"r{one}"], o[f"t{one}"]
        p = o.get(f"p{one}", bare)
        issued = self.board.lands(self.wires[r], self._number(p), self.page[t, p])
        note(seen, issued, f"a page of table {self.name(family.TABLE, t)}"
             + ("" if claim == "can-bind" else ", which was taken away"))


BITS = Bits
