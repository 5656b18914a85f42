"""The smallest sets of ACS bits that keep one function from acting as another."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.acs import acs_quirk
from dmaproof.model.pcie.channels import Cut, Edge, Fabric
from dmaproof.model.pcie.device import ACS_BITS, Acs, Bdf, Device
from dmaproof.model.pcie.quirks import acs_control_offset
from dmaproof.model.pcie.topology import Machine

FULL = sum(ACS_BITS[bit] for bit in ("SV", "TB", "RR", "CR", "UF", "DT"))
"""What a port gets that would need an ACS capability to be cut at."""

MAX_TRIES = 400
MAX_SETS = 8

Assume = Mapping[str, bool]
Cuts = frozenset[Cut]


@dataclass(frozen=True)
class Found:
    """What a search for cuts found.

    Attributes:
        sets: the smallest sets, all of one size, in address order; empty: ACS cannot.
        able: whether the hardware implements every bit of them.
        complete: whether every smaller and equal set was tried; if not, there may be others.
        uncut: why ACS cannot ("" when it can).

    """

    sets: tuple[tuple[Cut, ...], ...]
    able: bool
    complete: bool
    uncut: str = ""


def implemented(machine: Machine, cut: Cut) -> bool:
    """Whether the hardware has the bit, so that software can switch it."""
    acs = machine.device(cut.port).acs
    return acs is not None and bool(acs.capability & ACS_BITS[cut.bits])


def possible(machine: Machine, cut: Cut) -> bool:
    """Whether the bit would count: a known device is believed whatever its registers say."""
    return acs_quirk(machine, machine.device(cut.port)) is None


def switched(machine: Machine, cuts: Iterable[Cut]) -> Machine:
    """Return *machine* with the bits set as *cuts* say; where there is no ACS, one that can."""
    chosen: dict[Bdf, list[Cut]] = {}
    for cut in cuts:
        chosen.setdefault(cut.port, []).append(cut)
    return Machine(
        machine.name, [_switched(device, chosen.get(device.bdf, [])) for device in machine.devices]
    )


def _switched(device: Device, cuts: list[Cut]) -> Device:
    if not cuts:
        return device
    acs = device.acs or Acs(FULL, 0)
    on = sum(ACS_BITS[bit] for bit in {cut.bits for cut in cuts if cut.on})
    off = sum(ACS_BITS[bit] for bit in {cut.bits for cut in cuts if not cut.on})
    control = (acs.control | on) & ~off
    return replace(device, acs=replace(acs, capability=acs.capability | on, control=control))


@dataclass
class _Search:
    """Best first over sets of bits: a set that leaves a way is tried with each cut of that way.

    Whatever cuts all ways cuts an edge of any one of them, so no smallest set is missed.
    """

    machine: Machine
    ends: tuple[Bdf, Bdf]
    assume: Assume
    able_only: bool

    @cached_property
    def _part(self) -> Machine:
        """The functions that a way can lead through; switching bits opens no others."""
        reach = Fabric(self.machine).reach(self.assume)
        inside = ranges.members(reach.influences(reach.number[self.ends[0]]))
        return self.machine.restrict([*(reach.nodes[place] for place in inside), self.ends[1]])

    def run(self) -> Found:
        """Return the smallest sets."""
        sets: list[tuple[Cut, ...]] = []
        waiting: list[tuple[int, tuple[Cut, ...]]] = [(0, ())]
        seen: set[Cuts] = {frozenset()}
        uncut, tries = "", 0
        while waiting and len(sets) < MAX_SETS:
            size, bits = heapq.heappop(waiting)
            if sets and size > len(sets[0]):
                break
            tries += 1
            if tries > MAX_TRIES:
                return Found(tuple(sorted(sets)), self.able_only, False, uncut)
            chain = Fabric(switched(self._part, bits)).witness(*self.ends, self.assume)
            if not chain:
                sets.append(bits)
                continue
            uncut = uncut or chain[0].reason
            for more in self._next(chain, frozenset(bits)):
                if more not in seen:
                    seen.add(more)
                    heapq.heappush(waiting, (len(more), tuple(sorted(more))))
        return Found(tuple(sorted(sets)), self.able_only, True, "" if sets else uncut)

    def _next(self, chain: list[Edge], bits: Cuts) -> Iterable[Cuts]:
        for edge in chain:
            for way in edge.ways_to_cut:
                fresh = frozenset(way) - bits
                if fresh and all(self._usable(cut) for cut in fresh):
                    yield bits | fresh

    def _usable(self, cut: Cut) -> bool:
        if self.able_only and not implemented(self.machine, cut):
            return False
        return possible(self.machine, cut)


def smallest_cuts(machine: Machine, source: Bdf, target: Bdf, assume: Assume) -> Found:
    """Return the smallest sets of ACS bits after which *source* no longer acts as *target*.

    Sets of bits that the hardware implements come before smaller ones that it does not.
    """
    for able_only in (True, False):
        found = _Search(machine, (source, target), assume, able_only).run()
        if found.sets:
            return found
    return found


def kernel_setting(machine: Machine, cuts: Iterable[Cut]) -> str | None:
    """Return the kernel parameter that switches *cuts* at boot, None where there is none.

    Every bit that the port implements is named, since the kernel puts those that are not back to
    what the firmware left (drivers/pci/pci.c __pci_config_acs, Linux 6.15 and later).
    """
    chosen: dict[Bdf, list[Cut]] = {}
    for cut in cuts:
        chosen.setdefault(cut.port, []).append(cut)
    parts = []
    for port in sorted(chosen):
        device = machine.device(port)
        by_quirk = acs_control_offset(device.vendor, device.device, device.kind) != 6
        if by_quirk or not all(implemented(machine, cut) for cut in chosen[port]):
            return None
        acs = _switched(device, chosen[port]).acs
        assert acs is not None
        bits = "".join(
            str(int(bool(acs.control & bit))) if acs.capability & bit else "x"
            for bit in sorted(ACS_BITS.values(), reverse=True)
        )
        parts.append(f"{bits}@{port}")
    return f"pci=config_acs={';'.join(parts)}" if parts else None
