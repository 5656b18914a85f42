"""The family `tlps`: untranslated, translation and translated requests at the remapping unit.

Where a switch takes a request by its address, it never comes to the unit: that is decided by the
ports of a built-in machine, node by node, as for bind designs (`counterexamples.bits.fabric`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from dmaproof.counterexamples.bits.fabric import Travelled, travel
from dmaproof.counterexamples.bits.landing import NotReproduced, Seen, by_tables
from dmaproof.counterexamples.bits.places import OFFSET
from dmaproof.counterexamples.bits.scenarios.base import (
    Entry,
    Handler,
    Moment,
    Objects,
    Row,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.spaces import SpaceBits
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import tlps as family
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.pcie.machines import machine
from dmaproof.model.pcie.routing import ADDRESS_ROUTER, Tlp
from dmaproof.model.vfio.vocabulary import FUNCTION
from dmaproof.model.vtd.requests import Kind, Request

_MACHINE = "SW(off,off)"
"""Two functions behind a switch whose ports redirect nothing."""


class Bits(SpaceBits):
    """Without translation the unit is off, and requests pass."""

    entry, landed_in = family.ENTRY, family.LANDED
    cached = (family.DEVICE_TLB,)

    @property
    def ats(self) -> bool:
        """The kernel sets DTE for trusted devices alone (drivers/pci/ats.c)."""
        return bool(self.options.ats and self.options.trusted)

    def boot(self) -> Board:
        """Turn the unit off where there is no translation."""
        board = super().boot()
        board.units[0].hardware.registers.enabled = self.options.translation == "iommu"
        self.machine = machine(_MACHINE)
        self.at_peer: dict[Row, Travelled] = {}
        return board

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Bindings, and every kind of request."""
        return {
            "bind": self.bind, "unbind": self.unbind,
            "request.pasid": lambda m: self.ask(self.wires[m["f"]], m, m["f"]),
            "request.spoofed": lambda m: self.ask(self.wires[m["g"]], m, m["f"]),
            "translation.request": self._translation,
            "request.translated": lambda m: self._at(m, Kind.TRANSLATED),
            "request.raw": lambda m: self._at(m, Kind.UNTRANSLATED),
            "request.misrouted": self._route,
        }

    def _route(self, m: Moment) -> str:
        """Send a request with a PASID to a peer's BAR and follow it from port to port."""
        source, goal = (self._function(m[name]) for name in ("f", "g"))
        tlp = Tlp(source, self.pasid(m["p"]))
        way = travel(self.machine, tlp, goal, {}, ADDRESS_ROUTER)
        if way.lands:
            self.at_peer[m["f"], m["g"]] = way
        return "the request never comes to the remapping unit" if way.lands else ""

    def _function(self, f: int) -> Bdf:
        return self.machine.by_label(self.name(FUNCTION, f)).bdf

    def _translation(self, m: Moment) -> str:
        wire = self.wires[m["f"]]
        request = self.board.request(wire, self.pasid(m["p"]), self.address(m["s"]),
                                     Kind.TRANSLATION)
        found = self.board.unit(wire).fill(request, self.page[m["s"]], frozenset({"device"}))
        return "" if found else "the unit answers that the device may not ask: DTE is clear"

    def _at(self, m: Moment, kind: Kind) -> None:
        """Send a request for the space's own page, by its host-physical address."""
        wire = self.wires[m["f"]]
        request = Request(wire.rid, self.page[m["s"]] + OFFSET, write=True, kind=kind)
        issued = by_tables(self.board.unit(wire).hardware, wire, request)
        self.serve(m["f"], replace(issued, source="raw"))  # no table was walked

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read entries and leaves; what ports did is what was noted."""
        return {**super().tables(state), family.AT_PEER: set(self.at_peer)}

    def held(self) -> Iterator[Entry]:
        """Read the device TLBs."""
        for held in self.board.units[0].hardware.caches.device:
            rows = {(f, s) for f, wire in self.wires.items() for s, page in self.page.items()
                    if wire.rid == held.tag.sid and page == held.value[0] & ~(PAGE - 1)}
            yield Entry(family.DEVICE_TLB, frozenset(rows), f"a device holds {held.tag}")

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show where a request of the function landed."""
        if claim == "can-bind":
            issued = self.board.lands(self.wires[o["x"]], self.pasid(o["q"]), self.page[o["t"]],
                                      self.address(o["t"]))
            note(seen, issued, "as bound")
            return
        if claim == "no-misroute":
            self._misrouted(o, seen)
            return
        if (o["x"], o["t"]) not in self.landed:
            raise NotReproduced("no request of the function landed there")
        says = "never bound for the sender" if claim == "respects-grants" else "as bound"
        issued = self.landed[o["x"], o["t"]]
        kind = issued.request.kind
        note(seen, issued, says + ("" if kind is Kind.UNTRANSLATED else f" (a {kind.value} one)"))

    def _misrouted(self, o: Objects, seen: Seen) -> None:
        way = self.at_peer.get((o["x"], o["y"]))
        if way is None:
            raise NotReproduced("no request ended at the peer's BAR")
        passed = ", ".join(map(str, way.nodes))
        goal = self._function(o["y"])
        seen.says.append(f"a request with PASID passes {passed}, and the last of them sends it to"
                         f" the BAR of {goal}: on {_MACHINE} nothing redirects it")


BITS = Bits
