"""The family `pasid-attach`: an iommufd page table object in the entries of a group's members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar

from dmaproof.counterexamples.bits.landing import Seen
from dmaproof.counterexamples.bits.places import IOVA
from dmaproof.counterexamples.bits.scenarios.base import Objects, Row, note
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.counterexamples.bits.scenarios.tables import EntryBits, Place, Shot
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import pasid_attach as family
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vfio.vocabulary import FUNCTION, NO_PASID, PASID

_LANDS = ("x", "q")


class Bits(EntryBits):
    """A page table object is a second stage; PASID "none" is the entry of RID_PASID."""

    following = (family.ENTRY,)
    shots: ClassVar[Mapping[str, tuple[Shot, ...]]] = {
        "device-isolation": (Shot(_LANDS, "z", "it was never attached for that function"),),
        "group-isolation": (Shot(_LANDS, "z", "nobody in its group has attached it"),),
        "attached-means-own": (Shot(_LANDS, "z", "only a call for a sibling named it"),),
        "attached-translates": (Shot(_LANDS, "", "it is attached there"),),
        "uniform": (Shot(_LANDS, "z", "as attached"),
                    Shot(("m", "q"), "", "it is in the same group")),
        "detach-blocks-caller": (Shot(_LANDS, "z", "it was detached there"),),
        "no-silent-detach": (Shot(_LANDS, "", "no call took its attachment away"),),
        "can-attach-pasid": (Shot(_LANDS, "z", "as attached"),),
        "can-pasid-while-rid-blocked": (Shot(_LANDS, "z", "its requests without PASID are"
                                                          " blocked"),),
        "can-reach-unattached": (Shot(_LANDS, "z", "it was never attached"),),
        "can-attach-beside-incapable": (Shot(_LANDS, "z", "beside a member without PASIDs"),),
    }

    def boot(self) -> Board:
        """An object that maps a device's reserved region does so at the region's address."""
        board = super().boot()
        for h, f in self.instance.facts.get(family.RESERVED, ()):
            board.map(self.goals[h], self._reserved(f), self.page[h])
        return board

    @staticmethod
    def _reserved(f: int) -> int:
        return IOVA + PAGE * f

    def goal_names(self) -> Iterable[tuple[int, str]]:
        """Page table objects."""
        return ((h, self.name(family.HWPT, h)) for h in self.elements(family.HWPT))

    def places_of(self, board: Board, rel: Rel) -> Iterator[tuple[Row, Place]]:
        """Every function has a PASID table of its own."""
        bare = self.instance.functions[NO_PASID.fn][()]
        for f in self.elements(FUNCTION):
            wire = board.wire(f)
            board.plug(wire)
            for p in self.elements(PASID):
                yield (f, p), (wire, None if p == bare else 1 + p)

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue the requests of the claim; for a reserved region one to its address."""
        if claim != "reserved-regions":
            super().show(claim, o, seen)
            return
        wire, pasid = self.places[family.ENTRY][o["x"], o["q"]]
        issued = self.board.lands(wire, pasid, self.page[o["z"]], self._reserved(o["x"]))
        note(seen, issued, f"{self._reserved(o['x']):#x} is in a reserved region of the device")


BITS = Bits
