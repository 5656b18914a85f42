"""Process binds on the bits: PASID tables of the host, first stages of processes."""

from __future__ import annotations

from dmaproof.counterexamples.bits.guest_table import pasid_cache
from dmaproof.counterexamples.bits.host import (
    AW,
    POINTER,
    Host,
    Pasids,
    ProcessFormat,
    flushes,
)
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd.extended import PASIDE
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Write

FIRST_STAGE_DOMAIN = 1
"""Domain id of every first-stage entry (drivers/iommu/intel/pasid.h FLPT_DEFAULT_DID)."""

_SHARED = -1


class ScalableProcess(ProcessFormat):
    """Scalable mode: a PASID directory for each requester id, or one for the whole unit.

    Args:
        host: what lies below.
        shared: one table serves every requester id.

    Attributes:
        size: of a PASID entry, in bytes.
        pointer: where in the context entry the table's address is.
    """

    size, pointer = 64, 0

    def __init__(self, host: Host, *, shared: bool) -> None:
        super().__init__(host)
        self._shared = shared
        self._table: dict[int, int] = {}
        self._directory: dict[int, int] = {}

    def _key(self, rid: int) -> int:
        return _SHARED if self._shared else rid

    def _whose(self, rid: int) -> str:
        return "every function" if self._shared else str(self.host.wires(rid)[0])

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Give a requester id an empty PASID table."""
        host = self.host
        directory = self._make(rid)
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"context table of bus {wire.bus:02x}", 32):
                host.context[wire] = frames.scalable(
                    wire.rid, directory, dte=int(host.ats), paside=1, present=int(present)
                )

    def _make(self, rid: int) -> int:
        """Return the address of a directory, made at need."""
        key, frames = self._key(rid), self.host.frames
        if key not in self._table:
            with frames.purpose(f"PASID directory of {self._whose(rid)}"):
                directory = frames.frame()
            with frames.purpose(f"PASID table of {self._whose(rid)}", self.size):
                self._table[key] = frames.frame()
            self.host.memory[directory] = entries.directory(self._table[key])
            self._directory[key] = directory
        return self._directory[key]

    def where(self, rid: int, pasid: int) -> int:
        """Return the address of a PASID entry."""
        number = self.host.places.pasid(pasid) or 0
        return self._table[self._key(rid)] + self.size * number

    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the first words of all PASID entries."""
        return tuple(self.host.memory[self.where(rid, p)] for p in self.host.places.pasids)

    def _claim(self, rid: int) -> None:
        """Let all ids of a function use its table: aliases may have used another's."""
        base = self._make(rid)
        for wire in self.host.wires(rid):
            where = self.host.context[wire] + self.pointer
            word = self.host.memory[where]
            if word & POINTER != base:
                flush = Command(Op.CONTEXT_DEVICE, did=self.did(rid), sid=wire.rid)
                self.host.perform(
                    wire, [Write(where, (word & ~POINTER | base,)), Barrier(), *flushes([flush])]
                )

    def enter(self, rid: int, pasid: int, space: int) -> None:
        """Write a first-stage entry, Present last."""
        self._claim(rid)
        words = entries.pasid(
            1, FIRST_STAGE_DOMAIN, first=self.host.first[space][0], sre=1, pwsnp=1
        )
        self._perform(rid, programs.set_pasid(self.where(rid, pasid), words))

    def clear(self, rid: int, pasid: int, space: int | None) -> None:
        """Clear Present; what is left is written over by the next bind."""
        if space is not None and (pasid, space) not in self.entries(rid):
            return
        where = self.where(rid, pasid)
        low = self.host.memory[where]
        self._perform(rid, [Write(where, (low & ~1,)), Barrier()])

    def _perform(self, rid: int, steps: list[programs.Step]) -> None:
        self.host.perform(self.host.wires(rid)[0], steps)

    def space_in(self, where: int) -> int | None:
        """Return the space a PASID entry leads to."""
        low, _, first = self.words(where, 3)
        return self.host.space_of_top(first & POINTER) if low & 1 else None

    def entries(self, rid: int) -> set[tuple[int, int]]:
        """Read a table."""
        found = set()
        for pasid in self.host.places.pasids:
            space = self.space_in(self.where(rid, pasid))
            if space is not None:
                found.add((pasid, space))
        return found

    def did(self, rid: int) -> int:
        """Return the domain id under which first-stage translations are cached."""
        return FIRST_STAGE_DOMAIN

    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the PASID cache; the context entry does not change."""
        commands = pasid_cache(self.did(rid), self.host.numbers(pasids), every=pasids is None)
        return [(w, c) for w in self.host.wires(rid) for c in commands]

    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the PASIDs in their domain, or the whole domain."""
        did = self.did(rid)
        commands = [Command(Op.IOTLB_DOMAIN, did=did)]
        if pasids is not None:
            commands = [
                Command(Op.PASID_IOTLB_PASID, did=did, pasid=n)
                for n in self.host.numbers(pasids)
                if n is not None
            ]
        return [(w, c) for w in self.host.wires(rid) for c in commands]


class ExtendedProcess(ScalableProcess):
    """Extended mode of rev 2.x: a one-level PASID table at a host-physical address."""

    size, pointer = 8, 16

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Host mode in the group's own domain, with an empty PASID table."""
        host, domain = self.host, self.host.group(rid)
        table = self._make(rid)
        pts = max(0, max(host.places.pasids).bit_length() - 5)
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"extended context table of bus {wire.bus:02x}", 32):
                host.context[wire] = frames.extended(
                    wire.rid,
                    domain.top,
                    AW,
                    domain.did,
                    t=int(host.ats),
                    paside=1,
                    pasid_table=table,
                    pts=pts,
                    present=int(present),
                )
            assert host.memory[host.context[wire]] & PASIDE

    def _make(self, rid: int) -> int:
        key = self._key(rid)
        if key not in self._table:
            with self.host.frames.purpose(f"PASID table of {self._whose(rid)}"):
                self._table[key] = self.host.frames.frame()
        return self._table[key]

    def enter(self, rid: int, pasid: int, space: int) -> None:
        """Write an entry that names the first stage."""
        self._claim(rid)
        entry = int(entries.extended_pasid(self.host.first[space][0], sre=1))
        self._perform(rid, [Write(self.where(rid, pasid), (entry,)), Barrier()])

    def space_in(self, where: int) -> int | None:
        """Return the space a PASID entry leads to."""
        entry = self.host.memory[where]
        return self.host.space_of_top(entry & POINTER) if entry & 1 else None

    def did(self, rid: int) -> int:
        """Return the domain id of the context entry."""
        return self.host.group(rid).did
