"""The family `tlps`: untranslated, translation and translated requests at the remapping unit.

Where a switch takes a request by its address, it never comes to the unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen, by_tables
from dmaproof.counterexamples.bits.places import OFFSET
from dmaproof.counterexamples.bits.scenarios.base import (
    Entry,
    Handler,
    Moment,
    Objects,
    note,
)
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.spaces import SpaceBits
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import tlps as family
from dmaproof.model.vtd.requests import Kind, Request

_SWITCH = "a switch takes the request by its address: it never comes to the unit"


class Bits(SpaceBits):
    """Without translation the unit is off, and requests pass."""

    entry, landed_in = family.ENTRY, family.LANDED
    stutters: ClassVar[Mapping[str, str]] = {"request.misrouted": _SWITCH}
    unseen: ClassVar[Mapping[str, str]] = {"no-misroute": _SWITCH}
    cached = (family.DEVICE_TLB,)

    @property
    def ats(self) -> bool:
        """The kernel sets DTE for trusted devices alone (drivers/pci/ats.c)."""
        return bool(self.options.ats and self.options.trusted)

    def boot(self) -> Board:
        """Turn the unit off where there is no translation."""
        board = super().boot()
        board.units[0].hardware.registers.enabled = self.options.translation == "iommu"
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
        }

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
        if (o["x"], o["t"]) not in self.landed:
            raise NotReproduced("no request of the function landed there")
        says = "never bound for the sender" if claim == "respects-grants" else "as bound"
        issued = self.landed[o["x"], o["t"]]
        kind = issued.request.kind
        note(seen, issued, says + ("" if kind is Kind.UNTRANSLATED else f" (a {kind.value} one)"))


BITS = Bits
