"""Why one function acts as another, what would cut it, or what stops it.

The leak channels themselves are `model.pcie.channels`; this module asks them about one pair and
puts the answer in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dmaproof.engine.assumptions import ASSUMPTIONS, Assumptions
from dmaproof.model.errors import InputError
from dmaproof.model.pcie.acs import acs_quirk
from dmaproof.model.pcie.channels import Channel, Edge, Fabric, holds
from dmaproof.model.pcie.device import ACS_BITS, Acs, Bdf, Device
from dmaproof.model.pcie.groups import bridge_alias
from dmaproof.model.pcie.routing import MachineAcs, Rung, ladder, opens, way_up
from dmaproof.model.pcie.topology import Machine

_FULL = sum(ACS_BITS[letters] for letters in ("SV", "TB", "RR", "CR", "UF", "DT"))
_MAX_CUTS = 256


@dataclass(frozen=True)
class Switching:
    """ACS bits to switch on at one port.

    Attributes:
        port: the port or function.
        bits: their letters, in the order of the register.
        able: whether the hardware implements them; if not, other hardware is needed.

    """

    port: Device
    bits: tuple[str, ...]
    able: bool


@dataclass(frozen=True)
class Answer:
    """Whether `source` acts as `target`, and why.

    Attributes:
        source: the function that sends.
        target: the function whose requester id would be used.
        acts: whether it does.
        chain: shortest chain of leak edges; empty without one and for source = target.
        also: further channels that lead straight from source to target.
        rests_on: assumptions the chain needs, with the value it needs.
        cut: ACS bits that together cut every way; None: ACS alone cannot.
        uncut: why ACS alone cannot ("" when it can).
        stops: what stops each channel, one sentence each (only when not `acts`).
        opened_by: assumptions whose permissive values would open a way (only when not `acts`).

    """

    source: Bdf
    target: Bdf
    acts: bool
    chain: tuple[Edge, ...] = ()
    also: tuple[Edge, ...] = ()
    rests_on: tuple[tuple[str, str], ...] = ()
    cut: tuple[Switching, ...] | None = ()
    uncut: str = ""
    stops: tuple[str, ...] = ()
    opened_by: tuple[tuple[str, str], ...] = ()


def ask(machine: Machine, source: str, target: str, assumptions: Assumptions) -> Answer:
    """Answer for two functions given by address or label.

    Raises:
        InputError: no such function, or a port or bridge, which sends no requests of its own.

    """
    first, second = (_requester(machine, name) for name in (source, target))
    if first == second:
        return Answer(first, second, True)
    fabric = Fabric(machine)
    assume = assumptions.fabric()
    chain = tuple(fabric.witness(first, second, assume))
    if not chain:
        stops = tuple(_Stops(machine, fabric, assume, first, second).sentences())
        return Answer(
            first, second, False, stops=stops,
            opened_by=_opened_by(fabric, assumptions, first, second),
        )
    cut, uncut = _cut(machine, first, second, assume)
    also = tuple(
        edge for edge in fabric.edges(assume)
        if (edge.source, edge.target) == (first, second)
        and edge.channel is not Channel.MISROUTE and edge.channel not in {e.channel for e in chain}
        and (edge.channel is not Channel.PEER_TO_PEER or assume["deputy"])
    )
    return Answer(first, second, True, chain, also, _rests_on(chain), cut, uncut)


def _requester(machine: Machine, name: str) -> Bdf:
    device = machine.by_label(name)
    if device.is_requester:
        return device.bdf
    kind = device.kind if device.is_bridge else "host bridge"
    raise InputError(
        f"{device} sends no requests of its own ({kind})",
        machine.name,
        "the address of the port above the function was given",
        f"`dmaproof machine show '{machine.name}'` prints the functions below it",
    )


def _rests_on(chain: tuple[Edge, ...]) -> tuple[tuple[str, str], ...]:
    needed = {name: value for edge in chain for name, value in edge.requires}
    if any(edge.channel is Channel.PEER_TO_PEER for edge in chain):
        needed["deputy"] = True
    return tuple((n, "on" if needed[n] else "off") for n in ASSUMPTIONS if n in needed)


def _opened_by(
    fabric: Fabric, assumptions: Assumptions, source: Bdf, target: Bdf
) -> tuple[tuple[str, str], ...]:
    """Return the one assumption, else all, whose permissive value opens a way."""
    strict = [name for name in assumptions.restrictive() if name in assumptions.fabric()]
    values = {n: "on" if ASSUMPTIONS[n].permissive else "off" for n in strict}
    for name in strict:
        if fabric.witness(source, target, assumptions.permitting(name).fabric()):
            return ((name, values[name]),)
    for name in strict:
        assumptions = assumptions.permitting(name)
    if fabric.witness(source, target, assumptions.fabric()):
        return tuple(values.items())
    return ()


# -- what would cut it -------------------------------------------------------------------------


def _cut(
    machine: Machine, source: Bdf, target: Bdf, assume: dict[str, bool]
) -> tuple[tuple[Switching, ...] | None, str]:
    """Switch on bits along one way after the other until none is left."""
    chosen: dict[Bdf, set[str]] = {}
    changed = machine
    for _ in range(_MAX_CUTS):
        chain = Fabric(changed).witness(source, target, assume)
        if not chain:
            return tuple(_switching(machine, chosen)), ""
        edge = min(
            (e for e in chain if e.cuts), default=None,
            key=lambda e: (not all(_able(machine, c.port, c.bits) for c in e.cuts), len(e.cuts)),
        )
        fresh = [c for c in edge.cuts if c.bits not in chosen.get(c.port, ())] if edge else []
        if edge is None or not fresh:
            return None, chain[0].reason
        for cut in fresh:
            chosen.setdefault(cut.port, set()).add(cut.bits)
        changed = _with(machine, chosen)
    return None, "more ways than could be tried"


def _able(machine: Machine, port: Bdf, letters: str) -> bool:
    acs = machine.device(port).acs
    return acs is not None and bool(acs.capability & ACS_BITS[letters])


def _with(machine: Machine, chosen: dict[Bdf, set[str]]) -> Machine:
    """Return the machine with ACS bits on; a port without the capability gets a full one."""
    return Machine(machine.name, [_switch_on(d, chosen.get(d.bdf, set())) for d in machine.devices])


def _switch_on(device: Device, letters: set[str]) -> Device:
    if not letters:
        return device
    bits = sum(ACS_BITS[each] for each in letters)
    acs = device.acs or Acs(_FULL, 0)
    acs = replace(acs, capability=acs.capability | bits, control=acs.control | bits)
    return replace(device, acs=acs)


def _switching(machine: Machine, chosen: dict[Bdf, set[str]]) -> Iterator[Switching]:
    for port in sorted(chosen):
        bits = tuple(letters for letters in ACS_BITS if letters in chosen[port])
        able = all(_able(machine, port, letters) for letters in bits)
        yield Switching(machine.device(port), bits, able)


# -- what stops it -----------------------------------------------------------------------------


@dataclass
class _Stops:
    """One sentence for each channel that does not lead from `source` to `target`."""

    machine: Machine
    fabric: Fabric
    assume: dict[str, bool]
    source: Bdf
    target: Bdf

    def sentences(self) -> Iterator[str]:
        yield from self._peer_to_peer()
        yield from self._spoof()
        yield "alias: the two share no requester id"
        yield from self._deputies()

    def _say(self, bdf: Bdf) -> str:
        return str(self.machine.device(bdf))

    def _peer_to_peer(self) -> Iterator[str]:
        acs = MachineAcs(self.machine)
        goal = self._say(self.target)
        rungs = ladder(self.machine, self.source, self.target)
        if not rungs:
            yield f"peer-to-peer: no address of {goal} is decoded on the way up"
        for rung in rungs:
            requires = opens(acs, rung, self.target)
            if requires is None:
                yield (
                    f"peer-to-peer: no request for {goal} {rung.kind}:"
                    f" {rung.bit} {self._in_force(rung)} at {self._say(rung.at)}"
                )
            elif not holds(requires, self.assume):
                needs = literals(requires)
                yield f"peer-to-peer: a request for {goal} {rung.kind} only with {needs}"
            elif not self.assume["deputy"]:
                yield (
                    f"peer-to-peer: a request for {goal} {rung.kind}, but with deputy=off {goal}"
                    " does no work for whoever writes its BAR"
                )
                return

    def _in_force(self, rung: Rung) -> str:
        device = self.machine.device(rung.at)
        quirk = acs_quirk(self.machine, device)
        if quirk is not None:
            return f"counts as on by a quirk ({quirk.reason})"
        if device.acs is not None and not device.acs.capability & ACS_BITS[rung.bit]:
            return "counts as on, since the hardware does not implement it,"
        return "is on"

    def _spoof(self) -> Iterator[str]:
        own, goal = self._say(self.source), self._say(self.target)
        edges = [
            edge for edge in self.fabric.all_edges
            if (edge.channel, edge.source, edge.target)
            == (Channel.SPOOF, self.source, self.target)
        ]
        if edges:
            yield (
                f"spoof: {own} puts the requester id of {goal} into its requests only with"
                f" {literals(edges[0].requires)}"
            )
        elif self.source.domain != self.target.domain:
            yield "spoof: the two are in different PCI domains"
        else:
            yield from self._spoof_checks()

    def _spoof_checks(self) -> Iterator[str]:
        machine, goal = self.machine, self._say(self.target)
        up = [machine.device(port) for port in way_up(machine, self.source)]
        for port in up[1:]:
            if bridge_alias(machine, port) is not None:
                yield f"spoof: bridge {port} puts its own requester id into requests from below"
                return
        acs = MachineAcs(machine)
        linked = [port for port in up if port.kind.has_link_below]
        for port in linked:
            first, last = port.secondary or 0, port.subordinate or 0
            if acs.in_force(port.bdf, "SV", None) and not first <= self.target.bus <= last:
                yield (
                    f"spoof: SV is in force at {port}: bus {self.target.bus:02x} of {goal} is"
                    f" outside {first:02x}-{last:02x}"
                )
        if not linked:
            yield "spoof: an integrated function; the root complex puts the requester id in"

    def _deputies(self) -> Iterator[str]:
        helped = self.fabric.influence(self.assume).successors(self.source)
        deputies = [self._say(other) for other in helped if other != self.source]
        if deputies:
            some = ", ".join(deputies[:4]) + (" ..." if len(deputies) > 4 else "")
            yield (
                f"deputies: {self._say(self.source)} can make {some} work for it, and none of"
                f" these sends under a requester id of {self._say(self.target)}"
            )


def literals(requires: frozenset[tuple[str, bool]]) -> str:
    """Return assumption literals as they are written on the command line."""
    return ", ".join(f"{name}={'on' if value else 'off'}" for name, value in sorted(requires))
