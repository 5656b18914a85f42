"""The family `surprise-removal`: a device-TLB invalidation of a device that is not there.

It stays pending in the queue: nobody answers it, and the wait behind it never completes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import VIRTUAL
from dmaproof.counterexamples.bits.scenarios.base import (
    BitsOfFamily,
    Handler,
    Lookup,
    Moment,
    Objects,
    Row,
)
from dmaproof.counterexamples.bits.scenarios.board import Board, device_flush
from dmaproof.model.families import surprise_removal as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd.invalidation import Command, Op

_DID = 0x10
_LOOK = "the driver reads a flag, or the device's configuration space"


class Bits(BitsOfFamily):
    """Requests without PASID; the entry is torn down with the descriptors of the program."""

    stutters: ClassVar[Mapping[str, str]] = {
        "teardown.enter": "the call has entered; its steps follow",
        "teardown.look": _LOOK, "teardown.skip": _LOOK,
        "teardown.return": "the call returns; its steps have been taken",
        "notice": "the flag is memory of the kernel",
    }

    def boot(self) -> Board:
        """No device is attached; all are there."""
        board = Board()
        self.wires = {r: board.wire(r) for r in self.elements(v.RID)}
        for wire in self.wires.values():
            board.plug(wire)
        self.domain = board.page_table("the domain")
        self.page = board.page()
        board.map(self.domain, VIRTUAL, self.page)
        self.gone: set[int] = set()
        self.absent: set[int] = set()
        return board

    def _command(self, r: int) -> Command:
        (command,) = device_flush(self.wires[r], None)
        return command

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """The entry, the descriptors, and the device's answer."""
        return {
            "attach": lambda m: self.board.enter(self.wires[m["r"]], None, self.domain, _DID),
            "teardown.flush-iotlb": self._flush,
            "teardown.request": self._request,
            "teardown.wait": lambda m: self.board.unit(self.wires[m["r"]]).flush(()),
            "remove": lambda m: self.gone.add(m["r"]),
            "device.answer": self._answer,
        }

    def _flush(self, m: Moment) -> None:
        """Clear the entry, then PASID cache and IOTLB.

        Nothing of another device may be pending: a wait would be one for that, too.
        """
        wire = self.wires[m["r"]]
        self.board.clear(wire, None)
        self.board.flush(wire, Command(Op.PASID_CACHE_PASID, did=_DID, pasid=0),
                         Command(Op.IOTLB_DOMAIN, did=_DID))

    def _request(self, m: Moment) -> None:
        self.board.unit(self.wires[m["r"]]).submit(self._command(m["r"]))
        if m["r"] in self.gone:
            self.absent.add(m["r"])

    def _answer(self, m: Moment) -> None:
        self.board.unit(self.wires[m["r"]]).carry_out(self._command(m["r"]))

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read what is pending; whether a device was there then is what was noted."""
        pending: set[Row] = {(r,) for r, wire in self.wires.items()
                   if self._command(r) in self.board.unit(wire).queue.pending}
        return {family.REQUESTED: pending, family.ABSENT: {(r,) for r in self.absent},
                family.GONE: {(r,) for r in self.gone}}

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every device: until the teardown has flushed, the entry translates it."""
        first = self.scenario.stages[0][0]
        for r, wire in self.wires.items():
            there = (r,) in state[family.USED] | state[first]
            yield Lookup(wire, self.board.request(wire, None),
                         frozenset({self.page} if there else ()), frozenset(),
                         self.name(v.RID, r))

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Point at the descriptor that nobody will answer."""
        r = o["r"] if claim == "can-tear-down" else o["r1"]
        unit = self.board.unit(self.wires[r])
        if self._command(r) not in unit.queue.pending:
            raise NotReproduced("no invalidation of the device is pending")
        there = "is there" if r not in self.gone else "is gone: no wait behind it will complete"
        seen.says.append(f"a flush of the device TLB of {self.wires[r]} is pending before"
                         f" {unit.queue.head:#x}, and the device {there}")


BITS = Bits
