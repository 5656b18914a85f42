"""Table binds on the bits: a PASID table that the caller owns, nested on the container's domain."""

from __future__ import annotations

from dmaproof.counterexamples.bits.host import (
    AW,
    POINTER,
    Domain,
    Host,
    Pasids,
    TableFormat,
    flushes,
)
from dmaproof.counterexamples.bits.places import GUEST
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd.extended import NESTE, PASIDE
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Step, Write

_T = 7 << 2
_PRE = 1 << 9
_SRE = 1 << 11
_SCALABLE_PASIDE = 1 << 3


class ExtendedGuest(TableFormat):
    """Extended mode, as patch v4 04/22 of 2018 programs it (rev 2.x 9.4).

    The context entry names the guest's PASID table by its guest-physical address; with NESTE the
    table, the first stages it names and their output all go through the container's second stage.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._table: dict[int, int] = {}
        self._pts = max(0, max(host.places.pasids).bit_length() - 5)

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Host mode, in the group's own domain, no PASID."""
        host, domain = self.host, self.host.group(rid)
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"extended context table of bus {wire.bus:02x}", 32):
                host.context[wire] = frames.extended(
                    wire.rid,
                    domain.top,
                    AW,
                    domain.did,
                    t=int(host.ats),
                    present=int(present),
                )

    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the context entry."""
        return self.words(self.host.context[self.host.wires(rid)[0]], 4)

    def _domain(self, wire: Bdf) -> Domain:
        low, high = self.words(self.host.context[wire], 2)
        return Domain(high >> 8 & 0xFFFF, low & POINTER)

    def attach(self, rid: int) -> str:
        """Exchange second stage and domain id in the context entries, with the flushes of both."""
        host, new = self.host, self.host.domain_of(rid)
        for wire in host.wires(rid):
            where, old = host.context[wire], self._domain(wire)
            low, high = self.words(where, 2)
            if old == new or not low & 1:
                continue
            steps: list[Step] = [Write(where, (low & ~1,)), Barrier()]
            steps += flushes(self._drop(wire, old.did, None))
            steps += flushes([Command(Op.IOTLB_DOMAIN, did=old.did)])
            if host.ats:
                steps += flushes(host.device_tlb(wire, None))
            steps += [
                Write(where + 8, (high & ~0xFFFF00 | new.did << 8,)),
                Barrier(),
                Write(where, (low & ~POINTER | new.top,)),
                Barrier(),
            ]
            host.perform(wire, steps)
        return ""

    def table(self, owner: int) -> int:
        """Return the host-physical address of an owner's PASID table."""
        if owner not in self._table:
            with self.host.frames.purpose("guest PASID table"):
                self._table[owner] = self.host.frames.frame()
        return self._table[owner]

    def point(self, rid: int, owner: int) -> None:
        """Run the bind of 2018 on the context entries."""
        host = self.host
        self.attach(rid)
        domain, table = host.domain_of(rid), self.table(owner)
        host.map_in(domain, table + GUEST, table)
        for wire in host.wires(rid):
            where = host.context[wire]
            low = host.memory[where]
            host.perform(
                wire,
                programs.bind_guest_table(
                    where, low, wire.rid, domain.did, table + GUEST, self._pts
                ),
            )

    def unpoint(self, rid: int) -> None:
        """Clear PASIDE, NESTE and PRE, and give T the value that it has in host mode."""
        host = self.host
        for wire in host.wires(rid):
            where = host.context[wire]
            low = host.memory[where] & ~(PASIDE | NESTE | _PRE | _T) | int(host.ats) << 2
            host.perform(wire, [Write(where, (low,)), Barrier()])

    def pointed(self, rid: int) -> bool:
        """Whether PASIDE and NESTE are set."""
        return self.entry_words(rid)[0] & (PASIDE | NESTE) == PASIDE | NESTE

    def write(self, owner: int, domain: Domain, pasid: int, space: int) -> None:
        """Let the guest write an entry; its table and the process's are memory of its own."""
        host, table, number = self.host, self.table(owner), self.host.places.pasid(pasid)
        assert number is not None
        host.map_in(domain, table + GUEST, table)
        host.lend(domain, space)
        host.memory[table + 8 * number] = (host.first[space][0] + GUEST) | _SRE | 1

    def erase(self, owner: int) -> None:
        """Zero the entries in use."""
        if owner in self._table:
            for pasid in {p for p, _ in self.content(owner)}:
                number = self.host.places.pasid(pasid)
                self.host.memory[self._table[owner] + 8 * (number or 0)] = 0

    def content(self, owner: int) -> set[tuple[int, int]]:
        """Read an owner's table."""
        found = set()
        for pasid in self.host.places.pasids if owner in self._table else ():
            entry = self.host.memory[self._table[owner] + 8 * (self.host.places.pasid(pasid) or 0)]
            space = self.host.space_of_top((entry & POINTER) - GUEST)
            if entry & 1 and space is not None:
                found.add((pasid, space))
        return found

    def _drop(self, wire: Bdf, did: int, pasids: Pasids) -> list[Command]:
        found = [Command(Op.CONTEXT_DEVICE, did=did, sid=wire.rid)]
        return found + pasid_cache(did, self.host.numbers(pasids), every=pasids is None)

    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the context cache of the device and the PASID cache."""
        did = self.host.domain_of(rid).did
        return [(w, c) for w in self.host.wires(rid) for c in self._drop(w, did, pasids)]

    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the domain: entries with a second stage are dropped by it alone."""
        did = self.host.domain_of(rid).did
        return [(w, Command(Op.IOTLB_DOMAIN, did=did)) for w in self.host.wires(rid)]


class ScalableGuest(TableFormat):
    """Scalable mode: the host keeps a PASID table for each owner, with nested entries.

    What the call hands over is then a list of (PASID, first stage), which the host writes into a
    table of its own; that table is what members share.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._own: dict[Bdf, int] = {}
        self._directory: dict[int, int] = {}
        self._table: dict[int, int] = {}

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Give a requester id an empty PASID directory of its own."""
        host = self.host
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"PASID directory of {wire}"):
                self._own[wire] = frames.frame()
            with frames.purpose(f"context table of bus {wire.bus:02x}", 32):
                host.context[wire] = frames.scalable(
                    wire.rid, self._own[wire], dte=int(host.ats), present=int(present)
                )

    def attach(self, rid: int) -> str:
        """Do nothing: a nested PASID entry names its second stage itself."""
        return "scalable mode: each nested PASID entry names its domain when it is written"

    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the context entry."""
        return self.words(self.host.context[self.host.wires(rid)[0]], 4)

    def table(self, owner: int) -> int:
        """Return the address of an owner's PASID directory; its first table exists."""
        if owner not in self._directory:
            frames = self.host.frames
            with frames.purpose("PASID directory of a bound table"):
                self._directory[owner] = frames.frame()
            with frames.purpose("bound PASID table", 64):
                self._table[owner] = frames.frame()
            self.host.memory[self._directory[owner]] = entries.directory(self._table[owner])
        return self._directory[owner]

    def _set_context(self, rid: int, directory: int | None, paside: int) -> None:
        for wire in self.host.wires(rid):
            where = self.host.context[wire]
            flags = self.host.memory[where] & ~POINTER & ~_SCALABLE_PASIDE
            low = flags | (self._own[wire] if directory is None else directory) | paside
            steps: list[Step] = [Write(where, (low,)), Barrier()]
            if paside:  # a teardown flushes in steps of its own
                steps += flushes([Command(Op.CONTEXT_DEVICE, sid=wire.rid)])
            self.host.perform(wire, steps)

    def point(self, rid: int, owner: int) -> None:
        """Point the context entries to the owner's directory, with PASIDE; flush them."""
        self._set_context(rid, self.table(owner), _SCALABLE_PASIDE)

    def unpoint(self, rid: int) -> None:
        """Point the context entries back to a directory of their own, without PASIDE."""
        self._set_context(rid, None, 0)

    def pointed(self, rid: int) -> bool:
        """Whether PASIDE is set."""
        return bool(self.entry_words(rid)[0] & _SCALABLE_PASIDE)

    def write(self, owner: int, domain: Domain, pasid: int, space: int) -> None:
        """Write a nested entry for the guest."""
        host, number = self.host, self.host.places.pasid(pasid)
        assert number is not None
        self.table(owner)
        host.lend(domain, space)
        words = entries.pasid(
            3,
            domain.did,
            second=domain.top,
            aw=AW,
            first=host.first[space][0] + GUEST,
            sre=1,
            pwsnp=1,
        )
        unit = next(iter(host.units.values()))  # what is written is memory: any unit's driver
        unit.perform(programs.set_pasid(self._table[owner] + 64 * number, words))

    def erase(self, owner: int) -> None:
        """Zero the entries in use."""
        for pasid in {p for p, _ in self.content(owner)}:
            where = self._table[owner] + 64 * (self.host.places.pasid(pasid) or 0)
            for n in range(3):
                self.host.memory[where + 8 * n] = 0

    def content(self, owner: int) -> set[tuple[int, int]]:
        """Read an owner's table."""
        found = set()
        for pasid in self.host.places.pasids if owner in self._table else ():
            where = self._table[owner] + 64 * (self.host.places.pasid(pasid) or 0)
            low, _, first = self.words(where, 3)
            space = self.host.space_of_top((first & POINTER) - GUEST)
            if low & 1 and space is not None:
                found.add((pasid, space))
        return found

    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the context cache of the device and the PASID cache."""
        did, found = self.host.domain_of(rid).did, []
        numbers = self.host.numbers(pasids)
        for wire in self.host.wires(rid):
            found.append((wire, Command(Op.CONTEXT_DEVICE, sid=wire.rid)))
            found += [(wire, c) for c in pasid_cache(did, numbers, every=pasids is None)]
        return found

    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the domain: nested entries are dropped by it (VT-d 6.5.3.3)."""
        did = self.host.domain_of(rid).did
        return [(w, Command(Op.IOTLB_DOMAIN, did=did)) for w in self.host.wires(rid)]


def pasid_cache(did: int, numbers: list[int | None], *, every: bool) -> list[Command]:
    """Return the commands that empty the PASID cache of a domain, or of some PASIDs in it."""
    if every:
        return [Command(Op.PASID_CACHE_DOMAIN, did=did)]
    return [Command(Op.PASID_CACHE_PASID, did=did, pasid=n) for n in numbers if n is not None]
