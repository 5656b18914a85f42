"""The family `cache-tags`: attach, detach and unmap; what a flush by tags reaches.

A slot is a requester id, with a PASID where the world says so; a domain is a second stage under one
DID, and what is nested on it a first stage of its own. Tags are lists of the kernel; what is queued
for them is read off the rules' tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from dmaproof.counterexamples.bits.landing import NotReproduced, Seen
from dmaproof.counterexamples.bits.places import IOVA, OFFSET, VIRTUAL
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
from dmaproof.counterexamples.bits.scenarios.board import PSI, Board, PageTable, device_flush
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import cache_tags as family
from dmaproof.model.families import vocabulary as w
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.requests import Kind

NEXT_OWNER = 0x5EC2_E700_0000_0000
"""What the next owner of a page writes into it."""

_LISTS = "cache tags and batches are lists of the kernel; no table is written"
_CONTROL = "the Enable bit of ATS is the device's own; its context entry allows ATS all the time"
_ENTERED = "the call has entered; its steps follow"
_RETURNED = "the call returns; its steps have been taken"
_PARTS = {family.IOTLB: "iotlb", family.DEVICE_TLB: "device"}


class Bits(BitsOfFamily):
    """Each page of each domain has a frame of its own, and an address that all domains share."""

    stutters: ClassVar[Mapping[str, str]] = {
        "attach.enable-ats": _CONTROL, "attach-nested.enable-ats": _CONTROL,
        "detach.disable-ats": _CONTROL,
        **{f"{call}.{step}": _LISTS for call in ("attach", "attach-nested")
           for step in ("allocate-batch", "add-tags", "add-iotlb-tag")},
        "detach.remove-tags": _LISTS,
        **{f"{call}.enter": _ENTERED for call in ("attach", "attach-nested", "detach", "unmap")},
        **{f"{call}.return": _RETURNED for call in ("attach", "attach-nested", "detach")},
    }
    unseen: ClassVar[Mapping[str, str]] = {
        "no-tag-outlives": "cache tags are lists of the kernel",
        "batch-before-flush": "a batch of descriptors is memory of the kernel",
    }
    cached = tuple(_PARTS)

    def boot(self) -> Board:
        """Every slot has an empty PASID-table entry; every domain an empty second stage."""
        board = Board(units=len(self.elements(w.UNIT)), cap=PSI)
        units = self.instance.functions[family.UNIT_OF]
        self.wires = {a: board.wire(a, units[(a,)]) for a in self.elements(w.SLOT)}
        for a, wire in self.wires.items():
            board.plug(wire, ats=self.fact(family.ATS, a))
        self.domains = {
            m: board.page_table(self.name(w.DOMAIN, m)) for m in self.elements(w.DOMAIN)
        }
        self.frame = {(m, x): board.page() for m in self.domains for x in self.elements(w.PAGE)}
        self.nested: dict[tuple[int, int], PageTable] = {}
        for m, domain in self.domains.items():
            for a in self.wires:
                if self.fact(family.NESTED, a):
                    name = f"{self.name(w.SLOT, a)}'s guest on {domain.name}"
                    child = board.page_table(name, parent=domain)
                    for x in self.elements(w.PAGE):
                        board.map(child, VIRTUAL + PAGE * x, self._iova(x))
                    self.nested[a, m] = child
        return board

    # -- numbers ----------------------------------------------------------------------------

    @staticmethod
    def _iova(x: int) -> int:
        return IOVA + PAGE * x

    def _address(self, a: int, x: int) -> int:
        """Return the address at which a slot's requests find a page."""
        return VIRTUAL + PAGE * x if self.fact(family.NESTED, a) else self._iova(x)

    def _pasid(self, a: int) -> int | None:
        return 1 + a if self.fact(family.HAS_PASID, a) else None

    @staticmethod
    def _did(m: int) -> int:
        return 0x10 + m

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Writes of entries and leaves, descriptors and fills."""
        found: dict[str, Handler] = {
            "map": self._map,
            "unmap.clear-leaf": self._clear_leaf,
            "unmap.flush-by-tags": self._flush_by_tags,
            "unmap.return": self._give_back,
            "detach.clear-entry": self._clear_entry,
            "detach.flush-slot": self._flush_slot,
        }
        for call in ("attach", "attach-nested"):
            found[f"{call}.set-up-entry"] = self._set_up
            found[f"{call}.set-up-entry-if-first"] = self._set_up
        for rel in _PARTS:
            label = rel.name.replace("_", "-")
            found |= {f"{label}.fill": self._fill(rel), f"{label}.evict": self._evict(rel)}
        return found

    def _map(self, m: Moment) -> None:
        self.board.map(self.domains[m["m"]], self._iova(m["x"]), self.frame[m["m"], m["x"]])
        self.board.write(self.frame[m["m"], m["x"]] + OFFSET, 0)

    def _clear_leaf(self, m: Moment) -> None:
        self.board.unmap(self.domains[m["m"]], self._iova(m["x"]))

    def _give_back(self, m: Moment) -> None:
        """The frame goes to its next owner, who writes into it."""
        frame = self.frame[m["m"], m["x"]]
        self.board.write(frame + OFFSET, NEXT_OWNER | frame)

    def _set_up(self, m: Moment) -> str:
        if not m.added(family.ENTRY):
            return "the driver leaves the entry as it is"
        a, domain = m["a"], m["m"]
        table = self.nested.get((a, domain), self.domains[domain])
        self.board.enter(self.wires[a], self._pasid(a), table, self._did(domain))
        return ""

    def _clear_entry(self, m: Moment) -> None:
        self.board.clear(self.wires[m["a"]], self._pasid(m["a"]))

    def _flush_slot(self, m: Moment) -> None:
        """Flush PASID cache, IOTLB and device TLB, in the order of VT-d 6.5.3.3."""
        wire, pasid, did = self.wires[m["a"]], self._pasid(m["a"]), self._did(m["m"])
        self.board.flush(wire, Command(Op.PASID_CACHE_PASID, did=did, pasid=pasid or 0),
                         Command(Op.IOTLB_DOMAIN, did=did))
        if self.options.ats == "on" and self.fact(family.ATS, m["a"]):
            self.board.flush(wire, *device_flush(wire, pasid))

    def _flush_by_tags(self, m: Moment) -> str:
        """Queue a page of the DID at each unit that a tag names, and at each device with a tag."""
        domain, x = m["m"], m["x"]
        for number in sorted(self._units(m.before, domain)):
            wire = next(wire for wire in self.wires.values() if wire.domain == number)
            self.board.flush(
                wire, Command(Op.IOTLB_PAGE, did=self._did(domain), address=self._iova(x)))
        rows = m.before.get(family.DEVTLB_TAG, frozenset())
        tagged = sorted(a for m1, a in rows if m1 == domain)
        for a in tagged:
            pasid = None if self.options.unmap == "untagged" else self._pasid(a)
            # A guest's addresses are unknown to the host: everything goes.
            page = None if self.fact(family.NESTED, a) else self._address(a, x)
            self.board.flush(self.wires[a], *device_flush(self.wires[a], pasid, page))
        return "" if tagged or self._units(m.before, domain) else "no tag: nothing is queued"

    def _units(self, state: State, domain: int) -> set[int]:
        if self.options.neighbour:  # the tag of a device that stays attached
            return set(range(len(self.board.units)))
        if self.options.iotlb_tags == "per-did":
            return {u for m1, u in state[family.NOTED] if m1 == domain}
        return {self.wires[a].domain for m1, a in state[family.IOTLB_TAG] if m1 == domain}

    def _fill(self, rel: Rel) -> Handler:
        def fill(m: Moment) -> str:
            a, kind = m["a"], Kind.UNTRANSLATED if rel == family.IOTLB else Kind.TRANSLATION
            wire = self.wires[a]
            request = self.board.request(wire, self._pasid(a), self._address(a, m["x"]), kind)
            found = self.board.unit(wire).fill(request, self.frame[m["m"], m["x"]],
                                               frozenset({_PARTS[rel]}))
            return "" if found else "the hardware has nothing that leads there, and fills nothing"

        return fill

    def _evict(self, rel: Rel) -> Handler:
        def evict(m: Moment) -> None:
            wire, mine = self.wires[m["a"]], (m["a"], m["m"], m["x"])

            def leaves(tag: Any, value: Any) -> bool:  # noqa: ANN401
                return mine in self._rows(wire.domain, tag, value)

            self.board.unit(wire).evict(_PARTS[rel], leaves)

        return evict

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read the entries of the slots and the leaves of the domains."""
        found: dict[Rel, set[Row]] = {family.ENTRY: set(), family.MAPS: set()}
        for a, wire in self.wires.items():
            entry = self.board.read_entry(wire, self._pasid(a))
            for m, domain in self.domains.items():
                table = self.nested.get((a, m), domain)
                if entry == (self._did(m), table):
                    found[family.ENTRY].add((a, m))
        for (m, x), frame in self.frame.items():
            if self.board.mapped(self.domains[m], self._iova(x)) == frame:
                found[family.MAPS].add((m, x))
        return found

    def held(self) -> Iterator[Entry]:
        """Read IOTLBs and device TLBs."""
        for number, unit in enumerate(self.board.units):
            for rel, part in _PARTS.items():
                for held in getattr(unit.hardware.caches, part):
                    yield Entry(rel, frozenset(self._rows(number, held.tag, held.value)),
                                f"the {rel.name.replace('_', ' ')} of unit {number} holds"
                                f" {held.tag}")

    def _rows(self, number: int, tag: Any, value: Any) -> Iterator[Row]:  # noqa: ANN401
        for a, wire in self.wires.items():
            pasid = tag.pasid if tag.tagged else None
            if (wire.domain, wire.rid, self._pasid(a)) != (number, tag.sid, pasid):
                continue
            for (m, x), frame in self.frame.items():
                if frame == value[0] & ~(PAGE - 1) and tag.page == self._address(a, x):
                    yield (a, m, x)

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every slot for every page."""
        cached = state[family.IOTLB] | state.get(family.DEVICE_TLB, frozenset())
        for a, wire in self.wires.items():
            for x in self.elements(w.PAGE):
                domains = {m for a1, m in state[family.ENTRY] if a1 == a}
                yield Lookup(
                    wire, self.board.request(wire, self._pasid(a), self._address(a, x)),
                    frozenset(self.frame[m, x] for m in domains if (m, x) in state[family.MAPS]),
                    frozenset(self.frame[m, x] for a1, m, x1 in cached if (a1, x1) == (a, x)),
                    f"{self.name(w.SLOT, a)}, asking for {self.name(w.PAGE, x)},",
                )

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Issue a request for a page that was given away, or one that is blocked."""
        if claim == "attached-is-programmed":
            a = o["a1"]
            note(seen, self.board.blocked(self.wires[a], self._pasid(a), self._address(a, 0)),
                 f"{self.name(w.SLOT, a)} is attached and has no entry")
            return
        one = "" if claim == "can-cache" else "1"
        a, m, x = o[f"a{one}"], o[f"m{one}"], o[f"x{one}"]
        frame = self.frame[m, x]
        issued = self.board.lands(self.wires[a], self._pasid(a), frame, self._address(a, x))
        says = f"the frame of {self.name(w.PAGE, x)}"
        if claim != "can-cache":
            says += f", which holds {next_owner(self.board, frame)}"
        note(seen, issued, says)


def next_owner(board: Board, frame: int) -> str:
    """Return in words what the next owner of a page has written into it.

    Raises:
        NotReproduced: the page was not given away.
    """
    word = board.memory[frame + OFFSET]
    if word != NEXT_OWNER | frame:
        raise NotReproduced(f"the page at {frame:#x} was not given away")
    return f"{word:#x} of its next owner"


BITS = Bits
