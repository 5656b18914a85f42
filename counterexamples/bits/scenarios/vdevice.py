"""The family `vdevice`: a guest's invalidation as device-TLB flushes of its device's requester ids.

Before it invalidates, the guest has changed its table: from then on the page is another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import IOVA
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
from dmaproof.counterexamples.bits.scenarios.board import PSI, Board, device_flush
from dmaproof.model.families import vdevice as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, RID
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.requests import Kind

_KERNEL = "who is known to whom is the kernel's record"
_DID = 0x10


class Bits(BitsOfFamily):
    """All ids of a device lead to the same table, its guest's."""

    stutters: ClassVar[Mapping[str, str]] = {
        "vdevice_alloc": _KERNEL, "vdevice_destroy": _KERNEL,
    }
    unseen: ClassVar[Mapping[str, str]] = {
        "virtual-id-names-one": _KERNEL, "one-vdevice": _KERNEL,
    }
    cached = (family.CACHED,)

    def boot(self) -> Board:
        """Every id has the entry of its device."""
        board = Board(cap=PSI)
        self.owner = {r: f for f, r in self.instance.facts[family.OWNS]}
        self.wires = {r: board.wire(r) for r in self.elements(RID) if r in self.owner}
        self.guests = {f: board.page_table(f"the guest of {self.name(FUNCTION, f)}")
                       for f in self.elements(FUNCTION)}
        self.pages: dict[int, list[int]] = {f: [] for f in self.guests}
        self.foreign: dict[int, str] = {}
        for r, wire in self.wires.items():
            board.plug(wire)
            board.enter(wire, None, self.guests[self.owner[r]], _DID + self.owner[r])
        for f in self.guests:
            self._move(board, f)
        return board

    def _move(self, board: Board, f: int) -> None:
        """Let a guest map another page at its address."""
        self.pages[f].append(board.page())
        board.map(self.guests[f], IOVA, self.pages[f][-1])

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Translation requests, and the descriptors of a guest's invalidation."""
        return {"fill": self._fill, "invalidate": self._invalidate}

    def _fill(self, m: Moment) -> str:
        wire = self.wires[m["r"]]
        self.foreign.pop(m["f"], None)
        found = self.board.unit(wire).fill(
            self.board.request(wire, None, IOVA, Kind.TRANSLATION), self.pages[m["f"]][-1],
            frozenset({"device"}))
        return "" if found else "the hardware has nothing that leads there, and fills nothing"

    def _invalidate(self, m: Moment) -> None:
        """Flush what the virtual id names: the IOTLB of the domain, the ids of the devices."""
        self._move(self.board, m["f"])
        named = sorted(f for v1, i1, f in m.before[family.VDEVICE] if (v1, i1) == (m["v"], m["i"]))
        for f in named:
            for r, wire in self.wires.items():
                known = self.options.every_rid or self.fact(family.FIRST, r)
                if self.owner[r] == f and known:
                    self.board.flush(wire, Command(Op.IOTLB_DOMAIN, did=_DID + f),
                                     *device_flush(wire, None))
                    if f != m["f"]:
                        self.foreign[f] = (
                            f"a flush of the device TLB of {wire}, which is"
                            f" {self.name(FUNCTION, f)}, is queued for an invalidation that is"
                            f" meant for {self.name(FUNCTION, m['f'])}")

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """No relation of the family is about tables."""
        return {}

    def held(self) -> Iterator[Entry]:
        """Read the device TLBs."""
        for held in self.board.units[0].hardware.caches.device:
            rows = {(r,) for r, wire in self.wires.items() if wire.rid == held.tag.sid}
            yield Entry(family.CACHED, frozenset(rows), f"a device holds {held.tag}")

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request under every id."""
        for r, wire in self.wires.items():
            *old, now = self.pages[self.owner[r]]
            stale = frozenset(old) if (r,) in state[family.CACHED] else frozenset()
            yield Lookup(wire, self.board.request(wire, None, IOVA), frozenset({now}), stale,
                         self.name(RID, r))

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request that lands in a page which the guest has taken out of its table."""
        if claim == "invalidation-own":
            if o["x"] not in self.foreign:
                raise NotReproduced("no descriptor named another device")
            seen.says.append(self.foreign[o["x"]])
            return
        if claim == "can-invalidate":
            return
        for page in self.pages[o["x"]][:-1]:
            try:
                issued = self.board.lands(self.wires[o["r1"]], None, page, IOVA)
            except NotReproduced:
                continue
            note(seen, issued, "the page that the guest had there before it invalidated")
            return
        raise NotReproduced("the device has nothing of the page that was taken out")


BITS = Bits
