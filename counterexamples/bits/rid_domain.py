"""type1 on the bits: requests without PASID, through the second stage of the container's domain."""

from __future__ import annotations

from dmaproof.counterexamples.bits.host import (
    AW,
    POINTER,
    Domain,
    Host,
    Pasids,
    RidFormat,
    flushes,
)
from dmaproof.model.pcie.device import Bdf
from dmaproof.model.vtd import entries, programs
from dmaproof.model.vtd.invalidation import Command, Op
from dmaproof.model.vtd.programs import Barrier, Step, Write


class Legacy(RidFormat):
    """Legacy mode: the context entry names the second stage (VT-d 9.3)."""

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Point the context entries of a requester id to its group's own domain."""
        host, domain = self.host, self.host.group(rid)
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"context table of bus {wire.bus:02x}", 16):
                host.context[wire] = frames.legacy(
                    wire.rid, domain.top, AW, domain.did, tt=int(host.ats), present=int(present)
                )

    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the context entry."""
        return self.words(self.host.context[self.host.wires(rid)[0]], 2)

    def _domain(self, wire: Bdf) -> Domain | None:
        low, high = self.words(self.host.context[wire], 2)
        return Domain(high >> 8 & 0xFFFF, low & POINTER) if low & 1 else None

    def attach(self, rid: int, domain: Domain) -> None:
        """Take the old domain out of the context entries, with its flushes; put the new one in."""
        host = self.host
        for wire in host.wires(rid):
            old, where = self._domain(wire), host.context[wire]
            if old == domain:
                continue
            steps: list[Step] = []
            if old is not None:
                steps += programs.clear_domain(where, wire.rid, old.did, ats=host.ats)
            steps += programs.set_domain(where, domain.top, AW, domain.did, tt=int(host.ats))
            host.perform(wire, steps)

    def detach(self, rid: int) -> None:
        """Clear the context entries."""
        for wire in self.host.wires(rid):
            where = self.host.context[wire]
            self.host.perform(wire, [Write(where, (0,)), Write(where + 8, (0,)), Barrier()])

    def attached(self, rid: int) -> Domain | None:
        """Return the domain that the context entry names."""
        return self._domain(self.host.wires(rid)[0])

    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the context cache of the device, under the domain it had."""
        did = self.host.domain_of(rid).did
        return [(w, Command(Op.CONTEXT_DEVICE, did=did, sid=w.rid)) for w in self.host.wires(rid)]

    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the domain."""
        did = self.host.domain_of(rid).did
        return [(w, Command(Op.IOTLB_DOMAIN, did=did)) for w in self.host.wires(rid)]


class ScalableRid(RidFormat):
    """Scalable mode: the PASID entry of RID_PASID names the second stage (VT-d 9.6)."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._entry: dict[Bdf, int] = {}

    def boot(self, rid: int, wires: tuple[Bdf, ...], *, present: bool) -> None:
        """Give a requester id a PASID directory whose RID_PASID entry is its group's domain."""
        host, domain = self.host, self.host.group(rid)
        for wire in wires:
            frames = host.at_root(wire)
            with frames.purpose(f"PASID directory of {wire}"):
                directory = frames.frame()
            with frames.purpose(f"context table of bus {wire.bus:02x}", 32):
                context = frames.scalable(
                    wire.rid, directory, dte=int(host.ats), present=int(present)
                )
            host.context[wire] = context
            with frames.purpose(f"PASID table of {wire}", 64):
                self._entry[wire] = frames.pasid(
                    context, 0, 2, domain.did, second=domain.top, aw=AW
                )

    def entry_words(self, rid: int) -> tuple[int, ...]:
        """Return the PASID entry of requests without PASID."""
        return self.words(self._entry[self.host.wires(rid)[0]], 8)

    def _domain(self, wire: Bdf) -> Domain | None:
        words = self.words(self._entry[wire], 2)
        return Domain(words[1] & 0xFFFF, words[0] & POINTER) if words[0] & 1 else None

    def attach(self, rid: int, domain: Domain) -> None:
        """Tear the old PASID entry down and set the new one up."""
        host = self.host
        new = entries.pasid(2, domain.did, second=domain.top, aw=AW)
        for wire in host.wires(rid):
            where, old = self._entry[wire], self.words(self._entry[wire], 8)
            if self._domain(wire) == domain:
                continue
            steps: list[Step] = []
            if old[0] & 1:
                steps += programs.clear_pasid(where, old, wire.rid, 0)
                if host.ats:
                    steps += flushes([c for _, c in self.device(rid, None)])
            host.perform(wire, [*steps, *programs.set_pasid(where, new)])

    def detach(self, rid: int) -> None:
        """Clear Present in the PASID entry."""
        for wire in self.host.wires(rid):
            where = self._entry[wire]
            low = self.host.memory[where]
            self.host.perform(wire, [Write(where, (low & ~1,)), Barrier()])

    def attached(self, rid: int) -> Domain | None:
        """Return the domain that the PASID entry names."""
        return self._domain(self.host.wires(rid)[0])

    def inner(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the PASID cache of RID_PASID in the domain it had."""
        command = Command(Op.PASID_CACHE_PASID, did=self.host.domain_of(rid).did, pasid=0)
        return [(w, command) for w in self.host.wires(rid)]

    def iotlb(self, rid: int, pasids: Pasids) -> list[tuple[Bdf, Command]]:
        """Flush the domain."""
        did = self.host.domain_of(rid).did
        return [(w, Command(Op.IOTLB_DOMAIN, did=did)) for w in self.host.wires(rid)]
