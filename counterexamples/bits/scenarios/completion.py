"""The family `completion`: descriptors in the queue, carried out later; waits behind them.

What the unit has fetched and not yet carried out is pending (`model.vtd.queue`); the run says when
it is carried out, in any order (VT-d 6.5.2.12). A wait completes when all before it are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import IOVA, OFFSET
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
from dmaproof.counterexamples.bits.scenarios.board import PSI, Board
from dmaproof.counterexamples.bits.scenarios.cache_tags import NEXT_OWNER, next_owner
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import completion as family
from dmaproof.model.families import vocabulary as w
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vtd.invalidation import Command, Op

_DID = 0x10
_FLAG = "the flag need_sync is memory of the kernel"


class Bits(BitsOfFamily):
    """One domain on each unit, with one requester; each page has a frame of its own."""

    stutters: ClassVar[Mapping[str, str]] = {
        "unmap.wait-needed": _FLAG, "unmap.wait-skipped": _FLAG,
        "unmap.wait": "the wait behind the descriptor has completed; nothing is written",
    }
    cached = (family.CACHED,)

    def boot(self) -> Board:
        """The requesters are attached to their domains, which map nothing."""
        board = Board(units=len(self.elements(w.UNIT)), cap=PSI)
        self.wires = {u: board.wire(0, u) for u in self.elements(w.UNIT)}
        self.domains = {}
        for u, wire in self.wires.items():
            board.plug(wire)
            self.domains[u] = board.page_table(f"the domain of {self.name(w.UNIT, u)}")
            board.enter(wire, None, self.domains[u], _DID)
        self.frame = {x: board.page() for x in self.elements(w.PAGE)}
        return board

    def _unit(self, x: int) -> int:
        return self.instance.functions[family.QUEUE_OF][(x,)]

    @staticmethod
    def _iova(x: int) -> int:
        return IOVA + PAGE * x

    def _command(self, x: int) -> Command:
        return Command(Op.IOTLB_PAGE, did=_DID, address=self._iova(x))

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Leaves, descriptors without a wait, and the unit's own progress."""
        return {
            "map": self._map,
            "unmap.clear": lambda m: self.board.unmap(
                self.domains[self._unit(m["x"])], self._iova(m["x"])),
            "unmap.queue": self._queue,
            "queue.process": self._process,
            "unmap.return": lambda m: self.board.write(
                self.frame[m["x"]] + OFFSET, NEXT_OWNER | self.frame[m["x"]]),
            "cached.fill": self._fill,
            "cached.evict": lambda m: self.board.evict(
                self.wires[self._unit(m["x"])], "iotlb", page=self._iova(m["x"])),
        }

    def _map(self, m: Moment) -> None:
        self.board.map(self.domains[self._unit(m["x"])], self._iova(m["x"]), self.frame[m["x"]])
        self.board.write(self.frame[m["x"]] + OFFSET, 0)

    def _queue(self, m: Moment) -> None:
        self.board.units[self._unit(m["x"])].submit(self._command(m["x"]))

    def _process(self, m: Moment) -> None:
        """The unit carries out every pending descriptor for the page."""
        self.board.units[self._unit(m["x"])].carry_out(self._command(m["x"]))

    def _fill(self, m: Moment) -> str:
        wire = self.wires[self._unit(m["x"])]
        request = self.board.request(wire, None, self._iova(m["x"]))
        found = self.board.unit(wire).fill(request, self.frame[m["x"]], frozenset({"iotlb"}))
        return "" if found else "the hardware has nothing that leads there, and fills nothing"

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the leaves and what is pending in the queues."""
        found: dict[Rel, set[Row]] = {family.MAPS: set(), family.QUEUED: set()}
        for x, frame in self.frame.items():
            unit = self._unit(x)
            if self.board.mapped(self.domains[unit], self._iova(x)) == frame:
                found[family.MAPS].add((x,))
            if self._command(x) in self.board.units[unit].queue.pending:
                found[family.QUEUED].add((x,))
        return found

    def held(self) -> Iterator[Entry]:
        """Read the IOTLBs."""
        for number, unit in enumerate(self.board.units):
            for held in unit.hardware.caches.iotlb:
                rows = {(x,) for x, frame in self.frame.items()
                        if self._unit(x) == number and held.tag.page == self._iova(x)
                        and held.value[0] == frame}
                yield Entry(family.CACHED, frozenset(rows), f"the unit holds {held.tag}")

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request for every page."""
        for x, frame in self.frame.items():
            wire, here = self.wires[self._unit(x)], frozenset({frame})
            yield Lookup(
                wire, self.board.request(wire, None, self._iova(x)),
                here if (x,) in state[family.MAPS] else frozenset(),
                here if (x,) in state[family.CACHED] else frozenset(),
                f"a request for {self.name(w.PAGE, x)}")

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request for a page that was given away, or point at the descriptor."""
        if claim == "no-stale-after-unmap":
            x = o["x1"]
            issued = self.board.lands(self.wires[self._unit(x)], None, self.frame[x],
                                      self._iova(x))
            note(seen, issued, f"a frame that holds {next_owner(self.board, self.frame[x])}")
            return
        for name in ("x", "x1"):
            if name not in o:
                continue
            unit = self.board.units[self._unit(o[name])]
            if self._command(o[name]) not in unit.queue.pending:
                raise NotReproduced("the descriptor is not pending")
            seen.says.append(f"the descriptor of {self.name(w.PAGE, o[name])} is pending in the"
                             f" queue, whose head is at {unit.queue.head:#x}: nothing has waited"
                             " for it")


BITS = Bits
