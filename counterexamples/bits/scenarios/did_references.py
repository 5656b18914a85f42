"""The family `did-references`: second stages under domain ids; what is found by DID alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from dmaproof.counterexamples.bits.host import POINTER
from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
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
from dmaproof.counterexamples.bits.scenarios.board import Board
from dmaproof.model.families import did_references as family
from dmaproof.model.families import vocabulary as w
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vtd.invalidation import Command, Op

_COUNTS = "references are counted in the kernel's memory"


class Bits(BitsOfFamily):
    """A slot is a requester id; a domain a second stage with one page."""

    stutters: ClassVar[Mapping[str, str]] = {
        "detach.enter": "the call has entered and holds the group's lock; its steps follow",
        "detach.put": _COUNTS, "detach-unknown": _COUNTS,
        "reset.prepare": "the slot has no entry: blocked is an entry that is not present",
    }
    unseen: ClassVar[Mapping[str, str]] = {
        "tracking-of-paging-domains": "a domain's lists are memory of the kernel",
        "references-agree": _COUNTS, "entry-has-reference": _COUNTS,
    }
    cached = (family.STRUCTURE,)

    def boot(self) -> Board:
        """No entry is present."""
        board = Board()
        self.wires = {a: board.wire(a) for a in self.elements(w.SLOT)}
        for wire in self.wires.values():
            board.plug(wire)
        self.domains = {m: board.page_table(self.name(w.DOMAIN, m))
                        for m in self.elements(w.DOMAIN)}
        self.page = {m: board.page() for m in self.domains}
        for m, domain in self.domains.items():
            board.map(domain, VIRTUAL, self.page[m])
        return board

    @staticmethod
    def _did(d: int) -> int:
        return 2 + d

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Entries, flushes by DID, and walks that leave paging structures in the caches."""
        return {
            "attach": self._attach,
            "reset.done": self._attach,
            "detach.clear": lambda m: self.board.clear(self.wires[m["a"]], None),
            "detach.flush": self._flush,
            "paging-structure-cache.fill": self._fill,
            "paging-structure-cache.evict": self._evict,
        }

    def _attach(self, m: Moment) -> None:
        self.board.enter(self.wires[m["a"]], None, self.domains[m["m"]], self._did(m["d"]))

    def _flush(self, m: Moment) -> None:
        did = self._did(m["d"])
        self.board.flush(self.wires[m["a"]], Command(Op.PASID_CACHE_PASID, did=did, pasid=0),
                         Command(Op.IOTLB_DOMAIN, did=did))

    def _fill(self, m: Moment) -> str:
        wire = self.wires[m["a"]]
        found = self.board.unit(wire).fill(
            self.board.request(wire, None), self.page[m["m"]], frozenset({"paging"}),
            lambda held: held.tag.did == self._did(m["d"]))
        return "" if found else "the hardware has nothing that leads there, and fills nothing"

    def _evict(self, m: Moment) -> None:
        mine = (m["a"], m["m"], m["d"])

        def leaves(tag: Any, value: Any) -> bool:  # noqa: ANN401
            return mine in self._rows(tag, value)

        self.board.unit(self.wires[m["a"]]).evict("paging", leaves)

    # -- alpha ------------------------------------------------------------------------------

    def _rows(self, tag: Any, value: Any) -> set[Row]:  # noqa: ANN401
        """Return what a paging structure may stand for: it knows a DID and no slot."""
        table = self.board.owner.get(value[0] & POINTER)
        return {(a, m, d) for a in self.wires for m, domain in self.domains.items()
                for d in self.elements(w.DID) if domain == table and tag.did == self._did(d)}

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the entries."""
        found: set[Row] = set()
        for a, wire in self.wires.items():
            entry = self.board.read_entry(wire, None)
            found |= {(a, m, d) for m, domain in self.domains.items()
                      for d in self.elements(w.DID) if entry == (self._did(d), domain)}
        return {family.ENTRY: found}

    def held(self) -> Iterator[Entry]:
        """Read the paging-structure cache."""
        for held in self.board.units[0].hardware.caches.paging:
            yield Entry(family.STRUCTURE, frozenset(self._rows(held.tag, held.value)),
                        f"the unit holds {held.tag}")

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every slot."""
        for a, wire in self.wires.items():
            entries = [(m, d) for a1, m, d in state[family.ENTRY] if a1 == a]
            dids = {d for _, d in entries}
            found = {m for _, m, d in state[family.STRUCTURE] if d in dids}
            yield Lookup(wire, self.board.request(wire, None),
                         frozenset(self.page[m] for m, _ in entries),
                         frozenset(self.page[m] for m in found), self.name(w.SLOT, a))

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show two entries under one DID, or a walk that another domain's structures serve."""
        if claim == "no-foreign-walk":
            issued = self.board.lands(self.wires[o["a"]], None, self.page[o["n"]], cached=True)
            note(seen, issued, f"a page of {self.name(w.DOMAIN, o['n'])}, while the slot is"
                               f" attached to {self.name(w.DOMAIN, o['m'])}")
            return
        for a in (o[name] for name in ("a", "b") if name in o):
            entry = self.board.read_entry(self.wires[a], None)
            if entry is None:
                if claim == "can-reset":
                    note(seen, self.board.blocked(self.wires[a], None), "it is being reset")
                    continue
                raise NotReproduced(f"{self.name(w.SLOT, a)} has no entry")
            seen.says.append(f"the entry of {self.name(w.SLOT, a)} has DID {entry[0]:#x} and leads"
                             f" to {entry[1].name} at {entry[1].top:#x}")


BITS = Bits
