"""The family `invalidation`: PASID-table entries, four caches, and descriptors of a teardown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

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
from dmaproof.counterexamples.bits.scenarios.board import CM, Board, PageTable, device_flush
from dmaproof.model.algebra import PAGE
from dmaproof.model.families import invalidation as family
from dmaproof.model.families import vocabulary as w
from dmaproof.model.logic.sets import State
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vtd.caches import Held
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.requests import Kind

_BOOKKEEPING = "identifiers and locks are the kernel's; no table is written"
_PARTS = {family.PASID_CACHE: "pasid", family.IOTLB: "iotlb", family.STRUCTURE: "paging",
          family.DEVICE_TLB: "device"}


class Bits(BitsOfFamily):
    """Scalable mode: a requester id has a PASID table, a space a first or a second stage."""

    stutters: ClassVar[Mapping[str, str]] = {
        "unbind.enter": "the call has entered and holds the group's lock; its steps follow",
        "unbind.free": _BOOKKEEPING,
        "unbind.return": _BOOKKEEPING,
    }
    cached = tuple(_PARTS)

    def boot(self) -> Board:
        """Every requester id has an empty PASID table, every space its page table and page."""
        units = len(self.elements(w.UNIT))
        cm = bool(self.instance.facts.get(w.CACHING_MODE))
        board = Board(units=units, cap=CM if cm else 0)
        self.wires = {
            r: board.wire(r, self.instance.functions[w.UNIT_OF][(r,)])
            for r in self.elements(v.RID)
        }
        for r, wire in self.wires.items():
            board.plug(wire, ats=self.fact(w.ATS, r))
        self.spaces: dict[int, PageTable] = {}
        self.page: dict[int, int] = {}
        for s in self.elements(v.SPACE):
            first = self.fact(w.FIRST_STAGE, s)
            self.spaces[s] = board.page_table(self.name(v.SPACE, s), first=first)
            self.page[s] = board.page()
            board.map(self.spaces[s], VIRTUAL, self.page[s])
        return board

    # -- numbers ----------------------------------------------------------------------------

    def pasid(self, p: int) -> int | None:
        """Return the number of a PASID; None is "no PASID", whose entry is that of PASID 0."""
        return None if p == self.instance.functions[v.NO_PASID.fn][()] else p + 1

    def did(self, d: int) -> int:
        """Return the number of a domain id."""
        return d + 1

    def _pasid_of(self, number: int, *, with_pasid: bool) -> int | None:
        wanted = number if with_pasid else None
        return next((p for p in self.elements(v.PASID) if self.pasid(p) == wanted), None)

    # -- gamma ------------------------------------------------------------------------------

    def gamma(self) -> Mapping[str, Handler]:
        """Writes, descriptors and fills."""
        return {
            "bind": self._bind,
            "unbind.clear": self._clear,
            "unbind.pasid-cache": lambda m: self._flush(m, Op.PASID_CACHE_PASID),
            "unbind.pasid-cache-without-type": self._typeless,
            "unbind.iotlb-pasid": lambda m: self._flush(m, Op.PASID_IOTLB_PASID),
            "unbind.iotlb-domain": lambda m: self._flush(m, Op.IOTLB_DOMAIN),
            "unbind.iotlb-by-stage": self._by_stage,
            "unbind.device-tlb": lambda m: self._device(m, self.pasid(m["p"])),
            "unbind.device-tlb-untagged": lambda m: self._device(m, None),
            "unbind.device-tlb-swapped": lambda m: self._device(
                m, 0 if self.pasid(m["p"]) is None else None),
            "unbind.device-tlb-unless-caching-mode": self._unless_caching_mode,
            "pasid-cache.fill": lambda m: self._fill(m, family.PASID_CACHE),
            "paging-structure-cache.fill": lambda m: self._fill(m, family.STRUCTURE),
            "iotlb.fill": lambda m: self._fill(m, family.IOTLB),
            "iotlb.fill-from-structures": lambda m: self._fill(m, family.IOTLB),
            "device-tlb.fill": lambda m: self._fill(m, family.DEVICE_TLB),
            **{f"{rel.name.replace('_', '-')}.evict": self._evict(rel) for rel in _PARTS},
        }

    def _bind(self, m: Moment) -> None:
        self.board.enter(self.wires[m["r"]], self.pasid(m["p"]), self.spaces[m["s"]],
                         self.did(m["d"]))

    def _clear(self, m: Moment) -> None:
        self.board.clear(self.wires[m["r"]], self.pasid(m["p"]))

    def _flush(self, m: Moment, op: Op) -> None:
        command = Command(op, did=self.did(m["d"]), pasid=self.pasid(m["p"]) or 0)
        if op is Op.IOTLB_DOMAIN:
            command = Command(op, did=self.did(m["d"]))
        self.board.flush(self.wires[m["r"]], command)

    def _typeless(self, m: Moment) -> None:
        """A descriptor whose type is 0 stops the queue; the driver replaces it and goes on."""
        low = self.did(m["d"]) << 16 | (self.pasid(m["p"]) or 0) << 32 | 1 << 4
        self.board.unit(self.wires[m["r"]]).refused((low, 0))

    def _by_stage(self, m: Moment) -> None:
        first = self.fact(w.FIRST_STAGE, m["s"])
        self._flush(m, Op.PASID_IOTLB_PASID if first else Op.IOTLB_DOMAIN)

    def _device(self, m: Moment, pasid: int | None) -> str:
        if self.options.ats == "off":
            return "no device has ATS on: the driver queues nothing"
        wire = self.wires[m["r"]]
        self.board.flush(wire, *device_flush(wire, pasid))
        return ""

    def _unless_caching_mode(self, m: Moment) -> str:
        if self.fact(w.CACHING_MODE, m["r"]):
            return "the unit reports caching mode: the driver queues nothing"
        return self._device(m, self.pasid(m["p"]))

    def _fill(self, m: Moment, rel: Rel) -> str:
        kind = Kind.TRANSLATION if rel == family.DEVICE_TLB else Kind.UNTRANSLATED
        wire, did = self.wires[m["r"]], self.did(m["d"])
        request = self.board.request(wire, self.pasid(m["p"]), VIRTUAL, kind)

        def fits(held: Held) -> bool:
            return getattr(held.tag, "did", did) == did

        part = frozenset({_PARTS[rel]})
        found = self.board.unit(wire).fill(request, self.page[m["s"]], part, fits)
        return "" if found else "the hardware has nothing that leads there, and fills nothing"

    def _evict(self, rel: Rel) -> Handler:
        def evict(m: Moment) -> None:
            wire, mine = self.wires[m["r"]], (m["r"], m["p"], m["d"], m["s"])

            def leaves(tag: object, value: object) -> bool:
                return mine in self._entry(rel, wire, Held(tag, value)).rows

            self.board.unit(wire).evict(_PARTS[rel], leaves)

        return evict

    # -- alpha ------------------------------------------------------------------------------

    def tables(self, state: State) -> Mapping[Rel, set[Row]]:
        """Read every PASID-table entry."""
        found: set[Row] = set()
        for r, wire in self.wires.items():
            for p in self.elements(v.PASID):
                entry = self.board.read_entry(wire, self.pasid(p))
                if entry is not None:
                    did, table = entry
                    found |= {(r, p, did - 1, s) for s, t in self.spaces.items() if t == table}
        return {family.ENTRY: found}

    def held(self) -> Iterator[Entry]:
        """Read the four caches."""
        for rel, part in _PARTS.items():
            for unit, wire in {wire.domain: wire for wire in self.wires.values()}.items():
                for held in getattr(self.board.units[unit].hardware.caches, part):
                    yield self._entry(rel, wire, held)

    def _entry(self, rel: Rel, wire: Bdf, held: Held) -> Entry:
        says = f"the unit's {rel.name.replace('_', ' ')} holds {held.tag}"
        return Entry(rel, frozenset(self._rows(rel, wire.domain, held)), says)

    def _rows(self, rel: Rel, unit: int, held: Held) -> Iterator[Row]:
        tag = held.tag
        with_pasid = tag.tagged if rel in (family.IOTLB, family.DEVICE_TLB) else tag.pasid != 0
        here = [r for r, wire in self.wires.items() if wire.domain == unit]
        rids = [r for r in here if self.wires[r].rid == getattr(tag, "sid", self.wires[r].rid)]
        p = self._pasid_of(tag.pasid, with_pasid=with_pasid)
        pasids = [p] if p is not None else []
        if rel == family.STRUCTURE and not tag.first:
            pasids = list(self.elements(v.PASID))  # second-stage structures know no PASID
        dids = list(self.elements(w.DID))
        if rel != family.DEVICE_TLB:
            dids = [d for d in dids if self.did(d) == tag.did]
        for s in self._spaces_of(rel, held):
            yield from ((r, p, d, s) for r in rids for p in pasids for d in dids)

    def _spaces_of(self, rel: Rel, held: Held) -> list[int]:
        """Return the space to which a cached entry leads."""
        if rel == family.PASID_CACHE:
            named = self.board.named(held.value[0])
            return [s for s, table in self.spaces.items() if named and named[1] == table]
        frame = held.value[0] & POINTER
        if rel == family.STRUCTURE:
            return [s for s, t in self.spaces.items() if self.board.owner.get(frame) == t]
        return [s for s, page in self.page.items() if page == frame & ~(PAGE - 1)]

    def lookups(self, state: State) -> Iterator[Lookup]:
        """A request of every requester id with every PASID, for the one address."""
        for r, wire in self.wires.items():
            for p in self.elements(v.PASID):
                tables = {s for r1, p1, _, s in state[family.ENTRY] if (r1, p1) == (r, p)}
                caches = set(self._through_structures(state, r, p))
                for rel in self.cached:
                    if rel != family.STRUCTURE:
                        rows = state.get(rel, frozenset())
                        caches |= {s for r1, p1, _, s in rows if (r1, p1) == (r, p)}
                yield Lookup(
                    wire, self.board.request(wire, self.pasid(p)),
                    frozenset(self.page[s] for s in tables),
                    frozenset(self.page[s] for s in caches),
                    f"{self.name(v.RID, r)}, PASID {self.name(v.PASID, p)},",
                )

    def _through_structures(self, state: State, r: int, p: int) -> Iterator[int]:
        """Yield the spaces whose structures a walk of (r, p) may find (VT-d 6.2.5)."""
        known = state[family.ENTRY] | state[family.PASID_CACHE]
        for _, _, did, own in (row for row in known if row[:2] == (r, p)):
            for r1, p1, d1, s in state[family.STRUCTURE]:
                first = self.fact(w.FIRST_STAGE, s)
                same = d1 == did and self.wires[r1].domain == self.wires[r].domain
                same &= first == self.fact(w.FIRST_STAGE, own)
                if same and (not first or p1 == p):
                    yield s

    # -- what the end shows -----------------------------------------------------------------

    def show(self, claim: str, o: Objects, seen: Seen) -> None:
        """Show a request that still lands, or two entries under one tag."""
        if claim == "one-space-a-tag":
            self._one_tag(o, seen)
            return
        one = "" if claim == "can-bind" else "1"
        r, p, s = o[f"r{one}"], o[f"p{one}"], o[f"s{one}"]
        issued = self.board.lands(self.wires[r], self.pasid(p), self.page[s])
        name = self.name(v.SPACE, s)
        says = {
            "unbind-final": f"the page of {name}, for which no call covers it",
            "no-predecessor": f"the page of {name}, which had the PASID before",
            "can-bind": f"the page of {name}",
        }[claim]
        note(seen, issued, says)

    def _one_tag(self, o: Objects, seen: Seen) -> None:
        keys = [(o["r"], o["p"]), (o["r1"], o["p1"])]
        entries = [self.board.read_entry(self.wires[r], self.pasid(p)) for r, p in keys]
        first, second = entries
        if first is None or second is None or first[1] == second[1]:
            raise NotReproduced("two entries under one tag are not there")
        for (r, p), (did, table) in zip(keys, (first, second), strict=True):
            where = self.board.entry(self.wires[r], self.pasid(p))
            seen.says.append(f"the entry at {where:#x} has DID {did:#x} and leads to the tables"
                             f" of {table.name} at {table.top:#x}")


BITS = Bits
