"""Alpha: the rule state that tables, registers and caches stand for, compared with the rules'.

Tables must agree exactly. A cache of the rule layer may hold more than the hardware's (it may evict
at any time), never less: what a request can reach through hardware must be a hit of the rules.

The context cache knows no PASID: once it holds the entry of a requester id, it leads to every PASID
of the table. So the run of the rules that the bits are compared with is the trace's, with further
fills: while hardware holds a context entry, the PASID cache of the rules takes in all that the
tables give to its requester id. Fills are always allowed, and no step of a trace minds them.
"""

from __future__ import annotations

from collections.abc import Iterator

from dmaproof.counterexamples.bits.gamma import Gamma
from dmaproof.counterexamples.bits.host import ProcessFormat, RidFormat, TableFormat
from dmaproof.model.algebra import PAGE
from dmaproof.model.logic.sets import apply, holds, initial_state
from dmaproof.model.logic.system import Action
from dmaproof.model.logic.terms import Rel
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vfio import vocabulary as v
from dmaproof.model.vfio.scheme import SHARED_ENTRY
from dmaproof.model.vtd.translate import translate

Entry = tuple[int, int, int]
"""(requester id, PASID, space), as elements."""

_VARS = (v.R, v.P, v.S)


class Alpha:
    """Reads the rule state out of the bits of one replay."""

    def __init__(self, gamma: Gamma) -> None:
        self.gamma, self.host = gamma, gamma.host
        self.places, self.scheme = gamma.places, gamma.model.scheme
        self.state = initial_state(gamma.model.system, gamma.places.instance)

    def step(self, act: Action, args: tuple[int, ...]) -> None:
        """Let the rules take the step that the bits have taken."""
        self.state = apply(act, args, self.places.instance, self.state)

    def differences(self) -> Iterator[str]:
        """Yield what the bits and the rules disagree about, in words."""
        yield from self._relations()
        rules = self.walks()
        yield from self._tables(rules)
        self._fill(rules)
        yield from self._caches(rules)

    def _fill(self, rules: set[Entry]) -> None:
        """Fill the rules' PASID cache with what cached context entries lead to."""
        held = {
            r
            for segment, unit in self.host.units.items()
            for entry in unit.hardware.caches.context
            for r in self.places.sharers.get(Bdf.from_rid(entry.tag.sid, segment), ())
        }
        more = {entry for entry in rules if entry[0] in held}
        if not more <= self.state[v.PASID_CACHE]:
            self.state = {**self.state, v.PASID_CACHE: self.state[v.PASID_CACHE] | more}

    # -- tables -----------------------------------------------------------------------------

    def walks(self) -> set[Entry]:
        """Return what the rules' tables give."""
        instance, walk = self.places.instance, self.scheme.walk(*_VARS)
        return {
            (r, p, s)
            for r, p, s in instance.tuples(x.sort for x in _VARS)
            if holds(walk, instance, self.state, {v.R: r, v.P: p, v.S: s})
        }

    def _relations(self) -> Iterator[str]:
        for rel, found in self.read().items():
            least, most = set(self.state[rel]), set(self.state[rel])
            if rel == self.scheme.slot and rel.sorts[0] == v.RID:
                least, most = self._shared(most)
            for word, part in (
                ("only the bits have", found - most),
                ("only the rules have", least - found),
            ):
                if part:
                    yield f"{word} {', '.join(self.named(rel, t) for t in sorted(part))}"

    def _shared(
        self, rows: set[tuple[int, ...]]
    ) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
        """Return what the entry of each requester id must say at least, and may say at most.

        Where it is an alias of others too, it is theirs as well: the last one that wrote it counts.
        """
        least, most = set(), set()
        for rid in self.places.rids:
            sharers = self.places.sharers[self.places.wires[rid][0]]
            each = [{row[1:] for row in rows if row[0] == r} for r in sharers]
            least |= {(rid, *tail) for tail in set.intersection(*each)}
            most |= {(rid, *tail) for tail in set.union(*each)}
        return least, most

    def read(self) -> dict[Rel, set[tuple[int, ...]]]:
        """Return the table relations that the bytes stand for."""
        layout, scheme, rids = self.gamma.layout, self.scheme, self.places.rids
        slot: set[tuple[int, ...]] = set()
        found: dict[Rel, set[tuple[int, ...]]] = {scheme.slot: slot}
        if isinstance(layout, RidFormat):
            containers = self.host.containers()
            slot |= {(r,) for r in rids if layout.attached(r) in containers.values()}
            assert scheme.content is not None
            found[scheme.content] = {(c, s) for c in containers for s in layout.mapped(c)}
        elif isinstance(layout, TableFormat):
            slot |= {(r,) for r in rids if layout.pointed(r)}
            assert scheme.content is not None
            owners = self.places.instance.domain(scheme.owner_sort)
            found[scheme.content] = {(o, p, s) for o in owners for p, s in layout.content(o)}
        elif isinstance(layout, ProcessFormat):
            shared = scheme.slot == SHARED_ENTRY
            slot |= {(p, s) if shared else (r, p, s) for r in rids for p, s in layout.entries(r)}
        return found

    def _tables(self, rules: set[Entry]) -> Iterator[str]:
        for wire, sharers in self.places.sharers.items():
            bits = self.reached(wire)
            either = {(p, s) for r, p, s in rules if r in sharers}
            every = {(p, s) for p, s in either if all((r, p, s) in rules for r in sharers)}
            if not any(self._present(r) for r in sharers):
                every = set()  # a function that is not plugged in sends nothing
            for p, s in sorted(bits - either):
                yield (
                    f"a request of {wire}{self._as(p)} lands in {self._space(s)},"
                    " which no rule table gives"
                )
            for p, s in sorted(every - bits):
                yield (
                    f"a request of {wire}{self._as(p)} does not land in {self._space(s)},"
                    " which the rule tables give"
                )

    def _present(self, rid: int) -> bool:
        function = (self.places.owner(rid),)
        return not self.scheme.hot_add or function in self.state[v.PRESENT]

    def reached(self, wire: Bdf) -> set[tuple[int, int]]:
        """Return the (PASID, space) that the tables give to requests under an id."""
        found = set()
        registers = self.host.unit(wire).hardware.registers
        for pasid in self.places.pasids:
            for address in self.places.addresses:
                request = self.places.request(wire, pasid, address)
                outcome = translate(self.host.memory, registers, request)
                if not outcome.fault and outcome.readable:
                    found.add((pasid, self.space(outcome.hpa, address)))
        return found

    def space(self, hpa: int, address: int) -> int:
        """Return the space in whose page a request landed; -1: in none of them.

        With one IOVA map a space counts only at its own address.
        """
        space = self.places.space_at(hpa)
        if space is None or self.places.address(space) != address & ~(PAGE - 1):
            return -1
        return space

    # -- caches -----------------------------------------------------------------------------

    def _caches(self, rules: set[Entry]) -> Iterator[str]:
        for segment, unit in self.host.units.items():
            caches = unit.hardware.caches
            for rel, part in ((v.IOTLB, caches.iotlb), (v.DEVICE_TLB, caches.device)):
                for held in part:
                    tag = held.tag
                    wire = Bdf.from_rid(tag.sid, segment)
                    pasid = self.places.pasid_element(tag.pasid if tag.tagged else None)
                    space = self.space(held.value[0], tag.page)
                    yield from self._held(rel, wire, pasid, space)
        if any(
            u.hardware.caches.context or u.hardware.caches.pasid for u in self.host.units.values()
        ):
            yield from self._through_entries(rules)

    def _held(self, rel: Rel, wire: Bdf, pasid: int | None, space: int) -> Iterator[str]:
        sharers = self.places.sharers.get(wire, ())
        if not any((r, pasid, space) in self.state.get(rel, ()) for r in sharers):
            yield (
                f"the hardware's {rel.name.replace('_', ' ')} leads {wire}"
                f"{self._as(pasid)} to {self._space(space)}, the rules' does not"
            )

    def _through_entries(self, rules: set[Entry]) -> Iterator[str]:
        """Look for what cached context and PASID entries give, past the tables."""
        held = self.state[v.PASID_CACHE] | rules
        for wire, sharers in self.places.sharers.items():
            hardware = self.host.unit(wire).hardware
            for pasid in self.places.pasids:
                for address in self.places.addresses:
                    request = self.places.request(wire, pasid, address)
                    for way in hardware.ways(request):
                        if way.legal.hpa is None or way.source != "entries":
                            continue
                        space = self.space(way.legal.hpa, address)
                        if not any((r, pasid, space) in held for r in sharers):
                            yield (
                                f"cached entries lead {wire}{self._as(pasid)} to"
                                f" {self._space(space)}, the rules' PASID cache does not"
                            )

    # -- words ------------------------------------------------------------------------------

    def named(self, rel: Rel, values: tuple[int, ...]) -> str:
        """Return a tuple of a relation with the names of its elements."""
        name = self.places.instance.name
        args = ", ".join(name(s, a) for s, a in zip(rel.sorts, values, strict=True))
        return f"{rel.name}({args})"

    def _as(self, pasid: int | None) -> str:
        if pasid is None:
            return ", with a PASID that no rule knows,"
        return f", {self.places.instance.name(v.PASID, pasid)},"

    def _space(self, space: int) -> str:
        return "a page of no space" if space < 0 else self.places.instance.name(v.SPACE, space)
