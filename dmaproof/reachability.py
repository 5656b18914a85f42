"""Why one function acts as another, what would cut it, or what stops it.

The leak channels themselves are `model.pcie.channels`; this module asks them about one pair and
puts the answer in words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dmaproof.engine.assumptions import ASSUMPTIONS, Assumptions
from dmaproof.model.errors import InputError
from dmaproof.model.pcie import ranges
from dmaproof.model.pcie.acs import acs_quirk
from dmaproof.model.pcie.channels import Channel, Cut, Edge, Fabric, holds
from dmaproof.model.pcie.cuts import implemented, kernel_setting, smallest_cuts
from dmaproof.model.pcie.device import ACS_BITS, Bdf, Device
from dmaproof.model.pcie.groups import bridge_alias
from dmaproof.model.pcie.routing import MachineAcs, Rung, ladder, opens, way_up
from dmaproof.model.pcie.side_channels import side_edges, translated
from dmaproof.model.pcie.topology import Machine


@dataclass(frozen=True)
class Switching:
    """ACS bits to switch at one port.

    Attributes:
        port: the port or function.
        bits: letters of those to switch on, in the order of the register.
        off: letters of those to switch off.
        able: whether the hardware implements them; if not, other hardware is needed.

    """

    port: Device
    bits: tuple[str, ...]
    off: tuple[str, ...]
    able: bool


@dataclass(frozen=True)
class Remedy:
    """ACS bits that together cut every way; no smaller set does.

    Attributes:
        switchings: the bits, port by port.
        kernel: the kernel parameter that switches them at boot, None where there is none.

    """

    switchings: tuple[Switching, ...]
    kernel: str | None


@dataclass(frozen=True)
class Answer:
    """Whether `source` acts as `target`, and why.

    Attributes:
        source: the function that sends.
        target: the function whose requester id would be used.
        acts: whether it does.
        chain: shortest chain of leak edges; empty without one and for source = target.
        also: further channels that lead straight from source to target.
        beside: edges that make no function act as another: misrouting (L2), translated requests
            (L5), an unprotected target (L9), shared control (L10).
        rests_on: assumptions the chain needs, with the value it needs.
        remedies: the smallest sets of ACS bits that cut every way; empty: ACS alone cannot.
        all_remedies: whether these are all sets of that size.
        uncut: why ACS alone cannot ("" when it can).
        stops: what stops each channel, one sentence each (only when not `acts`).
        opened_by: assumptions whose permissive values would open a way (only when not `acts`).

    """

    source: Bdf
    target: Bdf
    acts: bool
    chain: tuple[Edge, ...] = ()
    also: tuple[Edge, ...] = ()
    beside: tuple[Edge, ...] = ()
    rests_on: tuple[tuple[str, str], ...] = ()
    remedies: tuple[Remedy, ...] = ()
    all_remedies: bool = True
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
    beside = _beside(fabric, first, second, assumptions)
    if not chain:
        stops = tuple(_Stops(machine, fabric, assume, first, second).sentences())
        return Answer(
            first, second, False, beside=beside, stops=stops,
            opened_by=_opened_by(fabric, assumptions, first, second),
        )
    also = tuple(
        edge for edge in fabric.edges_between(first, second)
        if holds(edge.requires, assume)
        and edge.channel is not Channel.MISROUTE and edge.channel not in {e.channel for e in chain}
        and (edge.channel is not Channel.PEER_TO_PEER or assume["deputy"])
    )
    found = smallest_cuts(machine, first, second, assume)
    remedies = tuple(remedy(machine, cuts) for cuts in found.sets)
    return Answer(
        first, second, True, chain, also, beside, _rests_on(chain), remedies, found.complete,
        found.uncut,
    )


def _beside(
    fabric: Fabric, source: Bdf, target: Bdf, assumptions: Assumptions
) -> tuple[Edge, ...]:
    assume = assumptions.fabric() | {"ats_honest": assumptions.effective("ats_honest")}
    misrouted = [e for e in fabric.edges_between(source, target) if e.channel is Channel.MISROUTE]
    raw = translated(fabric, source)
    edges = (*misrouted, *side_edges(fabric, source, target), *([raw] if raw else []))
    first: dict[Channel, Edge] = {}
    for edge in edges:
        if holds(edge.requires, assume):
            first.setdefault(edge.channel, edge)
    return tuple(first.values())


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


def remedy(machine: Machine, cuts: tuple[Cut, ...]) -> Remedy:
    """Return a set of bits port by port, with the kernel parameter that switches them."""
    ports: dict[Bdf, list[Cut]] = {}
    for cut in cuts:
        ports.setdefault(cut.port, []).append(cut)
    switchings = tuple(
        Switching(
            machine.device(port),
            tuple(bit for bit in ACS_BITS if Cut(port, bit) in ports[port]),
            tuple(bit for bit in ACS_BITS if Cut(port, bit, on=False) in ports[port]),
            all(implemented(machine, cut) for cut in ports[port]),
        )
        for port in sorted(ports)
    )
    return Remedy(switchings, kernel_setting(machine, cuts))


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
            edge for edge in self.fabric.edges_between(self.source, self.target)
            if edge.channel is Channel.SPOOF
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
        reach = self.fabric.reach(self.assume)
        helped = ranges.members(reach.influences(reach.number[self.source]))
        deputies = [reach.nodes[other] for other in helped if reach.nodes[other] != self.source]
        if deputies:
            some = ", ".join(map(self._say, deputies[:4])) + (" ..." if len(deputies) > 4 else "")
            yield (
                f"deputies: {self._say(self.source)} can make {some} work for it, and none of"
                f" these sends under a requester id of {self._say(self.target)}"
            )


def literals(requires: frozenset[tuple[str, bool]]) -> str:
    """Return assumption literals as they are written on the command line."""
    return ", ".join(f"{name}={'on' if value else 'off'}" for name, value in sorted(requires))
