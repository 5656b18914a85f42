"""The family `page-requests`: the page request queue, and responses to requests of freed handles.

A handle is memory of the kernel. What the hardware has of it is the PASID-table entry that lets
page requests in, their descriptors, and the page group responses that the handler queues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Handler,
    Moment,
    Objects,
    Row,
)
from dmaproof.counterexamples.bits.scenarios.board import PRS, Board
from dmaproof.model.families import page_requests as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, PASID
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.page_requests import PageRequest, PageRequestQueue, response

Words = tuple[int, ...]
_DID = 1


class Bits(BitsOfFamily):
    """A handle's address space is a first stage; its page is not mapped, so that devices ask."""

    stutters: ClassVar[Mapping[str, str]] = {
        "unbind.enter": "the call has entered; its steps follow",
        "unbind.free": "the handle is memory of the kernel",
    }

    def boot(self) -> Board:
        """Every function may send page requests; no entry is present, no request is queued."""
        board = Board(ecap=PRS)
        self.wires = {f: board.wire(f) for f in self.elements(FUNCTION)}
        for wire in self.wires.values():
            board.plug(wire, pre=True)
        self.spaces = {
            h: board.page_table(self.name(family.HANDLE, h), first=True)
            for h in self.elements(family.HANDLE)
        }
        with board.frames.purpose("page request queue", 32):
            self.queue = PageRequestQueue(board.units[0].hardware, board.frames.frame())
        self.pending: dict[Row, list[Words]] = {}
        self.late: dict[int, list[Command]] = {h: [] for h in self.spaces}
        return board

    @staticmethod
    def _pasid(p: int) -> int:
        return 1 + p

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Entries, page requests and the responses to them."""
        return {
            "bind": lambda m: self.board.enter(
                self.wires[m["f"]], self._pasid(m["p"]), self.spaces[m["h"]], _DID),
            "page.request": self._request,
            "page.respond": self._respond,
            "page.respond.freed": self._respond_late,
            "unbind.clear": self._clear,
            "unbind.drain": self._drain,
        }

    def _request(self, m: Moment) -> str:
        """The device asks; the kernel takes the descriptor and looks the handle up."""
        wire, row = self.wires[m["f"]], (m["f"], m["p"], m["h"])
        asked = PageRequest(wire.rid, VIRTUAL, self._pasid(m["p"]), group=m["h"])
        if not self.queue.receive(asked):
            return "the unit answers the request itself: no entry lets it in"
        words = self.queue.take()
        assert words is not None
        self.pending.setdefault(row, []).append(words)
        return ""

    def _clear(self, m: Moment) -> None:
        """Take the entry down, with the flushes in order."""
        self.board.tear_down(self.wires[m["f"]], self._pasid(m["p"]))

    def _drain(self, m: Moment) -> None:
        """A wait behind everything: requests before it have been queued and handled."""
        self.board.unit(self.wires[m["f"]]).flush(())

    def _respond(self, m: Moment) -> None:
        for words in self.pending.pop((m["f"], m["p"], m["h"]), []):
            command = response(words)
            assert command is not None
            self.board.flush(self.wires[m["f"]], command)

    def _respond_late(self, m: Moment) -> None:
        """The same, by a handler that works with a freed handle."""
        asked = self.pending.get((m["f"], m["p"], m["h"]), [])
        self.late[m["h"]] += [c for words in asked if (c := response(words)) is not None]
        self._respond(m)

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the entries, and the descriptors without a response."""
        bound: set[Row] = set()
        for f, wire in self.wires.items():
            for p in self.elements(PASID):
                entry = self.board.read_entry(wire, self._pasid(p))
                bound |= {(f, p, h) for h, t in self.spaces.items() if entry and entry[1] == t}
        pending: set[Row] = set()
        for row, found in self.pending.items():
            for low, high, *_ in found:
                f, p, h = row
                sent = self.wires[f].rid, self._pasid(p), h
                if (low >> 16 & 0xFFFF, low >> 32 & 0xFFFFF, high >> 3 & 0x1FF) == sent:
                    pending.add(row)
        answered = [(c.sid, c.pasid, c.group) for c in self._responses()]
        touched: set[Row] = {(h,) for h, late in self.late.items()
                   if any((c.sid, c.pasid, c.group) in answered for c in late)}
        return {family.BOUND: bound, family.PENDING: pending, family.TOUCHED: touched}

    def _responses(self) -> list[Command]:
        """Return the page group responses that the unit has sent."""
        return self.board.units[0].queue.responses

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show the response that a handler sent for a freed handle, or the request that waits."""
        if claim == "no-use-after-free":
            sent = [c for c in self.late[o["k"]] if c in self._responses()]
            if not sent:
                raise NotReproduced("no response was sent for a freed handle")
            seen.says += [f"the unit sends a {Op.PAGE_RESPONSE.value} to {c.sid:#06x}, PASID"
                          f" {c.pasid:#x}, group {c.group}: its handle is freed" for c in sent]
            return
        for (f, p, h), found in self.pending.items():
            if claim == "can-request" or (f, p, h) == (o["x"], o["q"], o["k"]):
                seen.says += [f"the page request {low:#x} {high:#x} has no response"
                              for low, high, *_ in found]


BITS = Bits
